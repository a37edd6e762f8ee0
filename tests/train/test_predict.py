import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import files_of_at_most
from runs import describe_run, see_voxels

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.errors import ConfigError, InputError, RunError, StoreError
from common.geometry import Geometry
from common.manifest import Manifest
from common.names import MAX_NAME_BYTES
from common.store import Store, StoreWriter
from common.task import GLIOMA, MODALITIES, TASKS, Task
from train.config import TrainConfig
from train.loaded_run import LoadedRun
from train.precision import choose_compute
from train.predict import naming_of, predict
from train.predictions import PREDICTIONS

SHAPE = (23, 31, 27)
LPS = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
RAS = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
SAGITTAL = (0, 0, 1.0, 1.0, 0, 0, 0, -1.0, 0)

Copying = Callable[..., LoadedRun]


def geometry(shape: tuple[int, int, int] = SHAPE, direction: tuple[float, ...] = LPS) -> Geometry:
    return Geometry(shape, (1.0, 1.0, 1.0), (5.0, -25.0, 7.5), direction)


def head(
    shape: tuple[int, int, int] = SHAPE,
    centre: tuple[float, ...] = (0.3, 0.4, 0.6),
    task: Task = GLIOMA,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a tumour centred at a fraction of each side, and the brain's mask around it."""
    grid = np.indices(shape).reshape(3, -1).T / (np.array(shape) - 1)
    brain = (((grid - 0.5) / 0.45) ** 2).sum(axis=1).reshape(shape) < 1
    distance = (((grid - centre) * shape) ** 2).sum(axis=1).reshape(shape)
    distance[~brain] = np.inf
    nearest = distance.min()
    values = sorted(task.labels.values(), key=lambda value: (value == 2, value))  # 1, 3, 4, 2
    reach = (3, 12, 40, 60)[: len(values)]
    label = np.select([distance < nearest + k for k in reach], values, 0)
    return label.astype(np.uint8), brain


def same_file(written: Path, original: Path) -> None:
    found, expected = nifti.read(written), nifti.read(original)
    assert found.voxels.dtype == np.uint8
    assert np.array_equal(found.voxels, expected.voxels)
    assert found.geometry.matches(expected.geometry)
    assert np.count_nonzero(found.voxels)


CONVENTIONS = [(task, name) for task in TASKS.values() for name in task.conventions]


@pytest.mark.parametrize(
    ("task", "convention"), CONVENTIONS, ids=lambda each: getattr(each, "name", each)
)
@pytest.mark.parametrize("direction", [LPS, RAS, SAGITTAL], ids=["LPS", "RAS", "sagittal"])
def test_a_perfect_prediction_is_the_original_mask(
    tmp_path: Path,
    write_coded_case: Callable,
    copying: Copying,
    direction: tuple[float, ...],
    *,
    task: Task,
    convention: str,
) -> None:
    folder = tmp_path / "data" / "case"
    grid = geometry(direction=direction)
    write_coded_case(folder, *head(task=task), grid, task=task, convention=convention)
    loaded = copying(task=task.name, label_convention=convention)  # labels are not read
    predictions = predict(loaded, folder, tmp_path / "out")
    assert predictions.clean
    assert predictions.written == {"case": tmp_path / "out" / "case.nii.gz"}
    same_file(tmp_path / "out" / "case.nii.gz", folder / "case_seg.nii.gz")
    written = set(np.unique(nifti.read(predictions.written["case"]).voxels).tolist())
    assert written == {0, *(task.file_values(convention, label)[0] for label in task.labels)}


@pytest.mark.parametrize("direction", [LPS, RAS], ids=["LPS", "RAS"])
@pytest.mark.parametrize("channels", [MODALITIES, ("t2", "t1ce", "flair", "t1")])
def test_decathlon_files_are_predicted_in_their_own_values(
    tmp_path: Path,
    write_coded_case: Callable,
    copying: Copying,
    direction: tuple[float, ...],
    channels: tuple[str, ...],
) -> None:
    parts, data, grid = tmp_path / "parts", tmp_path / "data", geometry(direction=direction)
    write_coded_case(parts, *head(), grid, convention="msd")
    images = [nifti.read(parts / f"parts_{modality}.nii.gz").voxels for modality in channels]
    for folder, case in (("imagesTr", "BRATS_001"), ("imagesTs", "BRATS_485")):
        (data / folder).mkdir(parents=True)
        stacked = nibabel.Nifti1Image(np.stack(images).T, grid.affine)
        nibabel.save(stacked, data / folder / f"{case}.nii.gz")
    (data / "labelsTr").mkdir()
    (parts / "parts_seg.nii.gz").rename(data / "labelsTr" / "BRATS_001.nii.gz")
    loaded = copying(stacked={"channels": channels})
    predictions = predict(loaded, data, tmp_path / "out")
    assert predictions.clean
    for case in ("BRATS_001", "BRATS_485"):
        same_file(tmp_path / "out" / f"{case}.nii.gz", data / "labelsTr" / "BRATS_001.nii.gz")


def test_a_mask_on_another_order_of_axes_is_predicted_on_the_images_grid(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    folder, grid = tmp_path / "data" / "case", geometry()
    write_coded_case(folder, *head(), grid)
    label = folder / "case_seg.nii.gz"
    plain = nifti.read(label).voxels
    last = [grid.origin_mm[axis] + grid.shape[2 - axis] - 1 for axis in range(2)]
    turned = Geometry(SHAPE, (1.0, 1.0, 1.0), (last[0], last[1], grid.origin_mm[2]), RAS)
    nifti.write(label, np.ascontiguousarray(np.flip(plain, (1, 2))), turned)
    predictions = predict(copying(), folder, tmp_path / "out")
    written = nifti.read(predictions.written["case"])
    assert np.array_equal(written.voxels, plain)
    assert written.geometry.matches(grid)


FRACTION = st.floats(0, 1)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.tuples(*[st.integers(11, 37)] * 3),
    centre=st.tuples(FRACTION, FRACTION, FRACTION),
    direction=st.sampled_from([LPS, RAS, SAGITTAL]),
    margin=st.integers(0, 2),
)
def test_any_size_and_any_place_of_the_tumour_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    write_coded_case: Callable,
    copying: Copying,
    *,
    shape: tuple[int, int, int],
    centre: tuple[float, float, float],
    direction: tuple[float, ...],
    margin: int,
) -> None:
    """The tumour may touch the stored box's border; volumes are smaller and larger than a crop."""
    folder = tmp_path_factory.mktemp("data") / "case"
    write_coded_case(folder, *head(shape, centre), geometry(shape, direction))
    loaded = copying(margin=margin)
    out = folder.parent.with_name(folder.parent.name + "-out")
    predict(loaded, folder, out)
    same_file(out / "case.nii.gz", folder / "case_seg.nii.gz")


