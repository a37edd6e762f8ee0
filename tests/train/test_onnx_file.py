import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli import invoke
from runs import SMALL, see_voxels, validated

from common import nifti
from common.store import Store
from preprocess.cli import app as preprocess
from train.cli import app
from train.loaded_run import load_run
from train.run import begin
from train.session import save

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SCRIPT = Path(__file__).parents[2] / "docs" / "onnx_host.py"


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose predictions depend on the voxel."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    session = begin("fm_net", [*SMALL, "inference.overlap=0.4"], store, folder)
    see_voxels(session.model)
    save(session, best=True)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    done = invoke(app, "export", run, path, "--format", "onnx")
    assert done.returncode == 0, done.stderr
    assert "parity" in done.stdout
    return path


def assert_parity(run: Path, exported: Path, dims: int) -> None:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    model, window = load_run(run).model.eval(), (16,) * dims
    for batch in (1, 3):
        image = torch.randn(batch, 4, *window, generator=torch.Generator().manual_seed(batch))
        with torch.inference_mode():
            ours = model(image)[0].numpy()
        (theirs,) = session.run(None, {"image": image.numpy()})
        assert theirs.shape == (batch, 3, *window)
        assert np.abs(theirs - ours).max() <= 1e-4


def test_onnxruntime_gives_torchs_logits_for_any_batch(run: Path, exported: Path) -> None:
    assert_parity(run, exported, 3)


def test_so_it_does_for_a_network_of_slices(store: Store, tmp_path: Path) -> None:
    run = validated(store, tmp_path / "run", "model.dims=2").run_dir
    done = invoke(app, "export", run, tmp_path / "m.onnx", "--format", "onnx")
    assert done.returncode == 0, done.stderr
    assert_parity(run, tmp_path / "m.onnx", 2)


def test_the_file_says_what_the_host_does_and_no_path(
    run: Path, exported: Path, store: Store
) -> None:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    how = json.loads(session.get_modelmeta().custom_metadata_map["fm_net"])
    assert how["modalities"] == list(store.task.modalities)
    assert how["regions"] == list(store.task.regions)
    assert how["beyond_the_script"] == {}
    content = exported.read_bytes()
    for path in (str(run.parent), str(SCRIPT.parents[1]), "site-packages", "BraTS2021"):
        assert path.encode() not in content


def test_the_documented_script_gives_the_mask_of_predict(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    """Of images that are in RAS, as most are."""
    done = invoke(preprocess, "phantom", tmp_path / "data", "--cases", "3", "--size", "32,40,36")
    assert done.returncode == 0, done.stderr
    case = next(folder for folder in (tmp_path / "data").iterdir() if folder.is_dir())
    images = [next(case.glob(f"*-{ending}.nii.gz")) for ending in ("t2f", "t1n", "t1c", "t2w")]
    for path in images:
        volume = nifti.read(path)
        turned = replace(volume.geometry, direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0), header={})
        nifti.write(path, volume.voxels, turned)
    next(case.glob("*-seg.nii.gz")).unlink()
    mask = tmp_path / "mask.nii.gz"
    command = [sys.executable, str(SCRIPT), str(exported), *map(str, images), str(mask)]
    subprocess.run(command, check=True, timeout=120)
    done = invoke(app, "predict", run, case, "--out", tmp_path / "out.nii.gz")
    assert done.returncode == 0, done.stderr
    ours, theirs = nifti.read(tmp_path / "out.nii.gz"), nifti.read(mask)
    assert theirs.geometry == ours.geometry
    assert len(np.unique(ours.voxels)) > 2
    assert np.array_equal(theirs.voxels, ours.voxels)


def test_an_onnx_file_has_its_own_ending(run: Path, tmp_path: Path) -> None:
    done = invoke(app, "export", run, tmp_path / "model.fmnet", "--format", "onnx")
    assert done.returncode == 2
    assert ".onnx" in done.stderr
