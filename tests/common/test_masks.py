"""Whose a mask is, and what its values mean, without the case's images."""

import json
from pathlib import Path

import numpy as np
import pytest

from common import nifti
from common.errors import ConfigError, InputError
from common.geometry import Geometry
from common.manifest import Manifest
from common.masks import find_masks, manifest_of, read_mask

GRID = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def write(path: Path, *values: int) -> Path:
    """A mask with a voxel of each value."""
    label = np.zeros(GRID.shape, np.uint8)
    label.flat[: len(values)] = values
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti.write(path, label, GRID)
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened here")


def found(folder: Path, manifest: Manifest | None = None) -> dict[str, str]:
    """Case id to its mask's file."""
    masks = find_masks(folder, manifest or Manifest())
    assert masks.findings == []
    return {case: files.label.name for case, files in masks.files.items() if files.label}


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("BraTS-GLI-00001-000", "{}"),
        ("BraTS-GLI-00001-000", "{}-seg"),
        ("BraTS-GLI-00001-000", "{}_pred"),
        ("BraTS-GLI-00001-000", "{}-seg_prediction"),
        ("BraTS-GLI-00001-000", "{}_mask"),
        ("case7", "labelsTr/{}"),
        ("case7", "{}/seg"),
        ("case7", "{}/prediction"),
        ("sub-01_ses-2", "sub-01/ses-2/anat/{}_dseg"),
        ("W39_1998.09.19", "{}_Segm"),
        ("tumour_001", "{}"),
    ],
)
def test_names_of_masks_give_the_case(case: str, name: str, tmp_path: Path) -> None:
    touch(tmp_path / "masks", name.format(case))
    assert list(found(tmp_path / "masks")) == [case]


def test_probabilities_and_images_are_no_masks(tmp_path: Path) -> None:
    touch(tmp_path, "a", "a_probability_wt", "a-prob", "a_flair", "b", "b_uncertainty_et")
    assert found(tmp_path) == {"a": "a.nii.gz", "b": "b.nii.gz"}


def test_a_cohorts_labels_are_those_beside_its_images(tmp_path: Path) -> None:
    names = ("flair", "t1", "t1ce", "t2")
    touch(tmp_path / "a", *(f"a_{name}" for name in (*names, "seg")))
    touch(tmp_path / "b", *(f"b_{name}" for name in names))
    masks = find_masks(tmp_path, Manifest())
    assert list(masks.files) == ["a"]
    assert masks.unlabelled == ["b"]


def test_two_masks_of_a_case_are_not_chosen_from(tmp_path: Path) -> None:
    touch(tmp_path, "a", "a_seg", "b")
    masks = find_masks(tmp_path, Manifest())
    assert list(masks.files) == ["b"]
    assert {path.name for path in masks.doubled["a"]} == {"a.nii.gz", "a_seg.nii.gz"}


NNUNET = {"background": 0, "edema": 1, "non-enhancing": 2, "enhancing": 3}
REGIONS = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3}