def test_tumour_outside_the_box_is_all_that_is_lost(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    label, brain = head()
    label[0, 0, :3] = 2  # the corner, far from the brain
    folder = tmp_path / "data" / "case"
    write_coded_case(folder, label, brain, geometry())
    predict(copying(), folder, tmp_path / "out")
    label[0, 0, :3] = 0
    expected = np.where(label == 3, 4, label)
    assert np.array_equal(nifti.read(tmp_path / "out" / "case.nii.gz").voxels, expected)


def small_network(modalities: tuple[str, ...] = ("flair", "t1", "t1ce", "t2")) -> LoadedRun:
    torch.manual_seed(3)
    settings = {"modalities": modalities, "model": {"widths": (4, 8), "heads": 0, "bottleneck": 0}}
    config = TrainConfig.model_validate(settings)
    model = config.model.build(len(modalities), 3)
    see_voxels(model)
    manifest, compute = Manifest(crop=(16, 16, 16)), choose_compute("cpu", "fp32")
    return LoadedRun(model, config, manifest, compute, Path("run"), "best", 1)


def stored(data: Path, path: Path, manifest: Manifest) -> Store:
    writer = StoreWriter.create(path, manifest)
    cases = discover(data, manifest).cases
    for case, row in zip(cases, writer.allocate(len(cases)), strict=True):
        writer.write(prepare(case, manifest), row)
    return Store.open(path)


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "unlabelled"])
def test_raw_files_and_their_store_give_the_same_masks(
    tmp_path: Path, write_coded_case: Callable, labelled: bool
) -> None:
    data = tmp_path / "data"
    write_coded_case(data / "one", *head(), geometry(direction=RAS), labelled=labelled)
    shape = (14, 20, 33)
    write_coded_case(data / "two", *head(shape), geometry(shape), labelled=labelled)
    loaded = replace(small_network(), run_dir=tmp_path / "run")
    store = stored(data, tmp_path / "cases.zarr", loaded.manifest)
    describe_run(loaded.run_dir, store)

    raw = predict(loaded, data, tmp_path / "raw")
    from_store = predict(loaded, store.path, tmp_path / "stored")
    assert raw.clean
    assert from_store.clean
    assert from_store.warnings == raw.replaced == []
    assert raw.written.keys() == from_store.written.keys() == {"one", "two"}
    for case_id, path in raw.written.items():
        assert len(np.unique(nifti.read(path).voxels)) > 2
        same_file(path, from_store.written[case_id])
    raw.written["one"].unlink()
    again = predict(loaded, data, tmp_path / "raw")
    assert (again.kept, again.replaced) == (["two"], [])
    assert again.written == raw.written


