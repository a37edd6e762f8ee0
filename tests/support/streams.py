"""Streams of a small store, and their batches through either loader."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.store import Store
from common.task import MODALITIES
from train.data.augment import AUGMENTATIONS, AugmentConfig
from train.data.cache import CacheKind
from train.data.feed import Batch
from train.data.loader import LoaderKind, open_feed
from train.data.stream import Stream

CPU = torch.device("cpu")
KINDS: tuple[LoaderKind, ...] = ("dali", "torch")
both = pytest.mark.parametrize("kind", KINDS)
mainly_dali = pytest.mark.parametrize(
    "kind", ["dali", pytest.param("torch", marks=pytest.mark.slow)]
)
"""What torch's loader shares with DALI's: its workers take five seconds to start."""


def augment(probability: float, **changes: dict[str, Any]) -> AugmentConfig:
    """Every augmentation with one probability, but for changes by name."""
    each = {name: {"probability": probability} | changes.get(name, {}) for name in AUGMENTATIONS}
    return AugmentConfig.model_validate(each)


def stream_of(store: Store, probability: float = 0.5, **changes: Any) -> Stream:
    cases = tuple(store.contents().split("train"))
    stream = Stream(store, cases, MODALITIES, augment(probability), seed=3, batch_size=3)
    return replace(stream, **changes)


def take(
    kind: LoaderKind, stream: Stream, count: int, workers: int = 1, cache: CacheKind = "none"
) -> list[Batch]:
    with open_feed(kind, stream, CPU, workers, cache) as batches:
        return [next(batches) for _ in range(count)]


Samples = dict[tuple[int, str, int], tuple[Tensor, Tensor]]


def by_key(batches: Sequence[Batch]) -> Samples:
    """Image and label by epoch, case and plane, which is 0 where samples are volumes."""
    return {
        (batch.epoch, case_id, batch.planes[n] if batch.planes else 0): pair
        for batch in batches
        for n, (case_id, *pair) in enumerate(
            zip(batch.case_ids, batch.image, batch.label, strict=True)
        )
    }


def assert_same_bits(after: Samples, before: Samples) -> None:
    """Every sample of the first is in the second, equal to the bit."""
    for key, (image, label) in after.items():
        assert (image.view(torch.int16) == before[key][0].view(torch.int16)).all()
        assert (label == before[key][1]).all()


def assert_same_batches(one: Sequence[Batch], other: Sequence[Batch]) -> None:
    """Labels exactly; images but for the rounding to float16, whose steps are 2⁻¹⁰ of a value."""
    for a, b in zip(one, other, strict=True):
        assert (a.case_ids, a.planes, a.epoch, a.last) == (b.case_ids, b.planes, b.epoch, b.last)
        assert a.image.dtype == b.image.dtype == torch.float16
        assert a.label.dtype == b.label.dtype == torch.uint8
        torch.testing.assert_close(a.label, b.label, rtol=0, atol=0)
        torch.testing.assert_close(a.image, b.image, rtol=1.1e-3, atol=1e-3)