@pytest.mark.parametrize("labels", [NNUNET, REGIONS])
@pytest.mark.parametrize("place", ["", "labelsTr", "fold_0/validation"])
def test_a_dataset_json_says_what_values_mean(
    place: str, labels: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    write(tmp_path / place / "a.nii.gz", 1, 2, 3)
    masks = find_masks(tmp_path / place, Manifest())
    mask = read_mask(masks.files["a"], masks.manifest)
    assert mask.decided == ("msd", "layout")
    assert mask.label.flat[:3].tolist() == [2, 1, 3]
    assert mask.geometry.matches(GRID)


def test_each_file_has_its_own_convention(tmp_path: Path) -> None:
    write(tmp_path / "a.nii.gz", 1, 2, 4)
    write(tmp_path / "b.nii.gz", 1, 2, 3)
    write(tmp_path / "UPENN-GBM-00001_11.nii.gz", 1, 2)
    masks = find_masks(tmp_path, Manifest())
    decided = {case: read_mask(files, Manifest()).decided for case, files in masks.files.items()}
    assert decided == {
        "a": ("brats2021", "values"),
        "b": ("brats2023", "values"),
        "UPENN-GBM-00001_11": ("brats2021", "names"),
    }


@pytest.mark.parametrize(
    ("case", "values", "said"),
    [
        ("a", (1,), "a mask of 1 alone"),
        ("BraTS-GLI-00001-000", (1, 2, 4), "[0, 1, 2, 4]"),
        ("BraTS-PED-00001-000", (1, 2, 3, 4), "task pediatric"),
        ("a", (1, 2, 7), "[0, 1, 2, 7]"),
    ],
)
def test_values_of_uncertain_meaning_are_refused(
    case: str, values: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    path = write(tmp_path / f"{case}.nii.gz", *values)
    (files,) = find_masks(tmp_path, Manifest()).files.values()
    with pytest.raises(InputError) as error:
        read_mask(files, Manifest())
    assert said in str(error.value)
    assert str(path) in str(error.value)


def ball(*radii: int) -> np.ndarray:
    """Shells inside one another: values 1, 2 and so on from the inside out."""
    z, y, x = np.indices((24, 24, 24)) - 12
    distance = z**2 + y**2 + x**2
    return sum((distance < radius**2).astype(np.uint8) for radius in radii)


@pytest.mark.parametrize(
    ("name", "order", "doubted"),
    [
        ("a", {3: 1, 2: 3, 1: 2}, False),  # oedema outermost
        ("a", {3: 3, 2: 1, 1: 2}, False),
        ("a", {3: 1, 2: 2}, True),  # two values: of which release?
        ("BraTS-GLI-00001-000", {3: 1, 2: 2}, False),  # its name tells
    ],
)
def test_values_that_other_conventions_share_are_told_unless_shapes_or_names_decide(
    name: str, order: dict[int, int], *, doubted: bool, tmp_path: Path
) -> None:
    shells = ball(5, 7, 10)
    label = np.zeros_like(shells)
    for shell, value in order.items():
        label[shells == shell] = value
    cube = Geometry((24, 24, 24), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    nifti.write(tmp_path / f"{name}.nii.gz", label, cube)
    (files,) = find_masks(tmp_path, Manifest()).files.values()
    warned = read_mask(files, Manifest()).warnings
    assert bool(warned) == doubted, warned
    assert all("label_convention: msd" in finding.action for finding in warned)


def test_labels_inside_out_are_a_warning_that_names_what_would_fit(tmp_path: Path) -> None:
    """As of a conversion for nnU-Net without its dataset.json, where 1 is oedema."""
    z, y, x = np.indices((24, 24, 24)) - 12
    distance = z**2 + y**2 + x**2
    label = np.select([distance < 30, distance < 50, distance < 110], [2, 3, 1], 0)
    cube = Geometry((24, 24, 24), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    nifti.write(tmp_path / "a.nii.gz", label.astype(np.uint8), cube)
    (files,) = find_masks(tmp_path, Manifest()).files.values()
    mask = read_mask(files, Manifest())
    assert mask.decided.convention == "brats2023"
    (finding,) = mask.warnings
    assert "surface" in finding.found
    assert "label_convention: msd" in finding.action
    assert read_mask(files, Manifest(label_convention="msd")).warnings == []


def test_labels_folders_without_a_statement_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "labelsTr" / "a.nii.gz", 1, 2, 3)
    (files,) = find_masks(tmp_path / "labelsTr", Manifest()).files.values()
    with pytest.raises(InputError, match=r"dataset\.json"):
        read_mask(files, Manifest())
    stated = Manifest(label_convention="msd")
    assert read_mask(files, stated).label.flat[:3].tolist() == [2, 1, 3]


def test_a_dataset_json_of_another_task_is_an_error_unless_the_manifest_decides(
    tmp_path: Path,
) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"edema": 5, "enhancing": 1}}))
    write(tmp_path / "a.nii.gz", 1, 2, 3)
    with pytest.raises(InputError, match="edema, enhancing"):
        find_masks(tmp_path, Manifest())
    assert list(found(tmp_path, Manifest(label_convention="msd"))) == ["a"]


def test_one_file_is_a_folder_of_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a_pred.nii.gz", 1, 2, 3)
    write(tmp_path / "b.nii.gz", 1, 2, 3)
    assert found(path) == {"a": "a_pred.nii.gz"}


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        find_masks(tmp_path / "nowhere", Manifest())


def test_a_manifest_lies_in_the_folder_or_beside_it(tmp_path: Path) -> None:
    masks = tmp_path / "labels"
    masks.mkdir()
    assert manifest_of(masks) == Manifest()
    (tmp_path / "data_manifest.yaml").write_text("task: pediatric\n")
    assert manifest_of(masks).task.name == "pediatric"
    assert manifest_of(masks, "task=metastases").task.name == "metastases"
    (masks / "data_manifest.yaml").write_text("task: nonsense\n")
    with pytest.raises(ConfigError, match="nonsense"):
        manifest_of(masks)
