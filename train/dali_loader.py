"""The stream through NVIDIA DALI: read by worker processes, augmented in one graph, CPU or GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import pipeline_def
from nvidia.dali.types import DALIDataType, DALIInterpType
from torch.utils.dlpack import from_dlpack

from common.errors import StoreError
from train.crew import Crew, board
from train.loader import Batch, Feed, batch_of
from train.stream import DaliSource, Stream
from train.workers import refuse_small_memory

QUEUE = 2
"""Batches that workers read ahead, and as many again that the graph computes ahead."""
CLOSING_SECONDS = 5.0
"""How long DALI may take to end its workers."""


@contextmanager
def dali_feed(stream: Stream, device: torch.device, workers: int) -> Iterator[Feed]:
    """As `train.loader.open_feed`."""
    refuse_small_memory(2 * QUEUE * stream.batch_size * stream.sample_bytes)
    with board() as desks:
        crew = Crew(desks, stream.store.path)
        pipeline = _pipeline(stream, device, workers, desks)
        with crew.starting():
            pipeline.start_py_workers()
        try:
            with crew.on_duty(pipeline._py_pool.pool._processes):
                yield Feed(_batches(pipeline, stream, device), crew)
        finally:
            _close(pipeline)


def _pipeline(stream: Stream, device: torch.device, workers: int, desks: Path) -> Any:  # noqa: ANN401 - DALI is untyped
    pipeline: Any = _graph(
        stream,
        desks,
        on_gpu=device.type == "cuda",
        batch_size=stream.batch_size,
        num_threads=workers,
        device_id=(device.index or 0) if device.type == "cuda" else None,
        py_num_workers=workers,
        py_start_method="spawn",  # zarrs hangs in a forked child
        prefetch_queue_depth=QUEUE,
    )
    return pipeline


def _close(pipeline: Any) -> None:  # noqa: ANN401 - as above
    """End the workers; DALI does when the pipeline is collected, which an error's traceback delays.

    A process that was killed may have held a lock of DALI's queues; nobody waits for that.
    """
    pool = pipeline._py_pool
    closing = Thread(target=pool.close, daemon=True)
    closing.start()
    closing.join(CLOSING_SECONDS)
    if closing.is_alive():
        pool.pool._observer = None  # or it would be waited for at exit


@pipeline_def(enable_conditionals=True)
def _graph(stream: Stream, desks: Path, *, on_gpu: bool) -> tuple[Any, ...]:
    """Augmentation of one batch: zoom, flips, noise, blur, brightness."""
    inputs: Any = fn.external_source(
        source=DaliSource(stream, desks),
        num_outputs=8,
        layout=["CDHW", "CDHW", "CDHW", "", "", "", "", ""],
        parallel=True,
        batch=False,
        prefetch_queue_depth=QUEUE,
        bytes_per_sample_hint=stream.sample_bytes,
    )
    image, label, noise, window, flips, chosen, amounts, error = inputs
    factors = amounts
    if on_gpu:
        image, label, noise, factors = image.gpu(), label.gpu(), noise.gpu(), amounts.gpu()
    # Nearly every 3-D operator refuses float16.
    image = fn.cast(image, dtype=DALIDataType.FLOAT)
    if chosen[0]:
        size, start, stop = stream.shape, window[:3], window[3:]
        image = fn.resize(
            image, size=size, roi_start=start, roi_end=stop, interp_type=DALIInterpType.INTERP_CUBIC
        )
        label = fn.resize(
            label, size=size, roi_start=start, roi_end=stop, interp_type=DALIInterpType.INTERP_NN
        )
    image = fn.flip(image, depthwise=flips[0], vertical=flips[1], horizontal=flips[2])
    label = fn.flip(label, depthwise=flips[0], vertical=flips[1], horizontal=flips[2])
    if chosen[1]:
        image = image + fn.cast(noise, dtype=DALIDataType.FLOAT) * factors[0]
    if chosen[2]:
        image = fn.gaussian_blur(image, sigma=amounts[1])
    if chosen[3]:
        image = image * factors[2]
    return fn.cast(image, dtype=DALIDataType.FLOAT16), label, error


def _batches(pipeline: Any, stream: Stream, device: torch.device) -> Iterator[Batch]:  # noqa: ANN401 - DALI is untyped
    for index in count():
        step = stream.step(index)
        # Outputs that are bound to torch's own queue are freed in its order as well.
        queue = torch.cuda.current_stream(device) if device.type == "cuda" else None
        images, labels, errors = pipeline.run(queue)
        for error in map(np.asarray, errors):
            if error.size:
                raise StoreError(bytes(error).decode())
        size = len(step.keys)
        image = from_dlpack(images.as_tensor())[:size]
        label = from_dlpack(labels.as_tensor())[:size, 0]
        yield batch_of(step, image, label)
