"""One case there and back: a perfect prediction comes back equal to the original mask."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from perfect import perfect_mask

from common import nifti
from common.case import PreparedCase, prepare
from common.discovery import discover
from common.errors import InputError
from common.geometry import IDENTITY, Geometry
from common.manifest import Manifest
from common.record import CaseRecord
from common.task import GLIOMA
from common.volume import Box, extract, foreground_statistics

Files = dict[str, NDArray[np.generic]]
Write = Callable[..., Path]

MANIFEST = Manifest(crop=(16, 16, 16))
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
ORIENTATIONS = {
    "LPS": IDENTITY,
    "RAS": RAS,
    "LAI": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0),
    "sagittal": (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
}


def prepared(folder: Path, manifest: Manifest = MANIFEST) -> PreparedCase:
    (case,) = discover(folder, manifest).cases
    return prepare(case, manifest)


def original(folder: Path) -> nifti.Volume:
    (path,) = folder.glob("*seg.nii.gz")
    return nifti.read(path)


def head(
    shape: tuple[int, int, int],
    brain: tuple[slice, slice, slice],
    tumour: tuple[slice, slice, slice] | None,
    dtype: type[np.generic] = np.int16,
) -> Files:
    """A block of brain and a block of tumour of all three labels, wherever they are put."""
    generator = np.random.default_rng(0)
    inside, label = np.zeros(shape, bool), np.zeros(shape, np.uint8)
    inside[brain] = True
    if tumour:
        label[tumour] = generator.choice([1, 2, 4], label[tumour].shape)
    names = ("flair", "t1", "t1ce", "t2")
    images = {n: (generator.integers(20, 900, shape) * inside).astype(dtype) for n in names}
    return images | {"seg": label}


def block(*edges: tuple[int, int]) -> tuple[slice, slice, slice]:
    z, y, x = (slice(*edge) for edge in edges)
    return z, y, x


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize(
    ("shape", "brain"),
    [
        ((20, 26, 24), block((2, 18), (3, 23), (4, 20))),
        ((21, 27, 23), block((3, 18), (2, 25), (5, 20))),  # odd
        ((41, 37, 51), block((1, 40), (0, 37), (2, 51))),  # far beyond the crop
        ((9, 12, 11), block((2, 7), (3, 9), (4, 8))),  # within the crop
    ],
)
def test_a_perfect_prediction_comes_back(
    shape: tuple[int, int, int],
    brain: tuple[slice, slice, slice],
    orientation: str,
    write: Write,
) -> None:
    tumour = tuple(slice(edge.start, edge.start + 4) for edge in brain)
    geometry = Geometry(shape, (1.0, 1.0, 1.0), (5.0, -30.0, 12.0), ORIENTATIONS[orientation])
    folder = write(head(shape, brain, (tumour[0], tumour[1], tumour[2])), geometry=geometry)
    case, expected = prepared(folder), original(folder)
    assert case.label is not None
    restored, grid = perfect_mask(case, GLIOMA), case.record.geometry
    assert restored.dtype == np.uint8
    assert np.array_equal(restored, expected.voxels)
    assert grid.matches(expected.geometry)


def test_tumour_at_each_border_of_the_box_comes_back(write: Write) -> None:
    shape, brain = (30, 30, 30), block((6, 24), (6, 24), (6, 24))
    manifest = Manifest(crop=(8, 8, 8), margin=2)
    for number, corner in enumerate(itertools.product((4, 24), repeat=3)):  # the box is 4…26
        tumour = block(*[(edge, edge + 2) for edge in corner])
        folder = write(head(shape, brain, tumour), f"corner{number}")
        case = prepared(folder, manifest)
        assert case.record.box.start == (4, 4, 4)
        assert case.record.box.shape == (22, 22, 22)
        assert case.label is not None
        restored = perfect_mask(case, GLIOMA)
        assert np.array_equal(restored, original(folder).voxels)
        assert case.record.tumour_voxels is not None
        assert case.record.tumour_voxels.missed == {"ncr": 0, "ed": 0, "et": 0}


@pytest.mark.parametrize("orientation", ["LPS", "RAS"])
def test_tumour_outside_the_box_is_counted_as_missed(orientation: str, write: Write) -> None:
    """The box depends on the images alone, so that a case without a label gets the same one."""
    shape, brain = (30, 30, 30), block((6, 24), (6, 24), (6, 24))
    geometry = Geometry(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), ORIENTATIONS[orientation])
    files = head(shape, brain, block((2, 7), (10, 14), (22, 29)))
    folder = write(files, geometry=geometry)
    manifest = Manifest(crop=(8, 8, 8), margin=2)
    case, expected = prepared(folder, manifest), original(folder).voxels
    assert case.label is not None
    assert case.record.tumour_voxels is not None
    restored = perfect_mask(case, GLIOMA)
    missed = (restored == 0) & (expected != 0)
    assert np.array_equal(restored[~missed], expected[~missed])
    assert missed.any()
    assert case.record.tumour_voxels.missed == {
        name: (missed & (expected == value)).sum()
        for value, name in GLIOMA.labels_of("brats2021").items()
    }
    del files["seg"]
    unlabelled = prepared(write(files, "unlabelled", geometry=geometry), manifest)
    assert unlabelled.record.box == case.record.box
    assert np.array_equal(unlabelled.image, case.image)


def nearly_equal(restored: NDArray[np.uint8], label: NDArray[np.generic]) -> bool:
    """But for the corners of blocks, which interpolation rounds."""
    differing = np.count_nonzero(restored != label)
    return differing <= 0.15 * np.count_nonzero(label) and not restored[label == 0].any()


@pytest.mark.parametrize("spacing_mm", [(2.0, 1.0, 1.0), (3.0, 1.5, 1.25), (1.0, 1.0, 2.5)])
@pytest.mark.parametrize("direction", [IDENTITY, RAS])
def test_a_thick_sliced_mask_comes_back_but_for_corners(
    spacing_mm: tuple[float, float, float], direction: tuple[float, ...], write: Write
) -> None:
    shape = (14, 22, 19)
    geometry = Geometry(shape, spacing_mm, (7.0, 0.0, -3.0), direction)
    brain = block((2, 12), (2, 20), (3, 17))
    folder = write(head(shape, brain, block((5, 9), (6, 12), (7, 12))), geometry=geometry)
    case, expected = prepared(folder), original(folder)
    assert case.record.grid_shape == tuple(
        round(n * mm) for n, mm in zip(shape, spacing_mm, strict=True)
    )
    assert case.label is not None
    restored, grid = perfect_mask(case, GLIOMA), case.record.geometry
    assert nearly_equal(restored, expected.voxels)
    assert grid.matches(expected.geometry)


ANY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=40, suppress_health_check=ANY)
@given(
    shape=st.tuples(*[st.integers(9, 15)] * 3),
    order=st.tuples(st.permutations(range(3)), st.tuples(*[st.sampled_from([1.0, -1.0])] * 3)),
    spacing_mm=st.tuples(*[st.sampled_from([1.0, 2.0, 4.5])] * 3),
    stored=st.tuples(st.sampled_from(list(GLIOMA.conventions)), st.sampled_from([0.5, 1.0])),
)
def test_any_case_comes_back(
    shape: tuple[int, int, int],
    order: tuple[list[int], tuple[float, float, float]],
    spacing_mm: tuple[float, float, float],
    stored: tuple[str, float],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every order and direction of axes, thick slices along any of them, every convention."""
    folder = tmp_path_factory.mktemp("any") / "case"
    folder.mkdir()
    (axes, signs), (convention, stored_mm) = order, stored
    direction = tuple((np.diag(signs) @ np.eye(3)[axes]).ravel().tolist())
    files = head(shape, block((1, 8), (1, 8), (1, 8)), block((2, 6), (3, 7), (2, 5)))
    canonical = np.where(files["seg"] == 4, 3, files["seg"]).astype(np.uint8)
    files["seg"] = GLIOMA.from_canonical(canonical, convention)
    for name, voxels in files.items():
        geometry = Geometry(shape, spacing_mm, (3.0, -9.0, 20.0), direction)
        nifti.write(folder / f"case_{name}.nii.gz", voxels, geometry)
    manifest = Manifest(crop=(16, 16, 16), label_convention=convention, spacing_mm=stored_mm)
    case = prepared(folder, manifest)
    assert case.label is not None
    restored, grid = perfect_mask(case, GLIOMA), case.record.geometry
    assert np.array_equal(restored, files["seg"])
    assert grid.matches(geometry)


