import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from limits import files_of_at_most
from rich.console import Console
from runs import TINY, describe_run, validated
from typer.testing import CliRunner

from common import nifti
from common.case import prepare
from common.discovery import discover
from common.errors import CheckpointError, ConfigError, InferenceError, RunError, StoreError
from common.geometry import Geometry
from common.manifest import Manifest
from common.store import Store, StoreWriter
from common.task import GLIOMA
from train.cli import app
from train.evaluate import (
    Evaluation,
    case_table,
    evaluate,
    mean_scores,
    mean_table,
    score_case,
    score_cases,
)
from train.loaded_run import LoadedRun, load_run
from train.loss import RegionLoss
from train.postprocess import PostprocessConfig, labels_of
from train.predict import predict
from train.results import read_csv, rows_of
from train.run import begin
from train.run_folder import read_run_file, write_tuned
from train.score import gather, plan, score_pairs
from train.session import save

MakeStore = Callable[..., Store]
Copying = Callable[..., LoadedRun]


def coded_store(
    path: Path,
    write: Callable,
    labels: dict[str, np.ndarray],
    grid: Geometry | None = None,
    **kept: bool,
) -> Store:
    """A store of cases whose images say their label."""
    shape = (21, 25, 23)
    z, y, x = np.indices(shape)
    brain = ((z - 10) / 8) ** 2 + ((y - 12) / 10) ** 2 + ((x - 11) / 9) ** 2 < 1
    data = path.with_suffix(".data")
    for case_id, label in labels.items():
        one_mm = Geometry(shape, (1.0, 1.0, 1.0), (0.0, -24.0, 0.0))
        write(data / case_id, label, brain, grid or one_mm, **kept)
    splits = {"kind": "lists", "test": sorted(labels)}
    manifest = Manifest.model_validate({"crop": (16, 16, 16), "margin": 0, "splits": splits})
    writer = StoreWriter.create(path, manifest)
    cases = discover(data, manifest).cases
    for case, row in zip(cases, writer.allocate(len(cases)), strict=True):
        writer.write(prepare(case, manifest), row)
    return Store.open(path)


def tumour() -> np.ndarray:
    z, y, x = np.indices((21, 25, 23))
    distance = (z - 9) ** 2 + (y - 12) ** 2 + (x - 13) ** 2
    return np.select([distance < 4, distance < 9, distance < 25], [1, 3, 2], 0).astype(np.uint8)


def printed(evaluation: Evaluation) -> str:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(case_table(evaluation, GLIOMA))
    console.print(mean_table(evaluation, GLIOMA))
    return console.export_text()


def test_a_perfect_prediction_has_a_dice_of_one(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    store = coded_store(tmp_path / "a.zarr", write_coded_case, {"case": tumour()})
    scored = score_case(copying(), store, "case")
    assert scored.score.dice == {"wt": 1, "tc": 1, "et": 1}
    assert scored.score.mean_dice == 1
    assert np.array_equal(scored.prediction.stored, scored.reference)
    assert scored.image.shape[1:] == scored.reference.shape


def test_tumour_outside_the_stored_volume_counts_as_missed(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    label = tumour()
    whole, enhancing = int((label > 0).sum()), int((label == 3).sum())
    label[0, 0, :5], label[0, 1, :3] = 2, 3  # a corner without brain
    store = coded_store(tmp_path / "a.zarr", write_coded_case, {"case": label})
    dice = score_case(copying(), store, "case").score.dice
    assert dice["wt"] == 2 * whole / (2 * whole + 8)
    assert dice["et"] == 2 * enhancing / (2 * enhancing + 3)


RAS = (-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.5, 0.9, 1.2)])
def test_a_case_is_scored_as_its_written_mask_against_its_label_file(
    tmp_path: Path,
    write_coded_case: Callable,
    copying: Copying,
    spacing_mm: tuple[float, float, float],
) -> None:
    """In the files' own grid, whatever the network saw."""
    label = tumour()
    label[0, 0, :5] = 2  # a corner without brain
    grid = Geometry(label.shape, spacing_mm, (3.0, -24.0, 0.0), RAS)
    store = coded_store(tmp_path / "a.zarr", write_coded_case, {"case": label}, grid)
    loaded = replace(copying(), run_dir=tmp_path / "run")
    loaded.run_dir.mkdir()
    describe_run(loaded.run_dir, store)
    predict(loaded, store.path, tmp_path / "out")
    written = nifti.read(tmp_path / "out" / "case.nii.gz").voxels
    original = nifti.read(tmp_path / "a.data" / "case" / "case_seg.nii.gz").voxels
    regions = score_case(loaded, store, "case").score.regions
    for region, values in {"wt": (1, 2, 4), "tc": (1, 4), "et": (4,)}.items():
        a, b = np.isin(written, values), np.isin(original, values)
        assert regions[region].reference == b.sum()
        assert regions[region].values["dice"] == 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.4


