"""Several runs together, probabilities, cases that are there already, and images that are not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from runs import see_voxels
from typer.testing import CliRunner

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.errors import ConfigError, FMNetError, RunError
from common.geometry import Geometry
from common.manifest import Manifest
from common.store import Store
from common.volume import extract
from train.cli import app
from train.config import TrainConfig
from train.ensemble import Ensemble, load_runs
from train.loaded_run import LoadedRun
from train.postprocess import PostprocessConfig
from train.precision import choose_compute
from train.predict import predict

SHAPE = (18, 22, 20)
RAS = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)


def network(seed: int, *, crop: int = 16, dropout: float = 0.0, **manifest: object) -> LoadedRun:
    """A small network whose untrained weights depend on the voxel."""
    torch.manual_seed(seed)
    config = TrainConfig.model_validate(
        {
            "model": {"widths": (4, 8), "heads": 0, "bottleneck": 0},
            "augment": {"modality_dropout": {"probability": dropout}},
        }
    )
    model = config.model.build(4, 3)
    see_voxels(model)
    described = Manifest.model_validate({"crop": (crop, crop, crop)} | manifest)
    compute = choose_compute("cpu", "fp32")
    return LoadedRun(model, config, described, compute, Path(f"run-{seed}"), "best", 1)


@pytest.fixture
def cohort(tmp_path: Path, write_coded_case: Callable) -> Path:
    """Two cases, of another orientation and another spacing than the network's."""
    z, y, x = np.indices(SHAPE)
    brain = ((z - 9) / 8) ** 2 + ((y - 11) / 10) ** 2 + ((x - 10) / 9) ** 2 < 1
    label = np.select(
        [(z - 9) ** 2 + (y - 9) ** 2 + (x - 9) ** 2 < k for k in (4, 12, 30)], [1, 3, 2]
    )
    for name, spacing in (("one", (1.0, 1.0, 1.0)), ("two", (1.5, 1.0, 0.8))):
        grid = Geometry(SHAPE, spacing, (5.0, -25.0, 7.5), RAS)
        write_coded_case(tmp_path / "data" / name, label * brain, brain, grid)
    return tmp_path / "data"


def case(data: Path, name: str, manifest: Manifest):
    files = next(each for each in discover(data, manifest).cases if each.case_id == name)
    return prepare(files, manifest)


def test_an_ensemble_is_the_mean_of_its_members_probabilities(cohort: Path, tmp_path: Path) -> None:
    members = (network(1), network(2, crop=8), network(3))
    together = Ensemble(members)
    done = predict(together, cohort, tmp_path / "out", probabilities=True)
    assert done.clean
    prepared = case(cohort, "one", members[0].manifest)
    image = prepared.image
    by_hand = torch.stack([each.logits(image).sigmoid() for each in members]).mean(dim=0)
    torch.testing.assert_close(together.logits(image).sigmoid(), by_hand, rtol=1e-5, atol=1e-6)
    label = members[0].task.from_regions((by_hand > 0.5).numpy())
    assert np.array_equal(together.labels(together.logits(image), prepared.record).stored, label)
    assert len(np.unique(label)) > 2
    alone = predict(members[0], cohort, tmp_path / "alone").written["one"]
    assert (nifti.read(alone).voxels != nifti.read(done.written["one"]).voxels).any()


def test_members_that_do_not_fit_together_are_refused() -> None:
    for other in (
        network(2, spacing_mm=2),
        network(2, task="post-treatment"),
        network(2, background="auto"),
    ):
        with pytest.raises(ConfigError, match="run-1 and run-2 cannot predict together"):
            Ensemble((network(1), other))


def test_post_processing_of_an_ensemble_is_the_members_mean() -> None:
    tuned = [{"threshold": {"wt": 0.4}}, {"minimum_ml": {"et": 0.3}}, {"threshold": {"wt": 0.6}}]
    members = []
    for seed, values in enumerate(tuned):
        member = network(seed)
        how = member.config.inference.model_copy(
            update={"postprocess": PostprocessConfig.model_validate(values)}
        )
        members.append(replace(member, config=member.config.model_copy(update={"inference": how})))
    found = Ensemble(tuple(members)).postprocess
    assert found.threshold == {"wt": pytest.approx(0.5)}
    assert found.minimum_ml == {"et": pytest.approx(0.1)}