def test_a_case_at_another_spacing(write: Write) -> None:
    """Boxes and margin count voxels of the stored grid, and the mask returns to the file's."""
    shape, brain = (48, 44, 40), block((8, 40), (8, 36), (6, 34))
    folder = write(head(shape, brain, None))
    seg = np.zeros(shape, np.uint8)
    seg[12:20, 12:22, 10:18], seg[14:18, 14:18, 12:16] = 2, 4
    label = original(folder)
    nifti.write(folder / "case_seg.nii.gz", seg, label.geometry)
    manifest = Manifest(crop=(8, 8, 8), margin=2, spacing_mm=2.0)
    case = prepared(folder, manifest)
    assert case.record.grid_shape == (24, 22, 20)
    assert case.record.spacing_mm == 2.0
    assert case.record.box == Box((2, 2, 1), (20, 18, 18))
    assert case.label is not None
    assert case.record.tumour_voxels is not None
    assert case.record.tumour_voxels.native == {"ncr": 0, "ed": 72, "et": 8}  # of 8 mm³ each
    restored, grid = perfect_mask(case, GLIOMA), case.record.geometry
    assert nearly_equal(restored, seg)
    assert grid == label.geometry
    voxels = nifti.read(folder / "case_t1.nii.gz").voxels
    mean, std = foreground_statistics([voxels])
    blocks = voxels.reshape(24, 2, 22, 2, 20, 2).mean(axis=(1, 3, 5))
    inside = extract(blocks, case.record.box)
    scores = np.where(inside == 0, 0, (inside - mean) / std)
    assert np.allclose(case.image[1], scores, atol=2e-3)


