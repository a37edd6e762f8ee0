"""The Python interface, as docs/python.md shows it."""

import re
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from cli import invoke
from runs import SMALL, see_voxels
from storing import preprocess

import fmnet
from common import nifti
from common.store import Store
from common.task import GLIOMA
from preprocess.cli import app
from train.export import export_model
from train.run import begin
from train.session import save

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cases`, their store, a run, and its model file."""
    folder = tmp_path_factory.mktemp("python")
    done = invoke(app, "phantom", folder / "cases", "--cases", 3, "--size", "32,40,36")
    assert done.returncode == 0, done.stderr
    (folder / "cases" / "data_manifest.yaml").write_text("crop: [24, 24, 24]\n")
    preprocess(folder / "cases", folder / "brats.zarr")
    session = begin(
        "fm_net", [*SMALL, "inference.overlap=0"], Store.open(folder / "brats.zarr"), folder / "run"
    )
    see_voxels(session.model)
    save(session, best=True)
    export_model(folder / "run", folder / "model.fmnet")
    return folder


@pytest.fixture(scope="module")
def model(place: Path) -> fmnet.Model:
    return fmnet.load(place / "model.fmnet", device="cpu")


def arrays(folder: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    files = [next(folder.glob(f"*-{ending}.nii.gz")) for ending in ("t2f", "t1n", "t1c", "t2w")]
    images = [sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS") for path in files]
    return np.stack([sitk.GetArrayFromImage(each) for each in images]), images[0].GetSpacing()[::-1]


def case_of(place: Path) -> Path:
    return next(folder for folder in (place / "cases").iterdir() if folder.is_dir())


def test_the_page_runs_as_it_stands(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    assert len(BLOCKS) == 5
    with chdir(place):
        for block in BLOCKS:
            exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102
    printed = capsys.readouterr().out
    assert "absent.fmnet" in printed
    for region in GLIOMA.regions:
        assert f"{region} " in printed
    mask = nifti.read(place / names["masks"][names["case_id"]])
    assert np.array_equal(names["labels"], mask.voxels)  # the phantoms are in LPS, with its values


def test_an_array_is_predicted_as_its_files_are(
    place: Path, model: fmnet.Model, tmp_path: Path
) -> None:
    """Also on a grid that is resampled."""
    image, _ = arrays(case_of(place))
    spacing_mm = (1.5, 0.75, 1.0)
    (tmp_path / "case").mkdir()
    for voxels, ending in zip(image, ("flair", "t1", "t1ce", "t2"), strict=True):
        volume = sitk.GetImageFromArray(voxels)
        volume.SetSpacing(spacing_mm[::-1])
        sitk.WriteImage(volume, str(tmp_path / "case" / f"case_{ending}.nii.gz"))
    with pytest.warns(UserWarning, match="mm"):
        masks = model.predict(tmp_path / "case", tmp_path / "masks", probabilities=True)
    with pytest.warns(UserWarning, match="mm"):
        labels = model.predict_array(image, spacing_mm)
    with pytest.warns(UserWarning, match="mm"):
        probabilities = model.probabilities(image, spacing_mm)
    written = nifti.read(masks["case"]).voxels
    values = GLIOMA.to_canonical(written, "brats2021")
    assert len(np.unique(labels)) > 2
    assert np.array_equal(labels, values)
    for region, ours in zip(model.regions, probabilities, strict=True):
        (file,) = (tmp_path / "masks").glob(f"*_{region}.nii.gz")
        assert np.abs(nifti.read(file).voxels - ours).max() < 1e-3


@pytest.mark.parametrize(
    ("change", "spacing_mm", "found"),
    [
        (lambda image: image[:3], 1, "3, 32, 40, 36"),
        (lambda image: image[0], 1, "32, 40, 36"),
        (lambda image: image > 0, 1, "bool"),
        (lambda image: image, (1, 1), "spacing_mm"),
        (lambda image: image, (1, 1, 0), "spacing_mm"),
        (lambda image: image * 0, 1, "zeros"),
        (lambda image: np.where(image, np.nan, image), 1, "flair"),
    ],
)
def test_an_array_that_cannot_be_used_is_refused(
    place: Path, model: fmnet.Model, change: object, spacing_mm: object, found: str
) -> None:
    image, _ = arrays(case_of(place))
    with pytest.raises(fmnet.FMNetError, match=found):
        model.predict_array(change(image), spacing_mm)


def test_a_case_that_fails_is_an_error_after_the_others(
    place: Path, model: fmnet.Model, tmp_path: Path
) -> None:
    data = tmp_path / "cases"
    shutil.copytree(place / "cases", data)
    bad = case_of(tmp_path)
    next(bad.glob("*-t2f.nii.gz")).write_bytes(b"damaged")
    with pytest.raises(fmnet.PredictionError, match=bad.name):
        model.predict(data, tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 2


def test_scores_are_of_a_named_task() -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1:3, 1:3, 1:3] = 4
    assert fmnet.score(label, label, (1, 1, 1), task="pediatric").regions["ed"].values["dice"] == 1
    with pytest.raises(fmnet.FMNetError, match="paediatric"):
        fmnet.score(label, label, (1, 1, 1), task="paediatric")


def test_a_store_opens_with_names(place: Path) -> None:
    store = Store.open(place / "brats.zarr")
    with fmnet.open_store(place / "brats.zarr") as crops:
        for case_id in store.contents().records:
            image, label = store.read_crop(case_id)
            assert np.array_equal(crops.image.sel(case=case_id), image)
            assert np.array_equal(crops.label.sel(case=case_id), label)
    with pytest.raises(fmnet.FMNetError, match="absent"):
        fmnet.open_store(place / "absent.zarr")
