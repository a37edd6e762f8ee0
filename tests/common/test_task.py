"""Labels, conventions and regions, and the maps between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from common.task import (
    REGION_LABELS,
    REGIONS,
    Convention,
    conventions_of,
    from_canonical,
    from_regions,
    region_voxels,
    to_canonical,
    to_regions,
)

canonical = arrays(np.uint8, array_shapes(min_dims=1, max_dims=3), elements=st.integers(0, 3))
masks = arrays(np.bool_, st.tuples(st.just(3), st.integers(1, 4), st.integers(1, 4)))


@pytest.mark.parametrize(
    ("values", "conventions"),
    [
        ({0, 1, 2, 4}, {Convention.BRATS_2021}),
        ({0, 1, 2, 3}, {Convention.BRATS_2023, Convention.MSD}),
        ({0, 1, 2}, set(Convention)),
        ({0}, set(Convention)),
        ({0, 3, 4}, set()),
        ({0, 5}, set()),
        ({-1, 0}, set()),
    ],
)
def test_which_conventions_allow_these_values(
    values: set[int], conventions: set[Convention]
) -> None:
    assert conventions_of(values) == conventions


@pytest.mark.parametrize(
    ("convention", "background_necrosis_oedema_enhancing"),
    [
        (Convention.BRATS_2021, [0, 1, 2, 4]),
        (Convention.BRATS_2023, [0, 1, 2, 3]),
        (Convention.MSD, [0, 2, 1, 3]),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_what_each_convention_writes(
    convention: Convention,
    background_necrosis_oedema_enhancing: list[int],
    dtype: type[np.generic],
) -> None:
    values = np.array(background_necrosis_oedema_enhancing, dtype)
    assert to_canonical(values, convention).tolist() == [0, 1, 2, 3]
    assert convention.values == set(background_necrosis_oedema_enhancing)
    assert convention.enhancing == background_necrosis_oedema_enhancing[3]


@given(canonical, st.sampled_from(Convention))
def test_file_values_come_back(label: NDArray[np.uint8], convention: Convention) -> None:
    values = from_canonical(label, convention)
    assert set(np.unique(values)) <= convention.values
    assert np.array_equal(to_canonical(values, convention), label)


@given(canonical)
def test_labels_come_back_from_their_regions(label: NDArray[np.uint8]) -> None:
    regions = to_regions(label)
    assert regions.shape == (3, *label.shape)
    assert np.array_equal(from_regions(regions), label)


@given(masks)
def test_any_regions_become_nested_ones(regions: NDArray[np.bool_]) -> None:
    whole, core, enhancing = regions
    nested = np.stack([whole, whole & core, whole & core & enhancing])
    assert np.array_equal(to_regions(from_regions(regions)), nested)


@given(canonical)
def test_voxels_are_counted_per_region(label: NDArray[np.uint8]) -> None:
    counts = {name: int(mask.sum()) for name, mask in zip(REGIONS, to_regions(label), strict=True)}
    assert region_voxels(label) == counts


def test_the_regions_of_the_challenge() -> None:
    assert REGION_LABELS == {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,)}
    assert to_regions(np.arange(4, dtype=np.uint8)).astype(int).tolist() == [
        [0, 1, 1, 1],
        [0, 1, 0, 1],
        [0, 0, 0, 1],
    ]
