"""A stream's first batches through DALI."""

from dataclasses import replace
from itertools import islice

import torch

from train.data.cache import CacheKind
from train.data.feed import Batch
from train.data.loader import open_feed
from train.data.stream import Stream


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
