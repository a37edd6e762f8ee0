"""Reading a case: images and grids, and everything that is refused."""

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from folders import NO_FILES
from numpy.typing import NDArray
from waiting import Gate

from common import nifti
from common.discovery import discover
from common.errors import Finding, InputError
from common.geometry import Geometry, Orientation, reorient
from common.manifest import Manifest
from common.task import MODALITIES
from common.validate import LoadedCase, load_case

Files = dict[str, NDArray[np.generic]]
Write = Callable[..., Path]


def loaded(folder: Path, **settings: object) -> LoadedCase:
    manifest = Manifest(**settings)
    (case,) = discover(folder, manifest).cases
    return load_case(case, manifest)


def refused(folder: Path, **settings: object) -> tuple[Finding, ...]:
    with pytest.raises(InputError) as caught:
        loaded(folder, **settings)
    return caught.value.findings


GRID = Geometry((20, 26, 24), (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
OTHER_GRIDS = {
    "moved": replace(GRID, origin_mm=(0.0, -24.0, 0.0)),
    "moved by a fifth": replace(GRID, origin_mm=(0.0, -25.0, 0.2)),
    "stretched": replace(GRID, spacing_mm=(1.0, 1.0, 1.2)),
    "turned": replace(GRID, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
    "identity": replace(GRID, origin_mm=(0.0, 0.0, 0.0), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1)),
}


@pytest.mark.parametrize("other", OTHER_GRIDS)
@pytest.mark.parametrize("name", ["t2", "seg"])
def test_another_grid_is_refused_and_the_advice_keeps_the_voxels(
    name: str, other: str, files: Files, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(files, geometries={name: OTHER_GRIDS[other]})
    for path in set(folder.glob("*.gz")) - {folder / f"case_{name}.nii.gz"}:
        image = nibabel.load(path)  # whose two forms differ: both are to be copied
        image.set_sform(np.diag([-2, -2, 2, 1]), 2)
        image.set_qform(image.get_qform(), 1)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header), path)
    (finding,) = refused(folder)
    assert finding.file.endswith(f"case_{name}.nii.gz")
    assert finding.found.startswith("a grid of (20, 26, 24) voxels")
    assert "case_flair.nii.gz" in finding.expected
    assert not re.search("resample|register", finding.action)
    _, code, _ = finding.action.split("`")
    monkeypatch.chdir(folder)
    exec(code, {})  # noqa: S102 - what the message tells the user to do
    Path("new.nii.gz").replace(f"case_{name}.nii.gz")
    case, expected = loaded(folder), loaded(write(files, "straight"))
    assert ["placed by its qform" in note.found for note in case.warnings] == [True]
    assert np.array_equal(case.label, expected.label)
    assert np.array_equal(case.images["t2"], expected.images["t2"])


def test_the_header_to_doubt_is_the_one_that_no_other_file_has(files: Files, write: Write) -> None:
    (finding,) = refused(write(files, geometries={"flair": OTHER_GRIDS["identity"]}))
    assert finding.file.endswith("case_flair.nii.gz")
    assert "case_t1.nii.gz" in finding.expected


def test_a_mask_without_a_place_in_its_header_is_told_so(files: Files, write: Write) -> None:
    folder = write(files)
    path = folder / "case_seg.nii.gz"
    image = nibabel.load(path)
    bare = nibabel.Nifti1Image(np.asarray(image.dataobj), None)
    nibabel.save(bare, path)
    (finding,) = refused(folder)
    assert "no orientation in its header" in finding.found


@pytest.mark.parametrize("direction", [GRID.direction, (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
@pytest.mark.parametrize("name", ["t2", "seg", "flair"])
def test_a_tenth_of_a_voxel_is_the_same_grid(
    name: str, direction: tuple[float, ...], files: Files, write: Write
) -> None:
    grid = Geometry((20, 26, 24), (1.0, 2.0, 1.0), (3.0, -25.0, 4.0), direction)
    near = replace(grid, origin_mm=(3.0, -25.2, 4.05))  # in float32, a little more than a tenth
    case = loaded(write(files, geometry=grid, geometries={name: near}))
    assert np.array_equal(case.images["t2"], files["t2"])
    assert case.label is not None
    assert np.array_equal(case.label > 0, files["seg"] > 0)
    assert case.geometry.matches(near if name == "flair" else grid)
    (off,) = [finding for finding in case.warnings if "0.1 voxels" in finding.found]
    assert ("3 more" in off.found) is (name == "flair")  # all others from the first


def test_a_small_offset_of_a_mask_with_turned_axes_is_one_grid_too(
    files: Files, write: Write
) -> None:
    turned = Geometry(
        (20, 26, 24), (1.0, 1.0, 1.0), (23.05, 0.0, 0.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    )
    back = np.ascontiguousarray(files["seg"][:, ::-1, ::-1])
    case = loaded(write(files | {"seg": back}, geometries={"seg": turned}))
    assert case.label is not None
    assert np.array_equal(case.label > 0, files["seg"] > 0)
    found = [finding.found for finding in case.warnings]
    assert "another order of axes" in found[0]
    assert "0.05 voxels" in found[1]


@pytest.mark.parametrize(("name", "asked"), [("t1", "resample"), ("seg", "export it again")])
def test_another_size_is_refused(name: str, asked: str, files: Files, write: Write) -> None:
    smaller = Geometry((19, 26, 24), (1.0, 1.0, 1.0), (0.0, -25.0, 0.0))
    folder = write(files | {name: files[name][1:]}, geometries={name: smaller})
    (finding,) = refused(folder)
    assert finding.found.startswith("a grid of (19, 26, 24) voxels")
    assert asked in finding.action


@pytest.mark.parametrize("spacing_mm", [0.001, 1000.0])
def test_a_spacing_that_makes_no_head_is_refused(
    spacing_mm: float, files: Files, write: Write
) -> None:
    grid = Geometry((20, 26, 24), (spacing_mm,) * 3, (0.0, 0.0, 0.0))
    findings = refused(write(files, geometry=grid))
    assert len(findings) == 5
    assert all("mm (z, y, x)" in finding.found for finding in findings)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_no_intensities_are_refused(
    value: float, files: Files, write: Write
) -> None:
    invalid = files["t1"].astype(np.float32)
    invalid[10, 10, :3] = value
    (finding,) = refused(write(files | {"t1": invalid}))
    assert finding.found == "3 voxels that are NaN or infinite"


def test_an_image_of_zeros_is_refused(files: Files, write: Write) -> None:
    (finding,) = refused(write(files | {"t2": np.zeros_like(files["t2"])}))
    assert finding.found == "only zeros"


def test_all_that_is_wrong_is_said_at_once(files: Files, write: Write) -> None:
    other = Geometry((20, 26, 24), (1.0, 1.0, 2.0), (0.0, -25.0, 0.0))
    files["t1"] = np.zeros_like(files["t1"])
    files["seg"] = (files["seg"] * 2).astype(np.uint8)
    folder = write(files, geometries={"t1ce": other})
    flair = folder / "case_flair.nii.gz"
    flair.write_bytes(flair.read_bytes()[:-50])
    findings = {Path(finding.file).name: finding.found for finding in refused(folder)}
    assert list(findings) == [
        "case_flair.nii.gz",
        "case_t1ce.nii.gz",
        "case_t1.nii.gz",
        "case_seg.nii.gz",
    ]


KINDS = {
    "uint8": lambda v: nibabel.Nifti1Image((v % 251).astype(np.uint8), None),
    "uint16": lambda v: nibabel.Nifti1Image(v.astype(np.uint16), None),
    "int32": lambda v: nibabel.Nifti1Image(v.astype(np.int32), None),
    "float32": lambda v: nibabel.Nifti1Image(v.astype(np.float32) / 7, None),
    "float64": lambda v: nibabel.Nifti1Image(v.astype(np.float64) / 7, None),
    "big endian": lambda v: nibabel.Nifti1Image(v, None, nibabel.Nifti1Header(endianness=">")),
    "big endian floats": lambda v: nibabel.Nifti1Image(
        v.astype(np.float32), None, nibabel.Nifti1Header(endianness=">")
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_voxels_of_every_type_are_taken_as_they_are(kind: str, files: Files, write: Write) -> None:
    folder = write(files)
    image = KINDS[kind](files["t1"].T)
    image.set_sform(nifti.read(folder / "case_t2.nii.gz").geometry.affine, 1)
    nibabel.save(image, folder / "case_t1.nii.gz")
    voxels = loaded(folder).images["t1"]
    assert voxels.dtype.isnative
    assert np.array_equal(voxels, np.asarray(image.dataobj).T)


def test_scaled_voxels_and_labels_are_scaled(files: Files, write: Write) -> None:
    folder = write(files)
    affine = nifti.read(folder / "case_t2.nii.gz").geometry.affine
    for name, slope, intercept in (("t1", 0.5, -3.0), ("seg", 2.0, 0.0)):
        stored = files[name] // 2 if name == "seg" else files[name]
        image = nibabel.Nifti1Image(stored.astype(np.int16).T, affine)
        image.header.set_slope_inter(slope, intercept)
        nibabel.save(image, folder / f"case_{name}.nii.gz")
    case = loaded(folder)
    assert np.allclose(case.images["t1"], files["t1"] * 0.5 - 3)
    assert case.label is not None
    assert set(np.unique(case.label)) == {0, 2, 3}


def stack(folder: Path, files: Files, label: NDArray[np.generic] | None = None) -> Path:
    """A case of the Decathlon's layout, its channels in the order of `files`."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    images = nibabel.Nifti1Image(np.stack(list(files.values())).T, np.diag([-1, -1, 1, 1]))
    nibabel.save(images, folder / "imagesTr" / "BRATS_1.nii.gz")
    if label is not None:
        values = nibabel.Nifti1Image(label.astype(np.uint8).T, np.diag([-1, -1, 1, 1]))
        nibabel.save(values, folder / "labelsTr" / "BRATS_1.nii.gz")
    return folder


@pytest.mark.parametrize("order", [MODALITIES, ("t1ce", "t2", "flair", "t1")])
def test_the_channels_of_a_stacked_case_are_its_modalities(
    order: tuple[str, ...], files: Files, tmp_path: Path
) -> None:
    label = np.choose(np.where(files["seg"] == 4, 3, files["seg"]), [0, 2, 1, 3])
    folder = stack(tmp_path, {name: files[name] for name in order}, label)
    case = loaded(folder, stacked={"channels": order})
    assert list(case.images) == list(MODALITIES)
    for name in MODALITIES:
        assert np.array_equal(case.images[name], files[name])
    assert (case.convention, case.convention_from) == ("msd", "layout")
    assert case.label is not None
    assert np.array_equal(case.label, np.where(files["seg"] == 4, 3, files["seg"]))
    assert [source.role for source in case.sources] == [*MODALITIES, "label"]
    assert len({source.sha256 for source in case.sources}) == 2


def test_a_4d_file_of_one_modality(files: Files, tmp_path: Path) -> None:
    label = (files["seg"] == 4).astype(np.uint8)
    case = loaded(stack(tmp_path, {"t1ce": files["t1ce"]}, label), task="meningioma-rt")
    assert np.array_equal(case.images["t1ce"], files["t1ce"])
    assert case.label is not None
    assert np.array_equal(case.label, label)


def test_a_layouts_convention_is_overruled_by_the_manifest_alone(
    files: Files, tmp_path: Path
) -> None:
    images = {name: files[name] for name in MODALITIES}
    folder = stack(tmp_path, images, files["seg"])
    (finding,) = refused(folder)
    assert finding.found == "label values [0, 1, 2, 4]"
    assert finding.expected == "msd [0, 1, 2, 3], decided by its layout"
    case = loaded(folder, label_convention="brats2021")
    assert (case.convention, case.convention_from) == ("brats2021", "manifest")
    assert case.label is not None
    assert np.array_equal(case.label == 1, files["seg"] == 1)


def test_a_stacked_case_without_a_label_is_the_decathlons(files: Files, tmp_path: Path) -> None:
    case = loaded(stack(tmp_path, {name: files[name] for name in MODALITIES}))
    assert case.label is None
    assert (case.convention, case.convention_from) == ("msd", "layout")


@pytest.mark.parametrize("name", ["seg", "t1", "flair"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_files_of_one_place_are_turned_to_the_first_ones_axes(
    axes: tuple[int, int, int], name: str, files: Files, write: Write
) -> None:
    plain = Geometry((20, 26, 24), (1.0, 1.2, 0.9), (0.0, -25.0, 0.0))
    other = Orientation(axes, (True, False, True))
    grid, turned = other.oriented(plain), np.ascontiguousarray(other.orient(files[name]))
    folder = write(files | {name: turned}, geometry=plain, geometries={name: grid})
    straight = loaded(write(files, "straight", geometry=plain))
    case = loaded(folder)
    first = grid if name == "flair" else plain
    assert case.geometry.matches(first)
    back = {m: reorient(v, case.geometry, plain) for m, v in case.images.items()}
    for modality, voxels in straight.images.items():
        assert np.array_equal(back[modality], voxels)
    assert case.label is not None
    assert np.array_equal(reorient(case.label, case.geometry, plain), straight.label)


def test_a_source_is_the_file_that_was_read_and_not_what_took_its_place(
    files: Files, write: Write
) -> None:
    """As when a late copy comes while a case is read: its next run must see another file."""
    folder = write(files)
    path, newer = folder / "case_t2.nii.gz", folder / "newer"
    content = path.read_bytes()
    nifti.write(folder / "newer.nii.gz", files["t2"] // 2, nifti.read(path).geometry)
    (folder / "newer.nii.gz").rename(newer)
    gate = Gate(path)

    def give() -> None:
        gate.wait()
        newer.replace(path)
        gate.open()

    giving = threading.Thread(target=give)
    giving.start()
    (source,) = [source for source in loaded(folder).sources if source.role == "t2"]
    giving.join()
    assert source.sha256 == hashlib.sha256(content).hexdigest()
    state = path.stat()
    assert (source.size_bytes, source.modified_ns) != (state.st_size, state.st_mtime_ns)


@pytest.mark.parametrize("name", ["t2", "seg"])
@pytest.mark.parametrize("kind", [kind for kind in NO_FILES if kind != "a folder"])
def test_what_is_no_file_is_one_finding(kind: str, name: str, files: Files, write: Write) -> None:
    folder = write(files)
    path = folder / f"case_{name}.nii.gz"
    path.unlink()
    NO_FILES[kind](path)
    (finding,) = refused(folder)
    assert (finding.file, finding.expected) == (str(path), "a file")
    assert finding.found.startswith(kind)


def test_a_folder_in_the_place_of_an_image_is_named(files: Files, write: Write) -> None:
    folder = write(files)
    path = folder / "case_t2.nii.gz"
    path.unlink()
    path.mkdir()
    of_folder, of_case = discover(folder, Manifest()).findings
    assert of_folder.file == "case_t2.nii.gz"
    assert "a folder" in of_folder.found
    assert (of_case.case, of_case.found) == ("case", "t2 is missing")


def test_sources_are_the_files(files: Files, write: Write) -> None:
    folder = write(files)
    case = loaded(folder)
    assert [source.role for source in case.sources] == ["flair", "t1", "t1ce", "t2", "label"]
    for source in case.sources:
        path = folder / source.file
        assert source.sha256 == nifti.read(path).file.sha256
        assert source.size_bytes == path.stat().st_size
        assert source.modified_ns == path.stat().st_mtime_ns


def test_three_images_that_are_one_are_one_warning(files: Files, write: Write) -> None:
    folder = write(files | {"t1ce": files["t1"], "t2": files["t1"]})
    alike = [f for f in loaded(folder).warnings if "t1ce and t2" in f.found]
    assert [Path(f.file).name for f in alike] == ["case_t1ce.nii.gz"]


def test_a_coarser_grid_is_remarked_on_only_for_unusual_files(files: Files, write: Write) -> None:
    usual = write(files, "usual")
    thick = write(files, "thick", geometry=replace(GRID, spacing_mm=(2.0, 1.0, 1.0)))
    assert not [f for f in loaded(usual, spacing_mm=2).warnings if "mm (z, y, x)" in f.found]
    assert [f for f in loaded(thick, spacing_mm=2).warnings if "2 × 1 × 1 mm" in f.found]
