"""The stream through NVIDIA DALI: read by worker processes, augmented in one graph, CPU or GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import pipeline_def
from nvidia.dali.types import DALIDataType
from torch.utils.dlpack import from_dlpack

from common.console import progress
from common.errors import StoreError
from train.data.cache import check_memory, free_memory
from train.data.dali_source import DaliSource, SampleInfo, SourcePickler
from train.data.feed import Batch, Feed, batch_of
from train.data.stream import Stream
from train.data.workers import WorkerMonitor, check_shared_memory, status_folder

QUEUE = 2  # batches that workers read ahead, and as many again that the graph computes ahead


@contextmanager
def dali_feed(
    stream: Stream, device: torch.device, workers: int, *, on_device: bool
) -> Iterator[Feed]:
    """As `train.data.loader.open_feed`; with `on_device`, from crops that are kept there."""
    sample_bytes = stream.drawn_bytes + (0 if on_device else stream.stored_bytes)
    check_shared_memory(2 * QUEUE * stream.batch_size * sample_bytes)
    stored = StoredSamples(stream, device) if on_device else None
    with status_folder() as folder:
        monitor = WorkerMonitor(folder, stream.store.path)
        pipeline: Any = _graph(
            DaliSource(stream, folder, reads=stored is None),
            stored,
            sample_bytes,
            on_gpu=device.type == "cuda",
            batch_size=stream.batch_size,
            num_threads=workers,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            py_num_workers=workers,
            py_start_method="spawn",  # zarrs hangs in a forked child
            py_callback_pickler=SourcePickler(folder),
            prefetch_queue_depth=QUEUE,
        )
        with monitor.starting():
            pipeline.start_py_workers()
        pool = pipeline._py_pool
        try:
            with monitor.watching(pool.pool._processes, pool.close, polls=False):
                yield Feed(_batches(pipeline, stream, device), monitor)
        finally:
            pool.pool._observer = None  # otherwise Python waits at exit for one that did not end


class StoredSamples:
    """All samples of a stream on a device, as they are stored; what DALI calls for them.

    Raises:
        ConfigError: there is too little memory.
        StoreError: a case cannot be read.
    """

    def __init__(self, stream: Stream, device: torch.device) -> None:
        self._stream, on_gpu = stream, device.type == "cuda"
        needed = stream.samples * stream.stored_bytes
        free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_memory()
        check_memory("device", needed, free, "GPU memory" if on_gpu else "memory")
        image_type = getattr(torch, stream.store.manifest.dtype)
        images = torch.empty((stream.samples, *stream.image_shape), dtype=image_type, device=device)
        labels = torch.empty((stream.samples, 1, *stream.shape), dtype=torch.uint8, device=device)
        with progress("samples") as bar:
            samples = bar.track(stream.every(), stream.samples, description="reading")
            for number, (image, label) in enumerate(samples):
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
    source: DaliSource, stored: StoredSamples | None, sample_bytes: int, *, on_gpu: bool
) -> tuple[Any, ...]:
    """What is done to one batch: each augmentation runs for the samples it is drawn for."""
    augmentations = source.stream.augment.in_order()
    arrays = sum(len(augmentation.placeholder) for augmentation in augmentations)
    read = ["CDHW", "CDHW", ""] if source.reads else []
    inputs: Any = fn.external_source(
        source=source,
        num_outputs=len(read) + 1 + arrays,
        layout=[*read, *[""] * (1 + arrays)],
        parallel=True,
        batch=False,
        prefetch_queue_depth=QUEUE,
        bytes_per_sample_hint=sample_bytes,
    )
    errors: list[Any] = []
    if source.reads:
        image, label, *errors = inputs[: len(read)]
    else:
        image, label = fn.external_source(
            source=stored,
            num_outputs=2,
            layout=["CDHW", "CDHW"],
            batch=False,
            device="gpu" if on_gpu else "cpu",
        )
    chosen, *drawn = inputs[len(read) :]
    if on_gpu:
        image, label = image.gpu(), label.gpu()
    # Nearly every 3-D operator refuses float16.
    image = fn.cast(image, dtype=DALIDataType.FLOAT)
    for number, augmentation in enumerate(augmentations):
        own, drawn = drawn[: len(augmentation.placeholder)], drawn[len(augmentation.placeholder) :]
        if on_gpu:
            there = augmentation.on_device
            own = [array.gpu() if n in there else array for n, array in enumerate(own)]
        if chosen[number]:
            image, label = augmentation.apply_dali(image, label, own)
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
        yield batch_of(stream, step, image, label)
