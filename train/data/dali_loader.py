"""The stream through NVIDIA DALI: read by worker processes, augmented in one graph, CPU or GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import pipeline_def
from nvidia.dali.types import DALIDataType, DALIInterpType
from torch.utils.dlpack import from_dlpack

from common.console import progress
from common.errors import StoreError
from train.data.cache import free_memory, take
from train.data.feed import Batch, Feed, batch_of
from train.data.source import CONTROLS, DaliSource, SampleInfo, WorkersPickle
from train.data.stream import Stream
from train.data.workers import WorkerMonitor, check_shared_memory, status_folder

QUEUE = 2
"""Batches that workers read ahead, and as many again that the graph computes ahead."""


@contextmanager
def dali_feed(
    stream: Stream, device: torch.device, workers: int, *, on_device: bool
) -> Iterator[Feed]:
    """As `train.data.loader.open_feed`; with `on_device`, from crops that are kept there."""
    carried = stream.noise_bytes if on_device else stream.sample_bytes
    check_shared_memory(2 * QUEUE * stream.batch_size * carried)
    stored = Stored(stream, device) if on_device else None
    with status_folder() as folder:
        monitor = WorkerMonitor(folder, stream.store.path)
        source = DaliSource(stream, folder, reads=stored is None)
        pipeline: Any = _graph(
            source,
            stored,
            carried,
            on_gpu=device.type == "cuda",
            batch_size=stream.batch_size,
            num_threads=workers,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            py_num_workers=workers,
            py_start_method="spawn",  # zarrs hangs in a forked child
            py_callback_pickler=WorkersPickle(folder),
            prefetch_queue_depth=QUEUE,
        )
        with monitor.starting():
            pipeline.start_py_workers()
        pool = pipeline._py_pool
        try:
            with monitor.watching(pool.pool._processes, pool.close, polls=False):
                yield Feed(_batches(pipeline, stream, device), monitor)
        finally:
            pool.pool._observer = None  # or one that did not come to an end is waited for at exit


class Stored:
    """All samples of a stream as they are stored, on a device; what DALI calls for them.

    Args:
        stream: the samples; they are read here and now.
        device: where they are kept.

    Raises:
        ConfigError: there is too little memory.
        StoreError: a case cannot be read.
    """

    def __init__(self, stream: Stream, device: torch.device) -> None:
        count, shape = stream.samples, stream.shape
        on_gpu = device.type == "cuda"
        free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory()
        take("device", count * stream.stored_bytes, free, "GPU memory" if on_gpu else "memory")
        self._stream = stream
        dtype = getattr(torch, stream.store.manifest.dtype)
        images = torch.empty((count, len(stream.modalities), *shape), dtype=dtype, device=device)
        labels = torch.empty((count, 1, *shape), dtype=torch.uint8, device=device)
        with progress("samples") as bar:
            for number, (image, label) in enumerate(
                bar.track(stream.every(), count, description="reading")
            ):
                images[number] = torch.from_numpy(image)
                labels[number, 0] = torch.from_numpy(label)
        if on_gpu:
            torch.cuda.synchronize(device)
        # DALI takes arrays of NumPy's on the CPU, and tensors on a GPU.
        self._images: Any = images if on_gpu else images.numpy()
        self._labels: Any = labels if on_gpu else labels.numpy()

    def __call__(self, info: SampleInfo) -> tuple[Any, Any]:
        """Image (M, *shape) and label (1, *shape) of a sample."""
        number = self._stream.number(info.iteration, info.idx_in_batch)
        return self._images[number], self._labels[number]


@pipeline_def(enable_conditionals=True)
def _graph(
    source: DaliSource, stored: Stored | None, carried: int, *, on_gpu: bool
) -> tuple[Any, ...]:
    """Augmentation of one batch: zoom, flips, noise, blur, brightness."""
    layouts = ["CDHW", "CDHW", ""] if stored is None else []
    inputs: Any = fn.external_source(
        source=source,
        num_outputs=len(layouts) + CONTROLS,
        layout=[*layouts, "CDHW", "", "", "", ""],
        parallel=True,
        batch=False,
        prefetch_queue_depth=QUEUE,
        bytes_per_sample_hint=carried,
    )
    noise, window, flips, chosen, amounts = inputs[-CONTROLS:]
    factors = amounts
    if on_gpu:
        noise, factors = noise.gpu(), amounts.gpu()
    errors: list[Any] = []
    if stored is None:
        image, label, *errors = inputs[:-CONTROLS]
        if on_gpu:
            image, label = image.gpu(), label.gpu()
    else:
        image, label = fn.external_source(
            source=stored,
            num_outputs=2,
            layout=["CDHW", "CDHW"],
            batch=False,
            device="gpu" if on_gpu else "cpu",
        )
    # Nearly every 3-D operator refuses float16.
    image = fn.cast(image, dtype=DALIDataType.FLOAT)
    if chosen[0]:
        size, start, stop = source.stream.shape, window[:3], window[3:]
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
    return fn.cast(image, dtype=DALIDataType.FLOAT16), label, *errors


def _batches(pipeline: Any, stream: Stream, device: torch.device) -> Iterator[Batch]:  # noqa: ANN401 - DALI is untyped
    for index in count():
        step = stream.step(index)
        # Outputs that are bound to torch's own queue are freed in its order as well.
        queue = torch.cuda.current_stream(device) if device.type == "cuda" else None
        images, labels, *errors = pipeline.run(queue)
        for error in map(np.asarray, chain.from_iterable(errors)):
            if error.size:
                raise StoreError(bytes(error).decode())
        size = len(step.keys)
        image = from_dlpack(images.as_tensor())[:size]
        label = from_dlpack(labels.as_tensor())[:size, 0]
        yield batch_of(step, image, label)
