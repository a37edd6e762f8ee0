"""The same stream through PyTorch's own loader: where DALI cannot be installed, and to compare."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.errors import StoreError
from train.data.augmentation import Augmentation
from train.data.feed import Batch, Feed, batch_of
from train.data.stream import Sample, Stream
from train.data.workers import WorkerMonitor, check_shared_memory, set_up_worker, status_folder

QUEUE = 2  # batches that each worker keeps ready

Item = tuple[Tensor, Tensor, str]
"""Image (M, *shape) float16, label (*shape) uint8, and why it could not be read."""

Place = tuple[int, int]  # a batch of the stream, and a position in it


@contextmanager
def torch_feed(stream: Stream, device: torch.device, workers: int) -> Iterator[Feed]:
    """As `train.data.loader.open_feed`; without workers, samples are made between two steps."""
    if not workers:
        yield Feed(in_this_process(stream, device), WorkerMonitor(Path(), stream.store.path))
        return
    # Besides those that are ready, one is in use and one on its way.
    batches = QUEUE * workers + 2
    check_shared_memory(batches * stream.batch_size * (stream.stored_bytes + stream.drawn_bytes))
    with status_folder() as folder:
        monitor = WorkerMonitor(folder, stream.store.path)
        loader = DataLoader(
            AugmentedSamples(stream, folder),
            batch_sampler=_places(stream),
            num_workers=workers,
            collate_fn=_stacked,
            prefetch_factor=QUEUE,
            worker_init_fn=partial(_set_up, folder),
            multiprocessing_context="spawn",  # zarrs hangs in a forked child
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # nothing uses it; without it the global one moves on
        )
        with monitor.starting():
            items: Any = iter(loader)
        with monitor.watching(items._workers, items._shutdown_workers, polls=True):
            yield Feed(_batches(items, stream, device), monitor)


class AugmentedSamples(Dataset[Item]):
    """The stream's samples, augmented; a place beyond an epoch's end is never asked for."""

    def __init__(self, stream: Stream, status_folder: Path) -> None:
        self._stream, self._status_folder = stream, status_folder
        self._augmentations = stream.augment.in_order()

    def __getitem__(self, place: Place) -> Item:
        """The sample at a place."""
        with set_up_worker(self._status_folder).working_on(self._stream.name(*place)):
            sample = self._stream.sample(*place)
            return (*augmented(sample, self._augmentations), sample.error)


def augmented(sample: Sample, augmentations: tuple[Augmentation, ...]) -> tuple[Tensor, Tensor]:
    """A sample with its draws applied: image (M, *shape) float16, label (*shape) uint8."""
    image, label = torch.from_numpy(sample.image).float(), torch.from_numpy(sample.label)
    for augmentation, drawn in zip(augmentations, sample.draws, strict=True):
        if drawn is not None:
            image, label = augmentation.apply_torch(image, label, drawn)
    return image.half(), label


def in_this_process(stream: Stream, device: torch.device) -> Iterator[Batch]:
    """A stream's batches, without end, made as they are asked for.

    Raises:
        StoreError: a case cannot be read.
    """
    for index in count():
        planned = stream.step(index)
        samples = [stream.sample(index, position) for position in range(len(planned.keys))]
        if error := next((sample.error for sample in samples if sample.error), ""):
            raise StoreError(error)
        pairs = [augmented(sample, stream.augment.in_order()) for sample in samples]
        image, label = (torch.stack(parts).to(device) for parts in zip(*pairs, strict=True))
        yield batch_of(stream, planned, image, label)


def _places(stream: Stream) -> Iterator[list[Place]]:
    """The places of every batch, without end."""
    for index in count():
        yield [(index, position) for position in range(len(stream.step(index).keys))]


def _set_up(status_folder: Path, _: int) -> None:
    set_up_worker(status_folder)


def _stacked(items: list[Item]) -> Item:
    images, labels, errors = zip(*items, strict=True)
    return torch.stack(images), torch.stack(labels), "".join(errors)


def _batches(items: Iterator[Item], stream: Stream, device: torch.device) -> Iterator[Batch]:
    for index, (image, label, error) in enumerate(items):
        if error:
            raise StoreError(error)
        moved = [part.to(device, non_blocking=True) for part in (image, label)]
        yield batch_of(stream, stream.step(index), *moved)