def test_runs_are_named_with_commas(at_once: Path, store: Store, tmp_path: Path) -> None:
    copy = tmp_path / "a,b"  # a folder of this name is one run
    copy.symlink_to(at_once)
    assert len(load_runs(str(copy), device="cpu").members) == 1
    with pytest.raises(ConfigError, match="named twice"):
        load_runs(f"{at_once},{at_once}", device="cpu")
    with pytest.raises(FMNetError, match="no such run"):
        load_runs(f"{at_once},{tmp_path / 'none'}", device="cpu")


def test_probabilities_are_in_the_files_own_grid_and_agree_with_the_mask(
    cohort: Path, tmp_path: Path
) -> None:
    loaded = network(1)
    done = predict(loaded, cohort, tmp_path / "out", probabilities=True)
    prepared = case(cohort, "one", loaded.manifest)
    expected = loaded.logits(prepared.image).sigmoid().numpy()
    for name, mask in done.written.items():
        image = nibabel.load(cohort / name / f"{name}_flair.nii.gz")
        regions = loaded.task.to_regions(
            loaded.task.to_canonical(nifti.read(mask).voxels, "brats2021")
        )
        for number, region in enumerate(loaded.task.regions):
            path = tmp_path / "out" / f"{name}_probability_{region}.nii.gz"
            written = nibabel.load(path)
            assert written.get_data_dtype() == np.float32
            assert np.array_equal(written.affine, image.affine)
            assert (written.header["qform_code"], written.header["sform_code"]) == (1, 1)
            values = nifti.read(path).voxels
            assert 0 <= values.min() <= values.max() <= 1
            if region == "wt":  # the others are painted within it
                assert np.array_equal((values > 0.5)[values != 0.5], regions[number][values != 0.5])
            if name == "one":
                whole = extract(prepared.record.to_lps.orient(values), prepared.record.box)
                np.testing.assert_allclose(whole, expected[number], atol=5e-4)
    assert len(list((tmp_path / "out").iterdir())) == 2 * 4 + 1


def test_what_was_predicted_from_the_same_in_the_same_way_is_kept(
    cohort: Path, tmp_path: Path
) -> None:
    out, loaded = tmp_path / "out", network(1)
    first = predict(loaded, cohort, out)
    written = {name: path.stat().st_mtime_ns for name, path in first.written.items()}
    # Also by the same run at another place.
    again = predict(replace(loaded, run_dir=Path("moved")), cohort, out)
    assert again.kept == ["one", "two"]
    assert {name: path.stat().st_mtime_ns for name, path in again.written.items()} == written
    assert (again.legend, again.case_warnings) == (first.legend, first.case_warnings)
    assert "two" in {finding.case for finding in first.case_warnings}

    first.written["one"].unlink()
    assert predict(loaded, cohort, out).kept == ["two"]
    assert predict(loaded, cohort, out, probabilities=True).kept == []
    assert predict(loaded, cohort, out, probabilities=True).kept == ["one", "two"]
    assert predict(loaded, cohort, out).kept == ["one", "two"]

    # Probabilities that are not those of the new mask do not stay beside it.
    edited = out / "two_probability_et.nii.gz"
    edited.write_bytes(edited.read_bytes() + b" ")
    image = cohort / "two" / "two_t1.nii.gz"
    volume = nifti.read(image)
    nifti.write(image, (volume.voxels * 1.5).astype(np.int16), volume.geometry)
    done = predict(loaded, cohort, out)
    assert done.kept == ["one"]
    assert sorted(path.name for path in out.glob("two_*")) == [edited.name]
    assert len([line for line in done.warnings if line.startswith("two: ")]) == 2
    assert len(list(out.glob("one_*"))) == 3
    (cohort / "data_manifest.yaml").write_text("label_convention: brats2023\n")
    assert predict(loaded, cohort, out).kept == []


