"""Labels, conventions and regions of a task, and the maps between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from pydantic import ValidationError

from common.manifest import Manifest
from common.task import GLIOMA, TASKS, Task

tasks = st.sampled_from(list(TASKS.values()))


def labels_of(task: Task) -> st.SearchStrategy[NDArray[np.uint8]]:
    """Canonical label arrays."""
    values = st.sampled_from([0, *task.labels.values()])
    return arrays(np.uint8, array_shapes(min_dims=1, max_dims=3), elements=values)


def masks_of(task: Task) -> st.SearchStrategy[NDArray[np.bool_]]:
    """Region masks that need not be nested."""
    sides = st.integers(1, 4)
    return arrays(np.bool_, st.tuples(st.just(len(task.regions)), sides, sides))


@pytest.mark.parametrize(
    ("values", "conventions"),
    [
        ({0, 1, 2, 4}, {"brats2015", "brats2021"}),
        ({0, 1, 2, 3}, {"brats2015", "brats2023", "msd", "deepbratumia"}),
        ({0, 1, 2}, {"brats2015", "brats2021", "brats2023", "msd", "deepbratumia"}),
        ({0}, {"brats2015", "brats2021", "brats2023", "msd", "deepbratumia"}),
        ({0, 3, 4}, {"brats2015"}),
        ({0, 5}, set()),
        ({-1, 0}, set()),
    ],
)
def test_which_conventions_allow_these_values(values: set[int], conventions: set[str]) -> None:
    assert GLIOMA.conventions_of(values) == conventions


@pytest.mark.parametrize(
    ("convention", "background_necrosis_oedema_enhancing"),
    [("brats2021", [0, 1, 2, 4]), ("brats2023", [0, 1, 2, 3]), ("msd", [0, 2, 1, 3])],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_what_each_convention_of_glioma_writes(
    convention: str, background_necrosis_oedema_enhancing: list[int], dtype: type[np.generic]
) -> None:
    values = np.array(background_necrosis_oedema_enhancing, dtype)
    assert GLIOMA.to_canonical(values, convention).tolist() == [0, 1, 2, 3]
    assert GLIOMA.values_of(convention) == set(background_necrosis_oedema_enhancing)


@given(st.data(), tasks)
def test_file_values_come_back(data: st.DataObject, task: Task) -> None:
    label = data.draw(labels_of(task))
    for convention in task.conventions:
        values = task.from_canonical(label, convention)
        assert set(np.unique(values)) <= task.values_of(convention)
        canonical = task.to_canonical(values, convention)
        assert np.array_equal(task.from_canonical(canonical, convention), values)
        if "cc" not in task.labels or convention != "brats2023-ped":  # there a cyst is core
            assert np.array_equal(canonical, label)


def test_a_label_of_two_values_is_written_with_the_first() -> None:
    read = GLIOMA.to_canonical(np.arange(5), "brats2015")
    assert read.tolist() == [0, 1, 2, 1, 3]
    assert GLIOMA.from_canonical(read, "brats2015").tolist() == [0, 1, 2, 1, 4]


def test_a_label_that_files_do_not_tell_from_another_is_written_as_that() -> None:
    pediatric = TASKS["pediatric"]
    written = pediatric.from_canonical(np.arange(5, dtype=np.uint8), "brats2023-ped")
    assert written.tolist() == [0, 3, 1, 1, 2]
    assert pediatric.to_canonical(written, "brats2023-ped").tolist() == [0, 1, 2, 2, 4]


@pytest.mark.parametrize(
    ("task", "convention", "legend"),
    [
        ("glioma", "brats2021", "1 necrotic core, 2 oedema, 4 enhancing tumour"),
        ("glioma", "brats2015", "1 and 3 necrotic core, 2 oedema, 4 enhancing tumour"),
        ("glioma", "msd", "1 oedema, 2 necrotic core, 3 enhancing tumour"),
        ("pediatric", "brats2023-ped", "1 non-enhancing core, 2 oedema, 3 enhancing tumour"),
    ],
)
def test_a_convention_in_words(task: str, convention: str, legend: str) -> None:
    assert TASKS[task].legend(convention) == legend


@given(st.data(), tasks)
def test_labels_come_back_from_their_regions(data: st.DataObject, task: Task) -> None:
    label = data.draw(labels_of(task))
    regions = task.to_regions(label)
    assert regions.shape == (len(task.regions), *label.shape)
    assert np.array_equal(task.from_regions(regions), label)
    counts = {name: int(mask.sum()) for name, mask in zip(task.regions, regions, strict=True)}
    assert task.region_voxels(task.label_voxels(label)) == counts


@given(masks_of(GLIOMA))
def test_any_regions_become_nested_ones(regions: NDArray[np.bool_]) -> None:
    whole, core, enhancing = regions
    nested = np.stack([whole, whole & core, whole & core & enhancing])
    assert np.array_equal(GLIOMA.to_regions(GLIOMA.from_regions(regions)), nested)


@given(st.data(), tasks)
def test_no_label_is_written_outside_the_large_regions(data: st.DataObject, task: Task) -> None:
    masks = data.draw(masks_of(task))
    written = task.to_regions(task.from_regions(masks))
    for members, mask, region in zip(task.regions.values(), masks, written, strict=True):
        if len(members) > 1:
            assert not np.any(region & ~mask)
    assert not np.any(written.any(axis=0) & ~masks.any(axis=0))


@pytest.mark.parametrize("name", ["post-treatment", "pediatric", "metastases"])
def test_a_large_region_without_its_parts_is_written_too(name: str) -> None:
    task = TASKS[name]
    masks = np.zeros((len(task.regions), 3), np.bool_)
    masks[task.region_names.index("wt")] = True
    masks[task.region_names.index("tc"), 1:] = True
    masks[task.region_names.index("et"), 2] = True
    written = task.to_regions(task.from_regions(masks))
    for region in ("wt", "tc", "et"):
        index = task.region_names.index(region)
        assert (written[index] == masks[index]).all(), region


def test_the_regions_of_the_challenges() -> None:
    assert GLIOMA.regions == {"wt": (1, 2, 3), "tc": (1, 3), "et": (3,)}
    pediatric = TASKS["pediatric"]
    assert pediatric.labels == {"et": 1, "netc": 2, "cc": 3, "ed": 4}
    assert (pediatric.regions["wt"], pediatric.regions["tc"]) == ((1, 2, 3, 4), (1, 2, 3))
    for name in ("post-treatment", "metastases"):
        assert TASKS[name].labels == {"netc": 1, "snfh": 2, "et": 3, "rc": 4}
        assert (TASKS[name].regions["wt"], TASKS[name].regions["rc"]) == ((1, 2, 3), (4,))
    assert TASKS["meningioma-rt"].regions == {"gtv": (1,)}


@pytest.mark.parametrize("name", TASKS)
def test_a_manifest_names_a_packaged_task_or_spells_one_out(name: str) -> None:
    task = TASKS[name]
    assert Manifest.model_validate({"task": name}).task == task
    assert Manifest.model_validate({"task": task.model_dump(mode="json")}).task == task


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"labels": {"ncr": 1, "ed": 1, "et": 3}}, "the same value"),
        ({"regions": {"wt": (1, 2, 3), "tc": (1, 5), "et": (3,)}}, r"regions.tc: \[5\]"),
        ({"regions": {"wt": (1, 2, 3), "et": (3,)}}, "in the same regions"),
        ({"regions": {"tc": (1, 3), "et": (3,)}}, "labels.ed: in no region"),
        ({"painting": ("et", "ncr", "ed")}, "must come before"),
        ({"painting": ("ed", "ncr")}, "painting must name each"),
        ({"conventions": {"mine": {"ncr": 1, "ed": 1}}}, "conventions.mine"),
        ({"conventions": {"mine": {"rc": 4}}}, "conventions.mine"),
        ({"conventions": {"mine": {"ncr": (1, 4), "ed": 2, "et": 4}}}, "conventions.mine"),
        ({"conventions": {"mine": {"ncr": 1, "ed": "ncr", "et": "ed"}}}, "conventions.mine"),
        ({"conventions": {"mine": {"ncr": 1, "ed": 2, "et": "rc"}}}, "conventions.mine"),
        ({"by_values": ("brats2020",)}, "by_values"),
        ({"conventions": {"mine": {"ed": 1, "et": 3}}}, "conventions.mine"),
        ({"colours": {"rc": "#000000"}}, "no region is called rc"),
        ({"modalities": ()}, "at least 1 item"),
        ({"modalities": tuple("abcdefghi")}, "at most 8 items"),
    ],
)
def test_a_task_that_cannot_be_is_refused(change: dict[str, object], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        Task.model_validate(GLIOMA.model_dump() | change)