def test_both_conventions_come_back(files: Files, write: Write) -> None:
    recent = files | {"seg": np.where(files["seg"] == 4, 3, files["seg"]).astype(np.uint8)}
    for name, arrays in (("old", files), ("BraTS-GLI-00001-000", recent)):
        folder = write(arrays, name)
        case = prepared(folder)
        assert case.label is not None
        assert set(np.unique(case.label)) == {0, 1, 2, 3}
        assert np.array_equal(perfect_mask(case, GLIOMA), original(folder).voxels)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("stored", [np.int16, np.uint16, np.uint8, np.float32])
def test_each_modality_is_normalised_over_its_own_nonzero_voxels(
    stored: type[np.generic], dtype: str, write: Write
) -> None:
    files = head((20, 26, 24), block((2, 18), (3, 23), (4, 20)), None, np.int16)
    for name in ("flair", "t1", "t1ce", "t2"):
        files[name] = (files[name] % 251).astype(stored)
    files["t2"][:, :6] = 0  # a modality may cover less than the others
    case = prepared(write(files), Manifest(crop=(16, 16, 16), dtype=dtype))
    assert case.image.dtype == np.dtype(dtype)
    for channel, name in enumerate(("flair", "t1", "t1ce", "t2")):
        whole = files[name].astype(np.float64)
        values = whole[whole != 0]
        assert case.record.mean[name] == pytest.approx(values.mean())
        assert case.record.std[name] == pytest.approx(values.std())
        scaled = np.where(whole != 0, (whole - values.mean()) / values.std(), 0)
        expected = extract(scaled, case.record.box)
        assert np.allclose(case.image[channel], expected, atol=2e-3 if dtype == "float16" else 1e-5)
        assert np.array_equal(case.image[channel] == 0, expected == 0)


def test_the_crop_is_a_window_of_the_whole(files: Files, write: Write) -> None:
    case = prepared(write(files))
    window = case.record.crop.relative_to(case.record.box)
    assert case.crop_image.shape == (4, 16, 16, 16)
    assert np.array_equal(case.crop_image, extract(case.image, window))
    assert case.label is not None
    assert case.crop_label is not None
    assert np.array_equal(case.crop_label, extract(case.label, window))
    assert case.record.tumour_voxels is not None
    assert case.record.tumour_voxels.lost("crop") == 0.0


def test_the_crop_holds_a_tumour_that_a_centred_one_cuts(write: Write) -> None:
    shape, brain = (40, 40, 40), block((2, 38), (2, 38), (2, 38))
    tumour = block((3, 9), (4, 12), (28, 37))
    folder = write(head(shape, brain, tumour))
    case = prepared(folder)
    assert case.crop_label is not None
    counts = case.record.tumour_voxels
    assert counts is not None
    assert (case.crop_label != 0).sum() == sum(counts.native.values()) == 6 * 8 * 9
    assert counts.crop == counts.box == counts.native
    centred = original(folder).voxels[12:28, 12:28, 12:28]
    assert sum(counts.centred_crop.values()) == (centred != 0).sum() == 0
    assert counts.lost("centred_crop") == 1.0


