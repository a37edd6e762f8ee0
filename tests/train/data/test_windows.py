"""Random windows of whole volumes, through both loaders."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streams import (
    KINDS,
    assert_same_batches,
    assert_same_bits,
    by_key,
    mainly_dali,
    stream_of,
    take,
)

from common.errors import ConfigError, StoreError
from common.store import Store
from common.volume import extract
from train.data.augment import generator
from train.data.feed import Batch
from train.data.loader import LoaderKind
from train.data.stream import Stream
from train.data.windows import draw_on_tumour, draw_window

MakeStore = Callable[..., Store]
Collect = Callable[[LoaderKind, float], list[Batch]]
Triple = tuple[int, int, int]


def windows_of(store: Store, probability: float, **changes: object) -> Stream:
    return stream_of(store, probability, window="random", **changes)


@pytest.fixture(scope="module")
def small(make_store: MakeStore) -> Store:
    """A store of windows that are smaller than the brain: 8 × 12 × 16 of about 20 a side."""
    return make_store(crop=(8, 12, 16))


@pytest.fixture(scope="module")
def collected(small: Store) -> Collect:
    @cache
    def collect(kind: LoaderKind, probability: float) -> list[Batch]:
        return take(kind, windows_of(small, probability), 8)

    return collect


@given(
    crop=st.tuples(*[st.integers(1, 20)] * 3),
    more=st.tuples(*[st.integers(0, 9)] * 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_window_lies_inside_its_volume(crop: Triple, more: Triple, seed: int) -> None:
    volume = tuple(np.add(crop, more).tolist())
    box = draw_window(volume, crop, generator(seed, 1, "case", None, "window"))
    assert box.shape == crop
    assert all(0 <= start <= extra for start, extra in zip(box.start, more, strict=True))


def test_every_place_is_as_likely() -> None:
    windows = [
        draw_window((30, 20, 20), (20, 16, 20), generator(0, epoch, "case", None, "window")).start
        for epoch in range(1, 3001)
    ]
    for axis, places in enumerate((11, 5, 1)):
        counts = np.bincount([start[axis] for start in windows], minlength=places)
        assert len(counts) == places
        assert abs(counts - 3000 / places).max() < 5 * np.sqrt(3000 / places)


@mainly_dali
def test_windows_are_parts_of_the_volume_and_others_in_each_epoch(
    small: Store, collected: Collect, kind: LoaderKind
) -> None:
    samples = by_key(collected(kind, 0.0))
    assert len(samples) == 4 * 4
    for (epoch, case_id, _), (image, label) in samples.items():
        volume, its_label = small.read_volume(case_id)
        assert its_label is not None
        random = generator(3, epoch, case_id, None, "window")
        box = draw_window(its_label.shape, small.crop, random)
        assert (image.numpy() == extract(volume, box)).all()
        assert (label.numpy() == extract(its_label, box)).all()
    assert len({image.numpy().tobytes() for image, _ in samples.values()}) == 16


def test_both_loaders_give_the_same_windows(collected: Collect) -> None:
    assert_same_batches(*(collected(kind, 1.0) for kind in KINDS))


@mainly_dali
def test_a_window_depends_on_seed_epoch_and_case_alone(
    small: Store, collected: Collect, kind: LoaderKind
) -> None:
    before = by_key(collected(kind, 1.0))
    stream = windows_of(small, 1.0, batch_size=2, first_epoch=2, skip=1)
    after = by_key(take(kind, stream, 6))
    assert len(after) == 3 + 4 + 4
    assert_same_bits(after, before)


def test_a_damaged_volume_is_named(make_store: MakeStore) -> None:
    store = make_store()
    stream = windows_of(store, 0.0, batch_size=1)
    victim = stream.order(1)[1].case_id
    shard = Path(store.path) / f"cases/{victim}/image/c/0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(StoreError, match=f"case {victim}: .*image is damaged"):
        take("dali", stream, 4)


def test_windows_of_slices_are_refused(small: Store) -> None:
    with pytest.raises(ConfigError, match=r"model\.dims=2 take window=crop"):
        windows_of(small, 0.0, dims=2)


REGIONS = {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,)}


def test_a_window_on_the_tumour_has_a_voxel_of_each_region_equally_often_in_its_middle() -> None:
    label = np.zeros((30, 20, 24), np.uint8)
    label[12:18, 8:14, 10:14] = 2  # 144 voxels of the whole tumour, one of which is its core
    label[14, 10, 12] = 3
    counts = {"core": 0, "others": 0}
    for epoch in range(1, 1201):
        random = generator(0, epoch, "case", None, "tumour")
        box = draw_on_tumour(label, REGIONS, (9, 7, 5), random)
        assert box is not None
        middle = np.add(box.start, (4, 3, 2))
        assert label[tuple(middle)]
        counts["core" if tuple(middle) == (14, 10, 12) else "others"] += 1
    # Of tc and et the core is the only voxel.
    expected = 1200 * (2 / 3 + 1 / 3 / 144)
    assert abs(counts["core"] - expected) < 5 * np.sqrt(expected / 3)


@given(
    volume=st.tuples(*[st.integers(6, 20)] * 3),
    voxel=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
    seed=st.integers(0, 2**63 - 1),
)
def test_a_window_on_the_tumour_lies_inside_and_holds_the_voxel(
    volume: Triple, voxel: tuple[float, float, float], seed: int
) -> None:
    label = np.zeros(volume, np.uint8)
    place = tuple(int(share * side) for share, side in zip(voxel, volume, strict=True))
    label[place] = 1
    box = draw_on_tumour(label, REGIONS, (6, 5, 4), generator(seed, 1, "case", None, "tumour"))
    assert box is not None
    assert all(a >= 0 and b <= n for a, b, n in zip(box.start, box.stop, volume, strict=True))
    assert extract(label, box).sum() == 1


def test_without_a_tumour_no_window_is_drawn_on_it() -> None:
    label = np.zeros((8, 8, 8), np.uint8)
    assert draw_on_tumour(label, REGIONS, (4, 4, 4), np.random.default_rng(0)) is None


def test_the_share_of_windows_on_the_tumour_moves_no_other_window(small: Store) -> None:
    plain, some, always = (
        windows_of(small, 0.0, tumour_share=share, batch_size=4) for share in (0.0, 0.5, 1.0)
    )
    moved = 0
    for epoch in range(12):
        for place in range(4):
            label, mixed, tumour = (s.sample(epoch, place).label for s in (plain, some, always))
            assert (mixed == label).all() or (mixed == tumour).all()
            assert tumour.any()
            moved += bool((mixed != label).any())
    assert 8 < moved < 40


def test_a_share_of_stored_crops_is_refused(small: Store) -> None:
    with pytest.raises(ConfigError, match=r"tumour_share=0\.5 .* take window=random"):
        stream_of(small, 0.0, tumour_share=0.5)
