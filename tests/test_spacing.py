"""A cohort stored at 2 mm, from its phantoms to masks in the files' own grid."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import yaml
from cli import invoke

from common.store import Store
from preprocess.cli import app as preprocess
from train.cli import app as train

SMALL = ("model.widths=[2,2,4,4]", "epochs=1", "validate_every=1", "workers=1")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cohort_at_2_mm(tmp_path: Path) -> None:
    data, store, run, out = (tmp_path / name for name in ("data", "s.zarr", "run", "out"))
    invoke(preprocess, "phantom", data, "--cases", 4, "--size", "64,64,64")
    path = data / "data_manifest.yaml"
    manifest = yaml.safe_load(path.read_text()) | {"spacing_mm": 2, "crop": [32, 32, 32]}
    path.write_text(yaml.safe_dump(manifest))
    settings = [word for setting in SMALL for word in ("--set", setting)]
    for app, *arguments in (
        (preprocess, "check", data),
        (preprocess, "run", data, "--store", store),
        (preprocess, "verify", store),
        (preprocess, "report", store),
        (train, "run", "demo", "--store", store, "--out", run, *settings),
        (train, "evaluate", run, "--store", store, "--split", "test"),
        (train, "predict", run, data, "--out", out),
    ):
        result = invoke(app, *arguments)
        assert result.returncode == 0, result.stderr
    stored = Store.open(store)
    records = stored.contents().records
    assert {record.grid_shape for record in records.values()} == {(32, 32, 32)}
    assert {record.crop.shape for record in records.values()} == {(32, 32, 32)}
    for case_id in records:
        mask = nibabel.load(out / f"{case_id}.nii.gz")
        image = nibabel.load(data / case_id / f"{case_id}-t2f.nii.gz")
        label = nibabel.load(data / case_id / f"{case_id}-seg.nii.gz")
        assert mask.shape == image.shape == (64, 64, 64)
        assert np.array_equal(mask.affine, image.affine)
        reference = stored.read_reference(case_id)
        assert np.array_equal(reference, np.asarray(label.dataobj).T)  # written as 1, 2, 3
