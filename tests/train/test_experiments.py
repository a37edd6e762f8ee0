"""Experiments: what is planned, trained, compared and concluded."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli import invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from slurm_cluster import Slurm
from waiting import wait_until

from common.errors import ConfigError
from common.statistics import difference_over_seeds, over_seeds
from common.store import Store
from train.cli import app
from train.config import load_config
from train.experiments.definition import SCALES, Claim, experiment_names, load_experiment
from train.experiments.files import as_markdown, columns, gather
from train.experiments.outcome import Judged, Outcome, judge, verdict
from train.experiments.runs import Plan, plan

PAPERS = {
    *("table1", "fig3", "modalities", "fig4", "supervision", "bottlenecks", "widths", "table2"),
    "benchmark",
}
OURS = {"tuning", "tuned"}
"""What the paper does not compare."""


@pytest.fixture(scope="session")
def large(make_store: Callable[..., Store]) -> Store:
    """Six cases whose crops five levels can halve."""
    return make_store(crop=(32, 32, 32))


def planned(name: str, store: Store, out: Path, **options: object) -> Plan:
    return plan(name, "smoke", store.path, out, **options)  # type: ignore[arg-type]


def test_every_experiment_has_valid_runs_at_every_scale(tmp_path: Path) -> None:
    assert set(experiment_names()) == PAPERS | OURS
    for name in experiment_names():
        assert (load_experiment(name).paper is None) == (name in OURS)
        for scale in SCALES:
            runs = plan(name, scale, "s.zarr", tmp_path, folds=2, seeds=1).runs()
            folders = {run.folder for run in runs}
            assert len(folders) == len(runs)
            assert {run.fold for run in runs} == {0, 1}
            configs = [load_config(run.preset, run.overrides) for run in runs]
            values = {config.model_copy(update={"seed": 0}).to_yaml() for config in configs}
            variants = len(load_experiment(name).variants)
            assert len(values) == 2 * variants, (name, scale)  # each differs by something


def test_full_scale_is_the_papers_own_network(tmp_path: Path) -> None:
    runs = plan("fig4", "full", "s.zarr", tmp_path).runs()
    configs = {run.variant: load_config(run.preset, run.overrides) for run in runs}
    assert {config.epochs for config in configs.values()} == {30}
    assert {config.model.widths for config in configs.values()} == {(32, 64, 128, 256, 512)}
    final = load_config("fm_net", ("epochs=30",))
    assert configs["FM-Net"].model_copy(update={"seed": 0}) == final


def test_seeds_are_the_outermost_so_that_what_is_done_can_be_compared(tmp_path: Path) -> None:
    runs = plan("fig3", "small", "s.zarr", tmp_path).runs()
    assert [run.seed for run in runs] == [0, 0, 1, 1, 2, 2]


def test_an_experiment_trains_scores_and_concludes_and_goes_on(
    large: Store, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    folder = tmp_path / "e"
    arguments = ("fig3", "--scale", "smoke", "--store", large.path, "--out", folder)
    done = invoke(app, "experiment", *arguments, columns=200)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {"table.md", "table.csv", "figure.pdf", "figure.png", "summary.json"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["verdict"] in done.stdout
    assert {claim["status"] for claim in summary["claims"]} == {"not resolved"}  # one seed
    rows = csv.DictReader((folder / "table.csv").read_text().splitlines())
    for variant, row in zip(summary["variants"], rows, strict=True):
        scored = json.loads((Path(variant["runs"][0]) / "evaluation-test-last.json").read_text())
        assert [case["case_id"] for case in scored["cases"]] == ["BraTS2021_00005"]
        assert variant["dice"]["mean"] == pytest.approx(scored["mean"]["mean_dice"])
        for region, value in scored["mean"]["dice"].items():
            assert float(row[f"dice_{region}"]) == pytest.approx(value)
    table = (folder / "table.md").read_text()
    assert summary["verdict"] in table
    paper = load_experiment("fig3").paper
    assert paper is not None
    assert paper.finding in table
    weights = [Path(variant["runs"][0]) / "last.safetensors" for variant in summary["variants"]]
    before = [path.stat().st_mtime_ns for path in weights]
    again = invoke(app, "experiment", *arguments, "--seeds", 2, "--only", "3-D volumes")
    assert again.returncode == 0, again.stderr
    assert [path.stat().st_mtime_ns for path in weights] == before  # nothing is trained again
    more = json.loads((folder / "summary.json").read_text())
    assert [each["seeds"] for each in more["variants"]] == [[0], [0, 1]]
    assert "1 of 2 seeds" in more["variants"][0]["problem"]
    other = invoke(app, "experiment", *arguments, "--set", "epochs=3")
    assert other.returncode == 2
    assert "overrides" in other.stderr
    (folder / "summary.json").unlink()
    for changed in (("--set", "epochs=3"), ("--store", make_store(crop=(32, 32, 48)).path)):
        other = invoke(app, "experiment", *arguments, *changed)
        assert other.returncode == 2
        assert str(weights[0].parent) in other.stderr


def test_a_variant_that_cannot_be_trained_is_told_and_the_others_go_on(
    large: Store, tmp_path: Path
) -> None:
    out = tmp_path / "e"
    arguments = ("supervision", "--scale", "smoke", "--store", large.path, "--out", out)
    chosen = ("--only", "no head", "--only", "4 heads", "--set", "model.widths=[4,8]")
    done = invoke(app, "experiment", *arguments, *chosen)
    assert done.returncode == 2  # four heads do not fit two levels, told before anything is trained
    assert "heads" in done.stderr
    assert not out.exists()
    huge = ("--set", "max_bad_steps=1", "--set", "optimizer.lr=1e30", "--set", "clip_norm=null")
    done = invoke(app, "experiment", *arguments, "--only", "no head", *huge)
    assert done.returncode == 1
    summary = json.loads((out / "summary.json").read_text())
    assert "optimizer.lr" in summary["variants"][0]["problem"]
    assert summary["verdict"].startswith("The paper's trend is not resolved")
    assert all(claim["status"] == "not measured" for claim in summary["claims"])


def test_what_is_not_known_is_named(large: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fig4"):
        load_experiment("fig44")
    with pytest.raises(ConfigError, match="attention"):
        planned("fig4", large, tmp_path).runs(["atention"])
    done = invoke(
        app, "experiment", "fig4", "--store", large.path, "--task", 99, "--scale", "smoke"
    )
    assert done.returncode == 2


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_the_paper_does_not_compare_has_nothing_of_it(
    name: str, large: Store, tmp_path: Path
) -> None:
    results = gather(planned(name, large, tmp_path), large.task, large.contents(), {})
    headings = [column.heading for column in columns(results)]
    assert "mean Dice" in headings
    assert "the paper" not in headings
    table = as_markdown(results)
    assert "trend" not in table
    assert "Theirs" not in table
    assert f"of {len(results.judged)} comparisons" in results.verdict


def test_a_script_for_slurm_does_the_chosen_variants_alone(large: Store, tmp_path: Path) -> None:
    arguments = ("fig3", "--scale", "smoke", "--store", large.path, "--out", tmp_path / "e")
    only = ("--only", "3-D volumes", "--seeds", 3)
    script = invoke(app, "experiment", *arguments, *only, "--slurm", columns=80).stdout
    assert "--array=0-2\n" in script
    assert "--only '3-D volumes'" in script
    wrong = invoke(app, "experiment", *arguments, "--only", "3-D volume", "--slurm")
    assert wrong.returncode == 2


# What is concluded


def outcome(name: str, values: np.ndarray, cases: tuple[str, ...]) -> Outcome:
    return Outcome(name, 1, tuple(range(len(values))), (), cases, {"wt": values})


CLAIM = Claim(better="a", than="b")


@pytest.mark.parametrize(
    ("apart", "seeds", "status"),
    [(0.1, 3, "holds"), (-0.1, 3, "reversed"), (0.0, 3, "not resolved"), (0.1, 1, "not resolved")],
)
def test_a_trend_is_judged_by_the_interval_over_seeds_and_patients(
    store: Store, apart: float, seeds: int, status: str
) -> None:
    random, contents = np.random.default_rng(0), store.contents()
    cases = tuple(sorted(contents.patients))
    base = 0.5 + 0.01 * random.standard_normal((seeds, len(cases)))
    better = 0.5 + apart + 0.01 * random.standard_normal((seeds, len(cases)))
    found = [outcome("a", better, cases), outcome("b", base, cases)]
    (judged,) = judge(found, [CLAIM], contents)
    assert judged.apart is not None
    assert judged.apart.mean == pytest.approx(better.mean() - base.mean())
    assert judged.status == status
    own = Judged(CLAIM.model_copy(update={"by_paper": False}), judged.apart, judged.seeds)
    assert f"1 {status}" in verdict([own])
    assert "trend" not in verdict([own])
    assert verdict([judged, own]) == verdict([judged])
    assert verdict([judged]).startswith(
        {
            "holds": "The paper's trend holds",
            "reversed": "The paper's trend does not hold",
            "not resolved": "The paper's trend is not resolved",
        }[status]
    )


@settings(max_examples=30)
@given(
    st.integers(1, 4).flatmap(
        lambda seeds: st.lists(
            st.lists(st.floats(0, 1), min_size=seeds, max_size=seeds), min_size=2, max_size=5
        )
    ),
    st.floats(-1, 1),
)
def test_intervals_contain_their_mean_and_move_with_the_values(
    columns: list[list[float]], shift: float
) -> None:
    values = np.array(columns).T
    patients = [f"p{index}" for index in range(values.shape[1])]
    found = over_seeds(values, patients)
    assert found.mean == pytest.approx(values.mean())
    assert found.low is not None
    assert found.high is not None
    assert values.min() - 1e-9 <= found.low <= found.high <= values.max() + 1e-9
    apart = difference_over_seeds(values + shift, values, patients)
    assert apart.mean == pytest.approx(shift, abs=1e-12)
    mirrored = over_seeds(-values, patients)
    assert mirrored.low == pytest.approx(-found.high)


def test_seeds_that_differ_widen_the_interval() -> None:
    patients = [f"p{index}" for index in range(20)]
    alike = np.full((3, 20), 0.5)
    apart = alike + np.array([[-0.1], [0.0], [0.1]])
    one, other = over_seeds(alike, patients), over_seeds(apart, patients)
    assert one.low == one.high
    assert other.high is not None
    assert other.low is not None
    assert other.high - other.low > 0.1


# On a cluster, and every experiment once


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tasks_of_an_array_do_all_runs_on_slurm(slurm: Slurm, large: Store, tmp_path: Path) -> None:
    arguments = ("fig3", "--scale", "smoke", "--store", large.path, "--out", tmp_path / "e")
    script = tmp_path / "array.sh"
    script.write_text(invoke(app, "experiment", *arguments, "--slurm", columns=80).stdout)
    slurm.call("sbatch", "--mem=1500", f"--output={tmp_path}/%a.log", str(script))
    wait_until(lambda: not slurm.queue(), "both tasks done", seconds=400)
    logs = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert len([*tmp_path.glob("e/runs/*/*/evaluation-test-last.json")]) == 2, logs
    assert not (tmp_path / "e" / "table.md").exists()
    done = invoke(app, "experiment", *arguments)
    assert done.returncode == 0, done.stderr
    assert "2 done already" in done.stdout


def summary_of(name: str, store: Store, out: Path, *only: str) -> dict[str, Any]:
    """Of an experiment, or of some of its variants, that is done at scale smoke."""
    chosen = [word for variant in only for word in ("--only", variant)]
    arguments = (name, "--scale", "smoke", "--store", store.path, "--out", out, *chosen)
    done = invoke(app, "experiment", *arguments, columns=200)
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    for each in summary["variants"]:
        assert not only or each["name"] not in only or not each["problem"]
    assert (out / "figure.pdf").read_bytes().startswith(b"%PDF")
    return summary


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(PAPERS - {"fig3", "benchmark"}))
def test_every_experiment_runs_at_scale_smoke(name: str, large: Store, tmp_path: Path) -> None:
    summary = summary_of(name, large, tmp_path)
    assert [each["problem"] for each in summary["variants"]] == [""] * len(summary["variants"])
    assert (tmp_path / "figures" / "fig10-11.pdf").exists() == (name == "table2")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_changes_of_the_recipe_are_compared_with_it(large: Store, tmp_path: Path) -> None:
    summary = summary_of("tuning", large, tmp_path / "a", "fm_net", "cosine")
    assert summary["paper"] is None
    assert "not measured" in {claim["status"] for claim in summary["claims"]}
    summary_of("tuned", large, tmp_path / "b", "fm_net_tuned", "SegResNet")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_networks_of_others_are_trained_alike(
    large: Store, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    swin, timed = "Swin UNETR", "SegResNet, equal seconds"
    others = [name for name in load_experiment("benchmark").variants if "equal" not in name]
    summary_of("benchmark", large, tmp_path / "a", *{*others} - {swin}, timed)
    largest = make_store(crop=(64, 64, 64))  # which it halves five times
    summary_of("benchmark", largest, tmp_path / "b", swin)
