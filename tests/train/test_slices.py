"""Axial slices through both loaders."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import StoreError
from common.store import Store
from common.task import MODALITIES
from train.data.augment import PARAMETERS, AugmentConfig, Draw, draw, generator
from train.data.feed import Batch
from train.data.loader import LoaderKind, open_feed
from train.data.stream import Stream

KINDS: tuple[LoaderKind, ...] = ("dali", "torch")
MakeStore = Callable[..., Store]
CPU = torch.device("cpu")
ALL = ("zoom", "flip", "noise", "blur", "brightness")
DEPTH = 16

both = pytest.mark.parametrize("kind", KINDS)


def augment(probability: float) -> AugmentConfig:
    return AugmentConfig.model_validate({f"{kind}_probability": probability for kind in ALL})


def stream_of(store: Store, probability: float = 0.5, **changes: object) -> Stream:
    cases = tuple(store.contents().split("train"))
    stream = Stream(store, cases, MODALITIES, augment(probability), seed=3, batch_size=12, dims=2)
    return replace(stream, **changes)


def take(kind: LoaderKind, stream: Stream, count: int, workers: int = 1) -> list[Batch]:
    with open_feed(kind, stream, CPU, workers) as batches:
        return [next(batches) for _ in range(count)]


Samples = dict[tuple[int, str, int], tuple[torch.Tensor, torch.Tensor]]


def by_key(batches: list[Batch]) -> Samples:
    return {
        (batch.epoch, case_id, plane): (batch.image[n], batch.label[n])
        for batch in batches
        for n, (case_id, plane) in enumerate(zip(batch.case_ids, batch.planes, strict=True))
    }


Collect = Callable[[LoaderKind, float], list[Batch]]


@pytest.fixture(scope="module")
def collected(store: Store) -> Collect:
    """Two epochs of the four training cases' 64 planes, in batches of 12, the last of four."""

    @cache
    def collect(kind: LoaderKind, probability: float) -> list[Batch]:
        return take(kind, stream_of(store, probability), 12)

    return collect


def test_an_epoch_is_every_plane_of_every_case_fully_shuffled(store: Store) -> None:
    stream = stream_of(store)
    assert stream.samples == 4 * DEPTH
    for epoch in (1, 2):
        keys = stream.order(epoch)
        cases = store.contents().split("train")
        assert sorted(keys) == [(case, plane) for case in cases for plane in range(DEPTH)]
        # Planes of one case do not come together: a shuffle has 63/4 neighbours of one case.
        together = sum(one.case_id == other.case_id for one, other in pairwise(keys))
        assert together < 32
    assert stream.order(1) != stream.order(2)
    with pytest.raises(ValueError, match="skip is 64 of 64 samples"):
        stream_of(store, skip=64)


@both
def test_without_augmentation_slices_are_the_stored_bits(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    batches = collected(kind, 0.0)
    assert [len(batch.image) for batch in batches] == [12, 12, 12, 12, 12, 4] * 2
    assert batches[0].image.shape == (12, 4, 16, 16)
    assert batches[0].label.shape == (12, 16, 16)
    samples = by_key(batches)
    assert len(samples) == 2 * 64
    for (_, case_id, plane), (image, label) in samples.items():
        stored = store.read_crop(case_id)
        assert (image.numpy().view(np.uint16) == stored[0][:, plane].view(np.uint16)).all()
        assert (label.numpy() == stored[1][plane]).all()


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_both_loaders_give_the_same_slices(collected: Collect, probability: float) -> None:
    pairs = list(zip(*(collected(kind, probability) for kind in KINDS), strict=True))
    for dali, torches in pairs:
        assert (dali.case_ids, dali.planes) == (torches.case_ids, torches.planes)
        assert dali.image.dtype == torch.float16
        torch.testing.assert_close(dali.label, torches.label, rtol=0, atol=0)
        torch.testing.assert_close(dali.image, torches.image, rtol=1.1e-3, atol=1e-3)
    images = {image.numpy().tobytes() for batch, _ in pairs for image in batch.image}
    assert probability < 1 or len(images) == 2 * 64


@both
def test_a_slice_depends_on_seed_epoch_case_and_plane_alone(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    before = by_key(collected(kind, 0.5))
    stream = stream_of(store, batch_size=5, skip=7, modalities=("t2",))
    after = by_key(take(kind, stream, 20, workers=2 if kind == "dali" else 1))
    assert len(after) == 64 - 7 + 20 * 5 - 60
    assert {key[0] for key in after} == {1, 2}
    for key, (image, label) in after.items():
        assert (label == before[key][1]).all()
        # Noise is one field of all modalities, so fewer of them have another.
        if draw_of(stream, *key).noise_sigma is None:
            assert (image.view(torch.int16) == before[key][0][3:].view(torch.int16)).all()


def draw_of(stream: Stream, epoch: int, case_id: str, plane: int) -> Draw:
    random = generator(stream.seed, epoch, case_id, PARAMETERS, plane)
    return draw(stream.augment, stream.shape, random)


def test_only_the_chunk_of_a_plane_is_read(make_store: MakeStore) -> None:
    store = make_store(crop=(32, 16, 16))
    case_id = store.contents().split("train")[0]
    image, label = store.read_crop(case_id)
    row = store.record(case_id).row
    for name in ("image/c/{}/0/0/0/0", "label/c/{}/0/0/0"):
        shard = Path(store.path) / "crops" / name.format(row)
        content = bytearray(shard.read_bytes())
        content[8] ^= 0xFF  # of the first chunk, which holds planes 0 to 15
        shard.write_bytes(content)
    for plane in (16, 25, 31):
        one, its_label = store.read_crop_plane(case_id, plane)
        assert (one == image[:, plane]).all()
        assert (its_label == label[plane]).all()
    for plane in (0, 15):
        with pytest.raises(StoreError, match=f"case {case_id}: crops/image is damaged"):
            store.read_crop_plane(case_id, plane)
