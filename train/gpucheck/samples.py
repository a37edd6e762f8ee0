"""A stream's first batches, from either side of a comparison."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice

import torch

from train.cache import CacheKind
from train.loader import Batch, Stream, batch_of, open_feed
from train.torch_loader import augmented


def by_dali(
    stream: Stream, device: torch.device, batches: int, cache: CacheKind = "none"
) -> list[Batch]:
    """A stream's first batches, in memory of their own.

    Raises:
        ConfigError: DALI is not installed, or memory is too small.
        StoreError: a case cannot be read.
    """
    kept: list[Batch] = []
    with open_feed("dali", stream, device, 1, cache) as feed:
        for batch in islice(feed, batches):
            if device.type == "cuda":  # as the training loop waits
                torch.cuda.current_stream(device).synchronize()
            kept.append(replace(batch, image=batch.image.clone(), label=batch.label.clone()))
    return kept


def by_torch(stream: Stream) -> Iterator[Batch]:
    """A stream's batches as the torch loader's processes make them, in this process."""
    for index in count():
        step = stream.step(index)
        samples = [augmented(stream.sample(index, place)) for place in range(len(step.keys))]
        images, labels = zip(*samples, strict=True)
        yield batch_of(step, torch.stack(images), torch.stack(labels))
