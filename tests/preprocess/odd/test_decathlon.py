"""The Medical Segmentation Decathlon's layout, from its files to a store and back."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from storing import preprocess

from common import nifti
from common.manifest import Manifest
from common.store import Store
from common.task import GLIOMA, MODALITIES
from preprocess.check import check, cohort_findings
from preprocess.phantom.image import Phantom, synthesise
from preprocess.plan import plan

Command = Callable[..., subprocess.CompletedProcess[str]]

SIZE = (40, 48, 44)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
AFFINE[:3, 3] = [0.0, 47.0, 0.0]
MANIFEST = """
crop: [32, 32, 32]
splits: {kind: lists, train: [BRATS_000], val: [BRATS_001], test: [BRATS_002]}
"""


def write(data: Path, index: int, *, labelled: bool) -> Phantom:
    """A phantom as the Decathlon would have it: float32 images, uint8 labels, other values."""
    phantom = synthesise(7, index, SIZE)
    folder = data / ("imagesTr" if labelled else "imagesTs")
    images = nibabel.Nifti1Image(phantom.image.astype(np.float32).T, AFFINE)
    nibabel.save(images, folder / f"BRATS_{index:03d}.nii.gz")
    if labelled:
        values = np.choose(phantom.label, [0, 2, 1, 3]).astype(np.uint8)
        label = nibabel.Nifti1Image(values.T, AFFINE)
        nibabel.save(label, data / "labelsTr" / f"BRATS_{index:03d}.nii.gz")
    return phantom


@pytest.mark.slow
def test_a_cohort_is_preprocessed_and_its_labels_come_back(
    tmp_path: Path, command: Command
) -> None:
    data, path = tmp_path / "Task01_BrainTumour", tmp_path / "s.zarr"
    for folder in ("imagesTr", "imagesTs", "labelsTr"):
        (data / folder).mkdir(parents=True)
    phantoms = [write(data, index, labelled=index < 3) for index in range(4)]
    (data / "dataset.json").write_text("{}")
    (data / "data_manifest.yaml").write_text(MANIFEST)

    checked = command("check", data, "--json")
    assert checked.returncode == 0, checked.stdout
    found = {finding["found"] for finding in json.loads(checked.stdout)["findings"]}
    assert any(text.startswith("3 case(s) of one 4-D file") for text in found)
    done = command("run", data, "--store", path, "--workers", 2)
    assert done.returncode == 0, done.stdout + done.stderr

    store = Store.open(path)
    for index, phantom in enumerate(phantoms):
        record = store.record(f"BRATS_{index:03d}")
        assert (record.convention, record.convention_from) == ("msd", "layout")
        assert record.has_label == (index < 3)
        image, label = store.read_volume(record.case_id)
        for channel, modality in enumerate(MODALITIES):
            inside = phantom.image[channel] != 0
            assert record.mean[modality] == pytest.approx(phantom.image[channel][inside].mean())
            assert np.count_nonzero(image[channel]) == pytest.approx(inside.sum(), rel=0.01)
        if label is None:
            continue
        assert record.tumour_voxels is not None
        assert record.tumour_voxels.native == store.task.label_voxels(phantom.label)
        restored = store.task.from_canonical(record.to_file_grid(label), record.convention)
        original = nifti.read(data / "labelsTr" / f"BRATS_{index:03d}.nii.gz")
        assert np.array_equal(restored, original.voxels)
        assert np.array_equal(restored, GLIOMA.from_canonical(phantom.label, "msd"))
        assert record.geometry.matches(original.geometry)
    again = command("run", data, "--store", path)
    assert "0 case(s) to do, 4 done before" in again.stdout


def dataset(root: Path, labels: dict[str, int]) -> Path:
    """One labelled case, and the `dataset.json` that states its labels."""
    data = root / "data"
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir(parents=True)
    write(data, 0, labelled=True)
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    return data


def test_the_stated_values_of_4d_files_are_told(tmp_path: Path) -> None:
    data = dataset(tmp_path, {"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4})
    manifest = Manifest.model_validate({"task": "post-treatment"})
    discovery, cases = check(data, manifest, 1)
    found = [finding.found for finding in cohort_findings(discovery, list(cases), manifest)]
    assert any(manifest.task.legend("brats2024") in text for text in found)


def test_a_corrected_dataset_json_makes_its_cases_again(tmp_path: Path) -> None:
    data, path = dataset(tmp_path, {}), tmp_path / "s.zarr"
    (data / "data_manifest.yaml").write_text("crop: [32, 32, 32]")
    manifest = preprocess(data, path).manifest
    assert plan(data, str(path), manifest).kept == ["BRATS_000"]
    stated = {"labels": {"necrosis": 1, "edema": 2, "enhancing": 3}}
    (data / "dataset.json").write_text(json.dumps(stated))
    assert [case.case_id for case in plan(data, str(path), manifest).todo] == ["BRATS_000"]
