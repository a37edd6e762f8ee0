"""One image in several cases."""

from pathlib import Path

import nibabel
import numpy as np

from common.case import prepare
from common.discovery import discover
from common.duplicates import doubles, identities, identity, shared_images
from common.manifest import Manifest
from common.validate import load_case

IMAGES = {
    "a": {"flair": "1", "t1": "2"},
    "b": {"flair": "1", "t1": "3"},
    "c": {"flair": "4", "t1": "2"},
    "d": {"flair": "5", "t1": "5"},
}


def test_images_of_several_cases_and_of_one_are_found() -> None:
    assert shared_images(IMAGES) == [
        [("a", "flair"), ("b", "flair")],
        [("a", "t1"), ("c", "t1")],
        [("d", "flair"), ("d", "t1")],
    ]


def test_cases_are_told_from_those_in_another_split() -> None:
    splits = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    same, other = doubles(IMAGES, splits)
    assert (same.case_id, same.other, same.modalities, same.splits) == ("b", "a", ["flair"], None)
    assert (other.case_id, other.other, other.splits) == ("c", "a", ("train", "val"))
    assert "a (train) and c (val)" in str(other)
    (first_in_split,) = doubles({"x": {"t1": "1"}, **IMAGES}, {"val": ["b"]})[:1]
    assert (first_in_split.other, first_in_split.splits) == ("b", None)


def brain(seed: int) -> dict[str, np.ndarray]:
    """Images (x, y, z) of one case; seeds differ by noise alone."""
    generator = np.random.default_rng(seed)
    distance = np.linalg.norm(np.indices((24, 26, 22)).T - (12, 13, 11), axis=-1).T
    names = ("flair", "t1", "t1ce", "t2")
    return {n: (generator.integers(50, 900, distance.shape) * (distance < 9)) for n in names}


def normalised(image: np.ndarray) -> np.ndarray:
    inside = image != 0
    return np.where(inside, (image - image[inside].mean()) / image[inside].std(), 0)


def save(folder: Path, images: dict[str, np.ndarray], start: int = 0, flip: int = 1) -> None:
    folder.mkdir(parents=True)
    affine = np.diag([flip, 1, 1, 1.0])
    affine[:3, 3] = (start if flip > 0 else 23 - start, start, start)
    for name, image in images.items():
        nibabel.save(nibabel.Nifti1Image(image, affine), folder / f"{folder.name}_{name}.nii.gz")


def test_an_image_is_known_however_it_is_saved(tmp_path: Path) -> None:
    for kind in ("int16", "uint16", "int32", "float32", "float64"):
        save(tmp_path / f"scan-{kind}", {n: i.astype(kind) for n, i in brain(0).items()})
    save(
        tmp_path / "scan-cut",
        {n: i[1:-1, 1:-1, 1:-1].astype("int16") for n, i in brain(0).items()},
        1,
    )
    save(
        tmp_path / "scan-turned",
        {n: i[::-1].astype("float32") for n, i in brain(0).items()},
        flip=-1,
    )
    scores = {n: normalised(i).astype("float32") for n, i in brain(1).items()}
    save(tmp_path / "scores", scores)
    save(tmp_path / "scores-double", {n: i.astype("float64") for n, i in scores.items()})
    for seed in range(2, 6):
        save(tmp_path / f"other-{seed}", {n: i.astype("int16") for n, i in brain(seed).items()})
        save(tmp_path / f"other-scores-{seed}", {n: normalised(i) for n, i in brain(seed).items()})
    manifest = Manifest(crop=(16, 16, 16))
    cases = discover(tmp_path, manifest).cases
    assert len(cases) == 17
    checked, stored = {}, {}
    for case in cases:
        loaded = load_case(case, manifest)
        files = {source.role: source.image for source in loaded.sources}
        checked[case.case_id] = identities(loaded.images, files)
        stored[case.case_id] = prepare(case, manifest).record.images
    for found in (doubles(checked, {}), doubles(stored, {})):
        first = {double.case_id: double.other for double in found}
        assert {"scores-double": "scores"}.items() <= first.items()
        assert {case for case in first if case.startswith("scan")} == {
            c.case_id for c in cases if c.case_id.startswith("scan-") and c.case_id != "scan-cut"
        }
        assert not [case for case in first if case.startswith("other")]
        assert all(len(double.modalities) == 4 for double in found)


def test_an_image_without_a_mean_is_known_by_its_file() -> None:
    assert identity(0.0, 1.0, "file") == identity(3e-17, 1.0, "file") == "file"
    assert identity(-2e-9, 1.0, "file") != identity(1e-9, 1.0, "file") != "file"
