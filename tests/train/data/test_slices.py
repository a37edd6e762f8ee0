"""Axial slices through both loaders."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import KINDS, assert_same_batches, by_key, mainly_dali, stream_of, take

from common.errors import StoreError
from common.store import Store
from train.data.augment import AUGMENTATIONS
from train.data.feed import Batch
from train.data.loader import LoaderKind
from train.data.stream import Stream

MakeStore = Callable[..., Store]
Collect = Callable[[LoaderKind, float], list[Batch]]
DEPTH = 16
OF_ALL_IMAGES = [
    AUGMENTATIONS.index(name)
    for name in ("noise", "low_resolution", "contrast", "gamma", "modality_dropout")
]


def slices_of(store: Store, probability: float = 0.5, **changes: object) -> Stream:
    return stream_of(store, probability, **{"batch_size": 12, "dims": 2} | changes)


@pytest.fixture(scope="module")
def collected(store: Store) -> Collect:
    """Two epochs of the four training cases' 64 planes, in batches of 12, the last of four."""

    @cache
    def collect(kind: LoaderKind, probability: float) -> list[Batch]:
        return take(kind, slices_of(store, probability), 12)

    return collect


def test_an_epoch_is_every_plane_of_every_case_fully_shuffled(store: Store) -> None:
    stream = slices_of(store)
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
        slices_of(store, skip=64)


@mainly_dali
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


def test_both_loaders_give_the_same_slices(collected: Collect) -> None:
    dali, torches = (collected(kind, 0.5) for kind in KINDS)
    assert_same_batches(dali, torches)
    images = {image.numpy().tobytes() for batch in dali for image in batch.image}
    assert len(images) > 100


@mainly_dali
def test_a_slice_depends_on_seed_epoch_case_and_plane_alone(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    before = by_key(collected(kind, 0.5))
    stream = slices_of(store, batch_size=5, skip=7, modalities=("t2",))
    after = by_key(take(kind, stream, 20))
    assert len(after) == 64 - 7 + 20 * 5 - 60
    assert {key[0] for key in after} == {1, 2}
    for key, (image, label) in after.items():
        assert (label == before[key][1]).all()
        # These are drawn for all modalities together, so fewer of them have others.
        draws = stream.augment.draw((4, *stream.shape), stream.seed, *key)
        if all(draws[number] is None for number in OF_ALL_IMAGES):
            assert (image.view(torch.int16) == before[key][0][3:].view(torch.int16)).all()


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
