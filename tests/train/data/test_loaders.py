"""Both loaders, as they are: worker processes, and DALI's own graph on the CPU."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import (
    CPU,
    KINDS,
    assert_same_batches,
    assert_same_bits,
    both,
    by_key,
    mainly_dali,
    stream_of,
    take,
)

from common.errors import StoreError
from common.store import Store
from common.task import MODALITIES
from train.data.feed import Batch
from train.data.loader import LoaderKind, open_feed
from train.data.stream import Stream

MakeStore = Callable[..., Store]
Collect = Callable[[LoaderKind, float], list[Batch]]


@pytest.fixture(scope="module")
def collected(store: Store) -> Collect:
    """Twenty epochs of the four training cases, in batches of three and one."""

    @cache
    def collect(kind: LoaderKind, probability: float) -> list[Batch]:
        return take(kind, stream_of(store, probability), 40)

    return collect


# The order of samples


def order(stream: Stream, epoch: int) -> tuple[str, ...]:
    return tuple(key.case_id for key in stream.order(epoch))


def test_the_order_is_a_shuffle_by_seed_and_epoch(store: Store) -> None:
    cases = tuple(f"case-{n}" for n in range(12))
    stream = stream_of(store, case_ids=cases)
    orders = [order(stream, epoch) for epoch in range(1, 30)]
    assert all(set(order) == set(cases) and len(order) == 12 for order in orders)
    assert len(set(orders)) == len(orders)
    assert len({order[0] for order in orders}) > 5
    assert order(stream_of(store, case_ids=cases[::-1], batch_size=7), 4) == order(stream, 4)
    assert order(replace(stream, seed=4), 1) != orders[0]


@given(data=st.data(), cases=st.integers(1, 20), size=st.integers(1, 25))
def test_steps_pass_over_every_epoch_once(
    store: Store, data: st.DataObject, cases: int, size: int
) -> None:
    skip = data.draw(st.integers(0, cases - 1))
    ids = tuple(f"case-{n}" for n in range(cases))
    stream = stream_of(store, case_ids=ids, batch_size=size, first_epoch=5, skip=skip)
    index = 0
    for epoch, begin in ((5, skip), (6, 0), (7, 0)):
        seen: list[str] = []
        last = False
        while not last:
            step = stream.step(index)
            assert step.epoch == epoch
            seen += step.case_ids
            last = step.last
            assert len(step.case_ids) == size or last
            index += 1
        assert tuple(seen) == order(stream, epoch)[begin:]


@pytest.mark.parametrize("changes", [{"skip": 4}, {"skip": -1}, {"case_ids": ()}])
def test_a_stream_without_samples_is_refused(store: Store, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"skip is -?[0-9] of [0-9] samples"):
        stream_of(store, **changes)


# Samples


def test_both_loaders_give_the_same_samples(collected: Collect) -> None:
    dali, torches = (collected(kind, 0.5) for kind in KINDS)
    assert_same_batches(dali, torches)
    images = {image.numpy().tobytes() for batch in dali for image in batch.image}
    assert len(images) > 70


@mainly_dali
def test_a_sample_depends_on_seed_epoch_and_case_alone(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    before = by_key(collected(kind, 0.5))
    # From the third sample of the second epoch on, in batches of two, by two workers.
    stream = stream_of(store, batch_size=2, first_epoch=2, skip=1)
    after = by_key(take(kind, stream, 10, workers=2))
    assert len(after) == 3 + 4 * 4
    assert_same_bits(after, before)
    other = by_key(take(kind, replace(stream, seed=4), 2))
    assert any((other[key][0] != before[key][0]).any() for key in other)


@both
def test_epochs_follow_each_other_and_end_with_a_smaller_batch(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    batches = collected(kind, 0.5)
    assert [len(batch.image) for batch in batches] == [3, 1] * 20
    assert [len(batch.label) for batch in batches] == [3, 1] * 20
    assert [batch.last for batch in batches] == [False, True] * 20
    assert [batch.epoch for batch in batches] == [n // 2 + 1 for n in range(40)]
    first = order(stream_of(store), 1)
    assert (batches[0].case_ids, batches[1].case_ids) == (first[:3], first[3:])
    assert batches[0].image.shape == (3, 4, 16, 16, 16)
    assert batches[0].label.shape == (3, 16, 16, 16)


@mainly_dali
def test_without_augmentation_samples_are_the_stored_bits(
    store: Store, collected: Collect, kind: LoaderKind
) -> None:
    for (_, case_id, _), (image, label) in by_key(collected(kind, 0.0)).items():
        stored = store.read_crop(case_id)
        assert (image.numpy().view(np.uint16) == stored[0].view(np.uint16)).all()
        assert (label.numpy() == stored[1]).all()


def test_float32_stores_and_some_of_the_modalities(make_store: MakeStore) -> None:
    store = make_store(dtype="float32")
    modalities = ("t2", "flair")
    plain = stream_of(store, 0.0, modalities=modalities)
    for (_, case_id, _), (image, _) in by_key(take("dali", plain, 2)).items():
        stored = store.read_crop(case_id)[0]
        assert stored.dtype == np.float32
        expected = stored[[MODALITIES.index(name) for name in modalities]].astype(np.float16)
        assert (image.numpy() == expected).all()
    stream = stream_of(store, 1.0, modalities=modalities)
    assert_same_batches(*(take(kind, stream, 6) for kind in KINDS))


@mainly_dali
def test_a_damaged_case_is_named(make_store: MakeStore, kind: LoaderKind) -> None:
    store = make_store()
    damaged = store.contents().split("train")[2]
    row = store.record(damaged).row
    shard = Path(store.path) / f"crops/image/c/{row}/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StoreError) as direct:
        store.read_crop(damaged)
    stream = stream_of(store)
    seen: list[str] = []

    def learn() -> None:
        with open_feed(kind, stream, CPU, 1) as batches:
            for batch in batches:
                seen.extend(batch.case_ids)

    with pytest.raises(StoreError) as through:
        learn()
    assert str(through.value) == str(direct.value)
    assert damaged in str(through.value)
    # Every batch before the damaged case's came first.
    first = order(stream, 1)
    assert tuple(seen) == first[: 3 * (first.index(damaged) // 3)]
    assert multiprocessing.active_children() == []