def test_a_case_without_tumour_or_label(files: Files, write: Write) -> None:
    empty = prepared(write(files | {"seg": np.zeros_like(files["seg"])}, "empty"))
    assert empty.record.has_label
    assert empty.record.tumour_voxels is not None
    assert empty.record.tumour_voxels.native == {"ncr": 0, "ed": 0, "et": 0}
    assert empty.record.tumour_voxels.lost("crop") == 0.0
    assert empty.label is not None
    assert not perfect_mask(empty, GLIOMA).any()
    del files["seg"]
    unlabelled = prepared(write(files, "unlabelled"))
    assert not unlabelled.record.has_label
    assert unlabelled.label is unlabelled.crop_label is unlabelled.record.tumour_voxels is None
    assert unlabelled.record.crop == empty.record.crop  # centred on the brain


def test_a_resampled_background_stays_zero(files: Files, write: Write) -> None:
    geometry = Geometry((20, 26, 24), (1.5, 1.0, 0.8), (0.0, 0.0, 0.0))
    case = prepared(write(files, geometry=geometry))
    assert np.isfinite(case.image).all()
    share = np.count_nonzero(case.image) / case.image.size
    volume_mm3 = np.count_nonzero(files["flair"]) * 1.5 * 0.8
    assert share * case.image[0].size == pytest.approx(volume_mm3, rel=0.03)
    mean, std = foreground_statistics([files["flair"]])
    assert case.record.mean["flair"] == pytest.approx(mean)  # on its own grid
    assert case.record.std["flair"] == pytest.approx(std)


SPACINGS_MM = st.tuples(*[st.sampled_from([0.5, 0.8, 1.0, 1.5, 3.0])] * 3)


@settings(max_examples=20, suppress_health_check=ANY)
@given(spacing_mm=SPACINGS_MM)
def test_a_resampled_brain_is_not_darker_at_its_edge(
    spacing_mm: tuple[float, float, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The zeros outside are no intensities: a shell of one value keeps it to the edge."""
    folder = tmp_path_factory.mktemp("edge") / "case"
    folder.mkdir()
    z, y, x = np.ogrid[:20, :22, :24]
    radius = ((z - 10) / 8) ** 2 + ((y - 11) / 9) ** 2 + ((x - 12) / 10) ** 2
    grid = Geometry(radius.shape, spacing_mm, (0.0, 0.0, 0.0))
    for name in ("flair", "t1", "t1ce", "t2"):
        image = np.select([radius < 0.1, radius < 1], [900, 700]).astype(np.int16)
        nifti.write(folder / f"case_{name}.nii.gz", image, grid)
    case = prepared(folder, Manifest(crop=(16, 16, 16), dtype="float32"))
    for channel, mean, std in zip(
        case.image, case.record.mean.values(), case.record.std.values(), strict=True
    ):
        brain = channel[channel != 0] * std + mean
        assert brain.min() == pytest.approx(700, rel=1e-5)
        assert brain.max() <= 900 * (1 + 1e-5)


def test_the_order_and_the_record(files: Files, write: Write) -> None:
    stages: list[str] = []
    files["seg"][files["seg"] == 4] = 3
    manifest = MANIFEST
    case = prepare(
        discover(write(files, "BraTS-GLI-00001-007"), manifest).cases[0], manifest, stages.append
    )
    assert stages == ["read", "prepare"]
    record = case.record
    assert record.case_id == "BraTS-GLI-00001-007"
    assert record.row is None
    assert record.checksums == {}
    assert {"fm-net", "numpy", "SimpleITK", "zarr"} <= set(record.software)
    assert CaseRecord.model_validate_json(record.model_dump_json()) == record


def test_a_constant_image_is_refused(files: Files, write: Write) -> None:
    files["t1"] = np.where(files["t1"] != 0, 700, 0).astype(np.int16)
    with pytest.raises(InputError, match=r"t1.nii.gz: the same value, 700, in all of the brain"):
        prepared(write(files))


def test_a_brain_too_thin_for_a_millimetre_grid_is_refused(files: Files, write: Write) -> None:
    for name in ("flair", "t1", "t1ce", "t2"):
        thin = np.zeros_like(files[name])
        thin[:, 12, 11] = files[name][:, 12, 12]
        files[name] = thin
    geometry = Geometry((20, 26, 24), (1.0, 0.35, 0.35), (0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="a brain of 15 × 1 × 1 voxels"):
        prepared(write(files | {"seg": np.zeros_like(files["seg"])}, geometry=geometry))