def test_the_loss_is_the_main_heads_over_the_stitched_volume(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    case_id = store.contents().split("test")[0]
    image, reference = store.read_volume(case_id)
    logits = loaded.logits(image)
    expected = RegionLoss(loaded.config.loss, store.task.regions).reported(
        logits[None], torch.from_numpy(reference)[None]
    )
    scored = score_case(loaded, store, case_id)
    assert scored.score.loss == pytest.approx(expected.item(), rel=1e-6)
    assert np.array_equal(scored.prediction.stored, labels_of(logits, store.task))
    assert len(np.unique(scored.prediction.stored)) > 1


def test_the_mean_is_over_all_cases(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    told = []
    loaded = load_run(tmp_path / "run")
    scores = score_cases(loaded, store, store.contents().split("train"), told.append)
    assert [scored.score for scored in told] == scores
    assert len(scores) == 4
    mean = mean_scores(scores)
    for region in GLIOMA.regions:
        assert mean.dice[region] == pytest.approx(np.mean([s.dice[region] for s in scores]))
    nan = replace(scores[0], loss=math.nan)
    assert math.isnan(mean_scores([*scores[1:], nan]).loss)
    assert mean.loss == pytest.approx(np.mean([score.loss for score in scores]))
    assert mean.mean_dice == pytest.approx(np.mean([score.mean_dice for score in scores]))


def test_evaluation_leaves_scores_a_table_and_a_picture(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    evaluation = evaluate(load_run(tmp_path / "run"), store, "train")
    assert evaluation.warnings == ()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    written = json.loads(evaluation.outputs.files.summary.read_text(), parse_constant=refuse)
    assert evaluation.outputs.files.summary == tmp_path / "run" / "evaluation-train.json"
    assert (written["checkpoint"], written["epochs"], written["split"]) == ("best", 1, "train")
    assert written["store_fingerprint"] == store.contents().fingerprint
    assert written["mean"]["dice"] == evaluation.mean.dice
    for case, score in zip(written["cases"], evaluation.scores, strict=True):
        assert case["case_id"] == score.case_id
        for region in GLIOMA.regions:
            voxels = case["voxels"][region]
            dice = 2 * voxels["intersection"] / (voxels["reference"] + voxels["prediction"])
            assert case["dice"][region] == pytest.approx(dice)
    assert evaluation.outputs.figure.read_bytes().startswith(b"\x89PNG")

    lines = printed(evaluation).splitlines()
    rows = [line for line in lines if "BraTS2021_" in line]
    worst = min(evaluation.scores, key=lambda score: score.mean_dice)
    assert len(rows) == 4
    assert worst.case_id in rows[0]
    assert f"{worst.dice['wt']:.3f}" in rows[0]
    means = [line.split()[1] for line in lines if line.strip().startswith("Dice  ")]
    assert means == [f"{evaluation.mean.dice[region]:.3f}" for region in GLIOMA.regions]


def test_evaluation_leaves_the_rows_and_lesions_of_score(store: Store, tmp_path: Path) -> None:
    """The same code, on the masks that it writes, against the labels in the cases' files."""
    validated(store, tmp_path / "run")
    evaluation = evaluate(load_run(tmp_path / "run"), store, "train", masks=True)
    files, _, masks = evaluation.outputs
    assert masks == tmp_path / "run" / "evaluation-train-masks"
    found = read_csv(files.cases)
    references = tmp_path / "references"
    references.mkdir()
    for case_id in {row["case_id"] for row in found}:
        record = store.record(case_id)
        path = references / f"{case_id}-seg.nii.gz"
        nifti.write(path, store.read_reference(case_id), record.geometry)
    (references / "data_manifest.yaml").write_text("label_convention: brats2023\n")
    planned = plan(references, masks, "brats2023")
    again = rows_of(gather(planned, score_pairs(planned, 1)).results)
    for row in (*found, *again):
        row["reference_convention"] = row["prediction_convention"] = ""
    assert again == found
    assert files.lesions.read_text().count("\n") >= 4


def test_scores_under_other_rules_have_files_of_their_own(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    plain, other = (evaluate(loaded, store, "val", rules=r) for r in ("brats2023", "brats2026"))
    assert other.outputs.files.summary.name == "evaluation-val-brats2026.json"
    assert not {*plain.outputs} & {*other.outputs} - {None}
    assert json.loads(other.outputs.files.summary.read_text())["rules"] == "brats2026"
    with pytest.raises(ConfigError, match="brats1999"):
        evaluate(loaded, store, "val", rules="brats1999")


def test_scores_are_kept_where_the_picture_has_no_room(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    with files_of_at_most(20_000):
        evaluation = evaluate(loaded, store, "val")
    (problem,) = evaluation.unwritten
    assert problem.startswith(f"{evaluation.outputs.figure}: could not be written (File too large)")
    assert (
        json.loads(evaluation.outputs.files.summary.read_text())["mean"]["loss"]
        == evaluation.mean.loss
    )
    written = {path.name for path in (tmp_path / "run").iterdir() if "evaluation" in path.name}
    assert written == {path.name for path in evaluation.outputs.files}
    with files_of_at_most(100):
        assert len(evaluate(loaded, store, "val").unwritten) == 2
    assert (
        json.loads(evaluation.outputs.files.summary.read_text())["mean"]["loss"]
        == evaluation.mean.loss
    )


def test_a_place_that_cannot_be_written_is_refused_before_scoring(
    store: Store, tmp_path: Path
) -> None:
    validated(store, tmp_path / "run")
    (tmp_path / "run" / "evaluation-val.png").mkdir()
    scored = list[int]()
    with pytest.raises(ConfigError, match=r"evaluation-val\.png: a folder is there"):
        evaluate(load_run(tmp_path / "run"), store, "val", lambda done, _: scored.append(done))
    assert scored == []


def test_scores_of_cases_that_the_run_used_say_so(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    best, last = (load_run(tmp_path / "run", which) for which in ("best", "last"))
    assert evaluate(best, store, "test").used == evaluate(last, store, "val").used == ()
    (trained,) = evaluate(last, store, "train").used
    assert "trained on 4 of 4" in trained
    evaluation = evaluate(best, store, "val")
    (chosen,) = evaluation.used
    assert "chosen on 1 of 1" in chosen
    assert json.loads(evaluation.outputs.files.summary.read_text())["warnings"] == [chosen]
    table = Console(width=200, file=io.StringIO())
    table.print(mean_table(evaluation, store.task))
    assert chosen in " ".join(table.file.getvalue().split())
    write_tuned(tmp_path / "run", PostprocessConfig(threshold={"wt": 0.4}), "")
    (picked,) = evaluate(load_run(tmp_path / "run", "last"), store, "val").used
    assert "post-processing" in picked
    validated(store, tmp_path / "patient", "patience=3")
    (ended,) = evaluate(load_run(tmp_path / "patient", "last"), store, "val").used
    assert "patience" in ended


def test_scores_on_another_store_say_so(
    store: Store, make_store: MakeStore, tmp_path: Path
) -> None:
    validated(store, tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    ids = sorted(store.contents().records)
    moved = {"kind": "lists", "train": ids[2:], "val": [ids[0]], "test": [ids[1]]}
    other = make_store(splits=moved, margin=4)
    warnings = evaluate(loaded, other, "test").warnings
    assert any(store.path in warning and other.path in warning for warning in warnings)
    assert any("margin 4, the run's store with 2" in warning for warning in warnings)
    assert any("1 of the 1 case(s)" in each and ids[1] in each for each in warnings)
    (chosen,) = evaluate(loaded, other, "train").used
    assert "chosen on 1 of 4" in chosen
    # Beside those on the run's own store.
    name = f"evaluation-test-{other.contents().fingerprint[:8]}.json"
    written = json.loads((tmp_path / "run" / name).read_text())
    assert tuple(written["warnings"]) == warnings


def test_scores_of_other_settings_stand_beside_the_runs_own(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(store.path).parent)
    validated(Store.open(Path(store.path).name), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    command = [
        "evaluate",
        "run",
        "--split",
        "val",
    ]  # on the run's own store, wherever this is called
    for settings in ([], ["inference.flips=true", "inference.overlap=0.25"]):
        options = [part for setting in settings for part in ("--set", setting)]
        done = CliRunner().invoke(app, [*command, *options])
        assert done.exit_code == 0, done.output
        assert "next: " in done.stdout
    names = {path.name for path in (tmp_path / "run").glob("evaluation-*")}
    assert names == {
        f"evaluation-val{changes}{ending}"
        for changes in ("", "-overlap=0.25-flips=8")
        for ending in (".json", ".csv", "-lesions.csv", ".png")
    }


def test_the_runs_own_store_is_divided_as_the_run_recorded(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    chosen = sorted(store.contents().records)[:2]
    describe_run(tmp_path / "run", store, test=chosen)
    evaluation = evaluate(load_run(tmp_path / "run"), store, "test")
    assert [score.case_id for score in evaluation.scores] == chosen


def test_another_store_is_divided_by_the_runs_own_rule(
    store: Store, make_store: MakeStore, tmp_path: Path
) -> None:
    ids = sorted(store.contents().records)
    rule = f"splits={{kind: lists, train: [{ids[0]}], val: [{ids[1]}], test: [{ids[2]}]}}"
    validated(store, tmp_path / "run", rule)
    evaluation = evaluate(load_run(tmp_path / "run"), make_store(margin=4), "test")
    assert [score.case_id for score in evaluation.scores] == [ids[2]]
    assert evaluation.warnings


def test_a_store_that_grew_keeps_the_recorded_splits(
    store: Store, make_store: MakeStore, tmp_path: Path
) -> None:
    folds = "splits={kind: folds, folds: 2}"
    validated(store, tmp_path / "run", folds)
    # As if the run had known four of the six cases, two of them in the other fold.
    cases = read_run_file(tmp_path / "run").cases
    train, val = cases["train"], cases["val"]
    describe_run(tmp_path / "run", store, train=val[:2], val=train[:2])
    other = make_store(margin=4, splits={"kind": "folds", "folds": 2})
    evaluation = evaluate(load_run(tmp_path / "run"), other, "val")
    scored = {score.case_id for score in evaluation.scores}
    assert set(train[:2]) <= scored
    assert not set(val[:2]) & scored


def test_a_store_of_another_task_is_refused(
    tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    store = coded_store(tmp_path / "a.zarr", write_coded_case, {"case": tumour()})
    with pytest.raises(ConfigError, match=r"a\.zarr: task glioma has labels"):
        evaluate(copying(task="pediatric"), store, "test")


def test_cases_that_cannot_be_scored_are_clear_errors(
    store: Store, tmp_path: Path, write_coded_case: Callable, copying: Copying
) -> None:
    loaded = copying()
    plain = coded_store(tmp_path / "a.zarr", write_coded_case, {"case": tumour()}, labelled=False)
    with pytest.raises(StoreError, match="case has no label to be scored"):
        score_case(loaded, plain, "case")
    with pytest.raises(StoreError, match="nobody is not in this store"):
        score_case(loaded, store, "nobody")
    validated(store, tmp_path / "run")
    with pytest.raises(ConfigError, match="there are train, val, test"):
        evaluate(load_run(tmp_path / "run"), store, "tset")


def test_a_network_without_numbers_is_named_with_its_case(store: Store, tmp_path: Path) -> None:
    session = validated(store, tmp_path / "run")
    with torch.no_grad():
        session.model.main_head.bias.fill_(torch.nan)
    with pytest.raises(InferenceError, match=f"case {session.validation[0]}: .*NaN"):
        score_cases(session.as_trained(), store, session.validation)


def test_a_loaded_run_predicts_as_the_session_that_saved_it(store: Store, tmp_path: Path) -> None:
    session = validated(store, tmp_path / "run", "modalities=[t2,flair]")
    with torch.no_grad():
        session.model.main_head.bias += 1
    save(session)
    image, _ = store.read_volume(session.validation[0])
    last = load_run(tmp_path / "run", "last", "cpu")
    assert torch.equal(last.logits(image), session.as_trained().logits(image))
    assert last.config == session.config
    assert last.manifest == store.manifest
    best = load_run(tmp_path / "run")
    torch.testing.assert_close(best.logits(image), last.logits(image) - 1)
    assert (best.which, best.epochs) == ("best", 1)


def test_predicting_says_how_many_masks_it_replaces(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run")
    masks = tmp_path / "masks"
    arguments = ["predict", str(tmp_path / "run"), str(store.path), "--out", str(masks)]
    first = CliRunner().invoke(app, arguments)
    again = CliRunner().invoke(app, [*arguments, "--set", "inference.flips=2"])
    assert first.exit_code == again.exit_code == 0, first.output + again.output
    count = len(store.contents().records)
    told = f"{count} mask(s) in {masks}"
    assert told in first.stdout.splitlines()
    assert f"{told}, {count} in place of earlier ones" in again.stdout.splitlines()
    # Also what the values mean, and each case's warnings.
    assert "4 enhancing tumour (brats2021, by values)" in first.stdout


def test_what_is_no_run_or_not_ready_is_a_clear_error(store: Store, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises(RunError, match=r"no such run; train one with `\S*fmnet-train run"):
        load_run(run_dir)
    run_dir.symlink_to(run_dir)
    with pytest.raises(RunError, match=r"symbolic links; name a run's folder"):
        load_run(run_dir)
    run_dir.unlink()
    run_dir.mkdir()
    with pytest.raises(RunError, match=r"config\.yaml and manifest\.yaml and run\.json"):
        load_run(run_dir)
    run_dir.rmdir()
    begin("unet", TINY, store, run_dir)
    with pytest.raises(CheckpointError, match=rf"never validated; .*{store.path}.* --resume"):
        load_run(run_dir)
    assert load_run(run_dir, "last").epochs == 0
    with pytest.raises(ConfigError, match="device"):
        load_run(run_dir, "last", device="cuda:99")


def test_how_to_predict_may_differ_from_the_runs_and_nothing_else(
    store: Store, tmp_path: Path
) -> None:
    begin("fm_net", ["model.widths=[4,6,8]", "device=cpu"], store, tmp_path / "run")
    flipped = load_run(tmp_path / "run", "last", "cpu", ["inference.flips=true"])
    assert flipped.config.inference.flips == 8
    assert load_run(tmp_path / "run", "last", "cpu").config.inference.flips == 1
    with pytest.raises(ConfigError, match=r"seed=3: .*only inference\.overlap"):
        load_run(tmp_path / "run", "last", "cpu", ["inference.flips=true", "seed=3"])


def test_tuned_post_processing_is_applied_said_and_in_the_files_name(
    store: Store, tmp_path: Path
) -> None:
    validated(store, tmp_path / "run")
    plain = evaluate(load_run(tmp_path / "run"), store, "val")
    tuned = PostprocessConfig(minimum_ml={"wt": 1000})
    write_tuned(tmp_path / "run", tuned, "Picked.")
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run"), "--split", "val"])
    assert done.exit_code == 0, done.output
    assert "wt from 1000 ml" in done.output
    (file,) = set((tmp_path / "run").glob("evaluation-val*.json")) - {plain.outputs.files.summary}
    written = json.loads(file.read_text())
    assert written["inference"]["postprocess"] == tuned.model_dump()
    assert {voxels["prediction"] for voxels in written["cases"][0]["voxels"].values()} == {0}
    of_all = ["inference.postprocess.minimum_ml.wt=0"]
    assert load_run(tmp_path / "run", overrides=of_all).config.inference.postprocess.minimum_ml == {
        "wt": 0
    }