@pytest.mark.parametrize("change", ["weights", "flips", "ensemble", "precision"])
def test_another_model_or_setting_predicts_anew(cohort: Path, tmp_path: Path, change: str) -> None:
    loaded = network(1)
    predict(loaded, cohort, tmp_path / "out")
    other = network(1)
    if change == "weights":
        with torch.no_grad():
            other.model.main_head.bias += 0.1
    elif change == "flips":
        how = other.config.inference.model_copy(update={"flips": 2})
        other = replace(other, config=other.config.model_copy(update={"inference": how}))
    elif change == "precision":
        other = replace(other, compute=choose_compute("cpu", "bf16"))
    else:
        other = Ensemble((other, network(2)))
    done = predict(other, cohort, tmp_path / "out")
    assert (done.kept, done.replaced) == ([], ["one", "two"])


def test_an_interrupted_cohort_is_continued(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, logits = network(1), LoadedRun.logits
    calls = []

    def stopped(*arguments: object) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return logits(*arguments)

    monkeypatch.setattr(LoadedRun, "logits", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict(loaded, cohort, tmp_path / "out")
    monkeypatch.undo()
    done = predict(loaded, cohort, tmp_path / "out")
    assert (done.kept, sorted(done.written)) == (["one"], ["one", "two"])


@pytest.mark.parametrize("content", ["", "[]", '{"cases": 3}', '[{"image_id": 1}]'])
def test_a_foreign_or_damaged_list_of_predictions_is_not_replaced(
    cohort: Path, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "out" / "predictions.json"
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(RunError, match=r"predictions\.json"):
        predict(network(1), cohort, tmp_path / "out")
    assert file.read_text() == content


def test_a_case_without_one_image_is_predicted_by_a_run_that_was_trained_so(
    cohort: Path, tmp_path: Path
) -> None:
    trained, other = network(1, dropout=0.3), network(1)
    (cohort / "two" / "two_t2.nii.gz").unlink()
    refused = predict(other, cohort, tmp_path / "refused")
    assert list(refused.written) == ["one"]
    assert not refused.clean

    done = predict(trained, cohort, tmp_path / "out")
    assert done.clean
    assert list(done.written) == ["one", "two"]
    (finding,) = done.findings
    assert (finding.case, finding.severity, finding.found) == ("two", "warning", "no t2")
    # It is predicted as if the image were background.
    without = trained.manifest.with_modalities(("flair", "t1", "t1ce"))
    image = case(cohort, "two", without).image
    with_zeros = np.concatenate([image, np.zeros_like(image[:1])])
    expected = trained.logits(with_zeros)
    assert torch.equal(trained.logits(image, without.task.modalities), expected)
    assert not torch.equal(expected, trained.logits(case(cohort, "one", trained.manifest).image))

    (cohort / "two" / "two_t1.nii.gz").unlink()
    both = predict(trained, cohort, tmp_path / "both")
    assert list(both.written) == ["one"]
    assert "t1, t2 are missing" in str(both.findings[0])


def test_a_volume_without_an_image_is_refused_by_other_runs(cohort: Path) -> None:
    image = case(cohort, "one", network(1).manifest).image
    with pytest.raises(ConfigError, match=r"has no t2, .*a run that needs fewer"):
        network(1).logits(image[:3], ("flair", "t1", "t1ce"))
    together = Ensemble((network(1, dropout=0.5), network(2)))
    assert together.may_lack == ()
    with pytest.raises(ConfigError, match="has no t2"):
        together.logits(image[:3], ("flair", "t1", "t1ce"))


def test_the_command_says_what_was_kept(at_once: Path, store: Store, tmp_path: Path) -> None:
    command = ["predict", str(at_once), store.path, "--out", str(tmp_path), "--device", "cpu"]
    first, again = (CliRunner().invoke(app, [*command, "--probabilities"]) for _ in range(2))
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert "6 mask(s)" in first.output
    assert "0 mask(s)" in again.output
    assert "6 kept" in again.output
    assert len(list(tmp_path.glob("*_probability_et.nii.gz"))) == 6
