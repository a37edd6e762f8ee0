"""What images look like around the brain, and at their brightest."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from common.case import PreparedCase, prepare
from common.discovery import discover
from common.errors import InputError
from common.manifest import Manifest
from common.record import hash_of, parameters

Files = dict[str, NDArray[Any]]
Write = Callable[..., Path]
Around = Callable[[NDArray[Any], NDArray[np.bool_]], NDArray[Any]]

NAMES = ("flair", "t1", "t1ce", "t2")
ZERO, AUTO = (Manifest(crop=(16, 16, 16), background=rule) for rule in ("zero", "auto"))


def prepared(folder: Path, manifest: Manifest = ZERO) -> PreparedCase:
    (case,) = discover(folder, manifest).cases
    return prepare(case, manifest)


def of_value(value: float, dtype: type[np.generic] = np.float32) -> Around:
    return lambda voxels, brain: np.where(brain, voxels, value).astype(dtype)


def padded(value: float) -> Around:
    """The value around the brain, and zeros around that."""

    def change(voxels: NDArray[Any], brain: NDArray[np.bool_]) -> NDArray[Any]:
        around = np.where(brain, voxels, np.float32(value))
        around[-2:], around[:, :2] = 0, 0
        return around

    return change


def ringing(voxels: NDArray[Any], brain: NDArray[np.bool_]) -> NDArray[Any]:
    faint = 1e-4 * np.random.default_rng(0).normal(size=voxels.shape)
    return np.where(brain, voxels, faint * (faint > 0)).astype(np.float32)


def nearly(voxels: NDArray[Any], brain: NDArray[np.bool_]) -> NDArray[Any]:
    faint = 1e-4 * np.random.default_rng(0).normal(size=voxels.shape)
    return np.where(brain, voxels, faint - 20).astype(np.float32)


BACKGROUNDS = {
    "-9": of_value(-9),
    "-1024": of_value(-1024, np.int16),
    "1": of_value(1, np.uint16),
    "1000": of_value(1000),
    "-0.4375": of_value(-0.4375, np.float64),
    "-7": padded(-7),
    "faint": ringing,
    "-20": nearly,
}


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_a_background_that_is_not_0_is_named_and_taken_for_0_on_demand(
    background: str, files: Files, write: Write
) -> None:
    straight = prepared(write(files, "straight"))
    brain = files["t1"] != 0
    changed = {name: BACKGROUNDS[background](files[name], files[name] != 0) for name in NAMES}
    folder = write(files | changed)
    plain = prepared(folder)
    (warning,) = plain.record.warnings
    assert f": {background}" in warning.found
    assert "3 more file(s)" in warning.found
    assert "background: auto" in warning.action
    values = changed["t1"][changed["t1"] != 0].astype(np.float64)
    assert plain.record.mean["t1"] == pytest.approx(values.mean())
    case = prepared(folder, AUTO)
    assert case.record.mean["t1"] == pytest.approx(files["t1"][brain].mean())
    assert case.record.box == straight.record.box
    assert np.array_equal(case.image, straight.image)
    assert [note.found for note in case.record.warnings] == [warning.found]


def test_an_image_of_two_values_is_none_once_one_is_its_background(
    files: Files, write: Write
) -> None:
    files["t1"] = np.where(files["t1"], 700, -3).astype(np.int16)
    folder = write(files)
    prepared(folder)
    with pytest.raises(InputError, match="the same value, 700, in all of the brain"):
        prepared(folder, AUTO)


def test_the_default_and_auto_are_the_same_where_0_is_the_background(
    files: Files, write: Write
) -> None:
    folder = write(files)
    zero, auto = prepared(folder), prepared(folder, AUTO)
    assert np.array_equal(zero.image, auto.image)
    assert zero.record.warnings == auto.record.warnings == ()
    assert hash_of(parameters(ZERO)) != hash_of(parameters(AUTO))


def test_each_image_has_a_background_of_its_own(files: Files, write: Write) -> None:
    straight = prepared(write(files, "straight"))
    files["t1"] = of_value(-3)(files["t1"], files["t1"] != 0)
    files["t2"] = of_value(-5)(files["t2"], files["t2"] != 0)
    case = prepared(write(files), AUTO)
    assert np.array_equal(case.image, straight.image)
    t1, t2 = case.record.warnings
    assert "-3 in 71%" in t1.found
    assert "-5 in 71%" in t2.found


@pytest.mark.parametrize("manifest", [ZERO, AUTO])
def test_nan_around_the_brain_is_background(manifest: Manifest, files: Files, write: Write) -> None:
    straight = prepared(write(files, "straight"))
    for name in NAMES:
        files[name] = of_value(np.nan)(files[name], files[name] != 0)
    files["t2"][0] = 0  # beside zeros
    case = prepared(write(files), manifest)
    assert np.array_equal(case.image, straight.image)
    first, t2 = case.record.warnings
    assert first.found.startswith("NaN in 71.0% of the voxels")
    assert "2 more" in first.found
    assert t2.file == "case_t2.nii.gz"


def planes(voxels: NDArray[Any]) -> NDArray[Any]:
    voxels[:1] = np.nan
    return voxels


def within_zeros(voxels: NDArray[Any]) -> NDArray[Any]:
    voxels[1:3][voxels[1:3] == 0] = np.nan
    voxels[:, 0] = voxels[:, -1] = voxels[:, :, 0] = voxels[:, :, -1] = 0
    return voxels


@pytest.mark.parametrize("change", [planes, within_zeros])
def test_nan_in_a_part_of_the_background_is_background(
    change: Callable[[NDArray[Any]], NDArray[Any]], files: Files, write: Write
) -> None:
    straight = prepared(write(files, "straight"))
    files["t1"] = change(files["t1"].astype(np.float32))
    case = prepared(write(files))
    assert np.array_equal(case.image, straight.image)
    (warning,) = case.record.warnings
    assert warning.found.startswith("NaN in ")


def test_nan_within_the_brain_is_an_error_also_beside_nan_around_it(
    files: Files, write: Write
) -> None:
    files["t1"] = of_value(np.nan)(files["t1"], files["t1"] != 0)
    files["t1"][10, 13, 10:13] = np.nan
    with pytest.raises(InputError, match=r"t1.*: 3 voxels that are NaN or infinite"):
        prepared(write(files))


def test_infinity_around_the_brain_is_an_error(files: Files, write: Write) -> None:
    files["t1"] = of_value(np.inf)(files["t1"], files["t1"] != 0)
    with pytest.raises(InputError, match="voxels that are NaN or infinite"):
        prepared(write(files))


def test_noise_around_the_brain_is_no_background_also_with_zeros_in_it(
    files: Files, write: Write
) -> None:
    generator = np.random.default_rng(0)
    for name in NAMES:
        noise = generator.integers(0, 5, files[name].shape).astype(np.int16)
        files[name] = np.where(files[name], files[name], noise)
    for manifest in (ZERO, AUTO):
        warnings = prepared(write(files, manifest.background), manifest).record.warnings
        assert {note.found.split(":")[0] for note in warnings} == {"hardly any background"}


def test_a_brain_that_the_field_of_view_cuts_has_a_background(files: Files, write: Write) -> None:
    cut = {name: voxels[6:14, :22] for name, voxels in files.items()}
    assert prepared(write(cut)).record.warnings == ()


def test_a_tissue_of_one_value_is_no_background(files: Files, write: Write) -> None:
    brain = files["t1"] != 0
    for number, name in enumerate(NAMES):
        files[name] = np.where(files[name] > 600 + number, 800, 300 * brain).astype(np.int16)
    zero, auto = (prepared(write(files, m.background), m) for m in (ZERO, AUTO))
    assert not [note for note in auto.record.warnings if "background" in note.found]
    assert np.array_equal(zero.image, auto.image)


def test_the_largest_of_few_grey_values_is_not_clipping(files: Files, write: Write) -> None:
    for name in NAMES:
        files[name] = (files[name] // 9).astype(np.uint8)
    assert prepared(write(files)).record.warnings == ()
    files["t1"] = files["t1"].clip(0, 90)
    (warning,) = prepared(write(files, "clipped")).record.warnings
    assert warning.found.startswith("clipped: ")
    assert warning.file == "clipped_t1.nii.gz"