def test_a_store_that_is_not_the_runs_own_is_said_so(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    loaded, data = copying(), tmp_path / "data"
    write_coded_case(data / "one", *head(), geometry())
    own = stored(data, tmp_path / "own.zarr", loaded.manifest)
    describe_run(loaded.run_dir, own)
    other = loaded.manifest.model_copy(update={"margin": 5})
    store = stored(data, tmp_path / "other.zarr", other)
    warnings = predict(loaded, store.path, tmp_path / "out").warnings
    assert any("own.zarr" in warning and "other.zarr" in warning for warning in warnings)
    assert any("margin 5, the run's store with 2" in warning for warning in warnings)


def test_a_model_sees_its_own_modalities_in_its_own_order(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    folder = tmp_path / "data" / "case"
    write_coded_case(folder, *head(), geometry())
    loaded = copying(sees=("t1ce", "t1", "flair"))
    predict(loaded, folder, tmp_path / "out")
    same_file(tmp_path / "out" / "case.nii.gz", folder / "case_seg.nii.gz")


def test_a_bad_case_is_set_aside_and_the_others_go_on(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data = tmp_path / "data"
    for name in ("cut", "good", "odd", "short"):
        write_coded_case(data / name, *head(), geometry())
    (data / "short" / "short_t2.nii.gz").unlink()
    (data / "good" / "loose.nii.gz").write_bytes(
        (data / "good" / "good_t1.nii.gz").read_bytes()[:99]
    )
    cut = data / "cut" / "cut_t1.nii.gz"
    cut.write_bytes(cut.read_bytes()[:200])
    other = geometry(direction=RAS)
    nifti.write(data / "odd" / "odd_t1.nii.gz", head()[1].astype(np.int16), other)

    told = []
    predictions = predict(copying(), data, tmp_path / "out", lambda *done: told.append(done))
    assert list(predictions.written) == ["good"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good.nii.gz", PREDICTIONS}
    assert predictions.failures.keys() == {"cut", "odd"}
    assert "cut_t1.nii.gz: damaged" in predictions.failures["cut"]
    assert "a grid of" in predictions.failures["odd"]
    loose, short = predictions.findings
    assert loose.found.startswith("damaged: incomplete or truncated stream; also, name ends in")
    assert loose in discover(data, Manifest()).findings  # as `check` says it
    assert short.case == "short"
    assert not predictions.clean
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_network_without_numbers_fails_its_cases_and_no_mask_is_written(
    tmp_path: Path, write_coded_case: Callable
) -> None:
    write_coded_case(tmp_path / "data" / "case", *head(), geometry())
    loaded = small_network()
    with torch.no_grad():
        loaded.model.main_head.bias.fill_(torch.nan)
    predictions = predict(loaded, tmp_path / "data", tmp_path / "out")
    assert "NaN" in predictions.failures["case"]
    assert not predictions.written
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("place", ["beside the case", "in the cohort"])
def test_names_are_the_datas_own_and_geometry_is_the_runs(
    tmp_path: Path, write_coded_case: Callable, copying: Copying, place: str
) -> None:
    data = tmp_path / "data"
    endings = ("dark-fluid", "plain", "gad", "wet")
    release = {"convention": "brats2023", "endings": endings}
    write_coded_case(data / "case", *head(), geometry(), **release, labelled=False)
    with pytest.raises(InputError, match="dark-fluid"):
        predict(copying(), data, tmp_path / "out")
    (data / "data_manifest.yaml").write_text(
        "modalities: {flair: [dark-fluid], t1: [plain], t1ce: [gad], t2: [wet]}\n"
        "label_convention: brats2023\ncrop: [64, 64, 64]\n"
    )
    folder = data / "case" if place == "beside the case" else data
    loaded = copying(margin=1)
    written = predict(loaded, folder, tmp_path / "out").written["case"]
    used = naming_of(loaded, folder)
    assert (used.crop, used.margin) == ((16, 16, 16), 1)
    assert used.modalities["flair"] == ("dark-fluid",)
    assert np.array_equal(nifti.read(written).voxels, head()[0])


def test_without_a_manifest_beside_the_data_names_are_the_runs(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    folder = tmp_path / "data" / "case"
    write_coded_case(folder, *head(), geometry(), endings=("a", "b", "c", "d"))
    named = {"flair": ("a",), "t1": ("b",), "t1ce": ("c",), "t2": ("d",)}
    predict(copying(modalities=named), folder, tmp_path / "out")
    same_file(tmp_path / "out" / "case.nii.gz", folder / "case_seg.nii.gz")


def test_what_holds_no_case_is_a_clear_error(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    loaded, empty = copying(), tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no usable case"):
        predict(loaded, empty, tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        predict(loaded, tmp_path / "nowhere", tmp_path / "out")
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(InputError, match=r"link: .*symbolic links"):
        predict(loaded, link, tmp_path / "out")
    StoreWriter.create(tmp_path / "new.zarr", loaded.manifest)
    with pytest.raises(StoreError, match="no case in this store"):
        predict(loaded, tmp_path / "new.zarr", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["data", "data/out", "data/case"])
def test_masks_among_the_data_are_refused(
    tmp_path: Path, write_coded_case: Callable, copying: Copying, out: str
) -> None:
    write_coded_case(tmp_path / "data" / "case", *head(), geometry())
    with pytest.raises(ConfigError, match="name a place outside"):
        predict(copying(), tmp_path / "data", tmp_path / out)


def test_one_mask_goes_to_the_file_that_is_named(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data, loaded = tmp_path / "data", copying()
    write_coded_case(data / "one", *head(), geometry())
    for name in ("new/mask.nii.gz", "mask.NII"):
        written = predict(loaded, data, tmp_path / name).written
        assert written == {"one": tmp_path / name}
        same_file(written["one"], data / "one" / "one_seg.nii.gz")
        assert len(list(written["one"].parent.glob("*mask*"))) == 1
    assert (tmp_path / "mask.NII").read_bytes()[:2] != b"\x1f\x8b"
    with pytest.raises(RunError, match="already"):
        predict(loaded, data, tmp_path / "mask.NII")
    same_file(tmp_path / "mask.NII", data / "one" / "one_seg.nii.gz")
    with pytest.raises(ConfigError, match=r"mask\.NII is no folder"):
        predict(loaded, data, tmp_path / "mask.NII" / "below")
    write_coded_case(data / "two", *head(), geometry())
    with pytest.raises(RunError, match=r"the name of one mask, and .*data has 2 cases"):
        predict(loaded, data, tmp_path / "other.nii.gz")
    assert not (tmp_path / "other.nii.gz").exists()


def test_masks_in_a_store_are_refused(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    loaded, data = copying(), tmp_path / "data"
    write_coded_case(data / "one", *head(), geometry())
    store = stored(data, tmp_path / "s.zarr", loaded.manifest)
    for source in (data, store.path):
        with pytest.raises(ConfigError, match="is in the store"):
            predict(loaded, source, tmp_path / "s.zarr" / "masks")


def brain_mask(folder: Path) -> None:
    voxels = nifti.read(folder / f"{folder.name}_flair.nii.gz").voxels
    nifti.write(folder / f"{folder.name}_seg.nii.gz", (voxels != 0).astype(np.uint8), geometry())


def damaged(folder: Path) -> None:
    (folder / f"{folder.name}_seg.nii.gz").write_bytes(b"no image")


def elsewhere(folder: Path) -> None:
    nifti.write(folder / f"{folder.name}_seg.nii.gz", head()[0], geometry(direction=SAGITTAL))


def twice(folder: Path) -> None:
    (folder / f"{folder.name}_gtv.nii.gz").write_bytes(b"")


@pytest.mark.parametrize("spoil", [brain_mask, damaged, elsewhere, twice])
def test_a_label_that_cannot_be_used_is_no_obstacle(
    tmp_path: Path, write_coded_case: Callable, copying: Copying, spoil: Callable[[Path], None]
) -> None:
    write_coded_case(tmp_path / "data" / "good", *head(), geometry())
    write_coded_case(tmp_path / "data" / "odd", *head(), geometry())
    spoil(tmp_path / "data" / "odd")
    predictions = predict(copying(), tmp_path / "data", tmp_path / "out")
    assert predictions.clean, (predictions.findings, predictions.failures)
    same_file(predictions.written["odd"], predictions.written["good"])


def test_a_run_of_two_modalities_needs_these_two_files(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data = tmp_path / "data"
    for name in ("all", "two"):
        write_coded_case(data / name, *head(), geometry())
    for name in ("t1ce", "t2"):
        (data / "two" / f"two_{name}.nii.gz").unlink()
    (data / "all" / "all_t2.nii.gz").write_bytes(b"no image, which nobody needs")
    loaded = copying(sees=("t1", "flair"))
    predictions = predict(loaded, data, tmp_path / "out")
    assert predictions.clean, (predictions.findings, predictions.failures)
    for name in ("all", "two"):
        same_file(predictions.written[name], data / name / f"{name}_seg.nii.gz")
    (data / "two" / "two_t1.nii.gz").unlink()
    (finding,) = predict(loaded, data, tmp_path / "out").findings
    assert finding.case == "two"
    assert finding.found == "t1 is missing"
    assert "modalities:" not in finding.action  # the run would refuse a manifest of fewer images
    assert "flair alone" in finding.action


def test_what_is_unusual_in_a_case_is_said_with_its_mask(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data = tmp_path / "data"
    for name in ("plain", "same"):
        write_coded_case(data / name, *head(), geometry())
    (data / "same" / "same_t1.nii.gz").write_bytes((data / "same/same_flair.nii.gz").read_bytes())
    loaded = copying()
    store = stored(data, tmp_path / "s.zarr", loaded.manifest)
    describe_run(loaded.run_dir, store)
    for source in (data, store.path):
        warned = predict(loaded, source, tmp_path / "out").case_warnings
        assert ("same", "same_t1.nii.gz") in {(f.case, f.file) for f in warned}, warned


def test_the_values_of_the_masks_are_explained(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data = tmp_path / "data"
    for name in ("old1", "old2"):
        write_coded_case(data / name, *head(), geometry())
    write_coded_case(data / "new", *head(), geometry(), endings=("t2f", "t1n", "t1c", "t2w"))
    new, old = predict(copying(), data, tmp_path / "out").legend
    assert new.startswith("new: 1 ")
    assert old.startswith("old1, old2: 1 ")
    assert "3 enhancing tumour (brats2023, by names; labels are not read)" in new
    assert "4 enhancing tumour (brats2021, by names; labels are not read)" in old


@pytest.mark.parametrize("case", ["BraTS-GLI-00000-000", "BraTS2021_01657"])
def test_a_perfect_prediction_of_a_real_case(
    tmp_path: Path, real_cases: Path, write_coded_case: Callable, copying: Copying, case: str
) -> None:
    """A real brain and mask of 240×240×155, of either convention, in the real headers' geometry."""
    files = next(c for c in discover(real_cases / "brats", Manifest()).cases if c.case_id == case)
    assert files.label is not None
    original = nifti.read(files.label)
    brain = nifti.read(files.images["flair"]).voxels != 0
    label = np.where(original.voxels == 4, 3, original.voxels).astype(np.uint8)
    folder = tmp_path / "data" / case
    convention = "brats2021" if 4 in original.voxels else "brats2023"
    # Unlike the model, a mask may reach where there is no brain.
    write_coded_case(folder, label, brain | (label > 0), original.geometry, convention=convention)
    loaded = copying(crop=(128, 128, 128), label_convention=convention)
    predict(loaded, folder, tmp_path / "out")
    same_file(tmp_path / "out" / f"{case}.nii.gz", files.label)


def test_only_earlier_masks_are_replaced(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data, out, loaded = tmp_path / "data", tmp_path / "out", copying()
    write_coded_case(data / "case", *head(), geometry())
    predict(loaded, data, out)
    (out / PREDICTIONS).unlink()
    assert predict(loaded, data, out).replaced == ["case"]
    reference = (data / "case" / "case_seg.nii.gz").read_bytes()
    (out / "case.nii.gz").write_bytes(reference)
    with pytest.raises(RunError, match=r"case\.nii\.gz: is there"):
        predict(loaded, data, out)
    assert (out / "case.nii.gz").read_bytes() == reference


def test_a_mask_that_cannot_be_written_leaves_the_earlier_one_and_the_others_go_on(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data, out, loaded = tmp_path / "data", tmp_path / "out", copying()
    write_coded_case(data / "a-large", *head((40, 50, 60)), geometry((40, 50, 60)))
    write_coded_case(data / "b-small", *head(), geometry())
    predict(loaded, data, out)
    (out / PREDICTIONS).unlink()  # else nothing is predicted again
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    sizes = [len(content) for _, content in sorted(before.items())]
    assert sizes[0] > sizes[1]
    with files_of_at_most(sizes[1]):
        again = predict(loaded, data, out)
    assert not again.clean
    assert again.failures.keys() == {"a-large"}
    assert "a-large.nii.gz: cannot be written" in again.failures["a-large"]
    assert again.replaced == ["b-small"]
    assert PREDICTIONS in again.unnoted
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_mask_in_the_place_of_something_else_is_refused_before_any_work(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    data, out, loaded = tmp_path / "data", tmp_path / "out", copying()
    write_coded_case(data / "case", *head(), geometry())
    out.mkdir()
    mask = out / "case.nii.gz"
    for make in (os.mkfifo, lambda path: path.symlink_to("nowhere"), Path.mkdir):
        make(mask)
        with pytest.raises(ConfigError, match=r"case\.nii\.gz"):
            predict(loaded, data, out)
        mask.rmdir() if mask.is_dir() else mask.unlink()


def test_the_longest_case_id_can_be_predicted(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    case = "é" * (MAX_NAME_BYTES // 2)
    write_coded_case(tmp_path / "data" / case, *head(), geometry())
    assert predict(copying(), tmp_path / "data", tmp_path / "out").clean
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{case}.nii.gz", PREDICTIONS}
