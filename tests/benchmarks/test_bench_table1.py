"""The benchmark's Table I, whole volumes and learning: dry, or with made-up times."""

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.training import inference, learning
from benchmarks.training.learning import Learnt
from benchmarks.training.learning_figure import running_mean
from benchmarks.training.monai_window import monai_logits
from benchmarks.training.step import LoopTimes, StepTimes
from benchmarks.training.store import synthetic_store
from benchmarks.training.suite import Bench
from benchmarks.training.table1_loaders import (
    BEST,
    DALI,
    PAPERS,
    WAYS,
    Way,
    in_this_process,
    in_whole_batches,
)
from benchmarks.training.table1_rows import EPOCH_CASES, Missing, Row, Table1, bound
from benchmarks.training.timing import Spent
from common.store import Store
from common.task import MODALITIES
from train.cli import app
from train.data.augment import AugmentConfig
from train.data.loader import open_feed
from train.data.stream import Stream
from train.inference import InferenceConfig
from train.loaded_run import LoadedRun
from train.precision import Precision

CPU = torch.device("cpu")


def trying(store: Store, *, dry: bool = True) -> Bench:
    return Bench("demo", (), CPU, store, dry, 0.0, lambda _: None)


def shown(table: object) -> str:
    """In one line."""
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return " ".join(capture.get().split())


@pytest.mark.parametrize(
    ("wait_share", "ahead", "expected"),
    [
        (0.0, True, "step"),
        (0.05, True, "step"),
        (0.06, True, "data"),
        (0.5, True, "data"),
        (0.04, False, "step"),
        (0.5, False, "both"),
        (0.94, False, "both"),
        (0.96, False, "data"),
    ],
)
def test_what_bounds_a_rate(wait_share: float, ahead: bool, expected: str) -> None:
    assert bound(wait_share, ahead=ahead) == expected


def row(
    way: Way, precision: Precision, *, step_ms: float, wait_ms: float, batch_size: int = 1
) -> Row:
    """Ten steps, each after a wait."""
    whole = (step_ms + wait_ms) / 1e3
    loop = LoopTimes(4, 10 * batch_size, 10 * [whole], 10 * [wait_ms / 1e3])
    step = StepTimes([step_ms], {}, 0, 1.0)
    return Row(batch_size, way, precision, "a GPU", loop, step, Spent(4, (0.5, 0.5), 1.0))


@pytest.fixture
def table1() -> Table1:
    """In float32 the step bounds; with mixed precision waiting does."""
    return Table1(
        workers=4,
        rows=[
            row(BEST, "tf32", step_ms=100, wait_ms=0),
            row(PAPERS, "fp32", step_ms=100, wait_ms=300),
            row(DALI, "fp16", step_ms=10, wait_ms=10),
            row(BEST, "tf32", step_ms=160, wait_ms=0, batch_size=2),
            row(DALI, "fp16", step_ms=20, wait_ms=0, batch_size=2),
        ],
        missing=[Missing(2, PAPERS.name, "fp32", "no time was left")],
    )


def test_a_row_is_compared_with_both_baselines_at_its_own_batch_size(table1: Table1) -> None:
    best, papers, dali, _, dali_of_two = table1.rows
    assert table1.times(best, BEST) == 1
    assert table1.times(best, PAPERS) == pytest.approx(4)
    assert table1.times(papers, BEST) == pytest.approx(0.25)
    assert table1.times(dali, BEST) == pytest.approx(5)
    assert table1.times(dali, PAPERS) == pytest.approx(20)
    assert table1.times(dali_of_two, BEST) == pytest.approx(8)
    assert table1.times(dali_of_two, PAPERS) is None
    assert [each.bound for each in table1.rows] == ["step", "both", "data", "step", "step"]


def test_an_epoch_is_computed_for_the_cases_that_a_manifest_trains_on(table1: Table1) -> None:
    assert EPOCH_CASES == 1001
    best, *_, of_two = table1.rows
    assert best.epoch_seconds == pytest.approx(100.1)
    assert of_two.epoch_seconds == pytest.approx(10.01)
    assert of_two.step_per_second == pytest.approx(100)


def test_table_1_quotes_the_best_dataloader_first(table1: Table1) -> None:
    text = shown(table1.table())
    assert (
        "batches of 1: 5.00× the best DataLoader in torch's own float32, 20.00× the paper's" in text
    )
    assert "batches of 2: 8.00× the best DataLoader in torch's own float32, – the paper's" in text
    assert "Not measured, no time was left: paper's loader, fp32, batches of 2." in text
    assert "11.1×" in text
    assert text.index("DataLoader, TF32") < text.index("paper's loader, fp32")
    figures = table1.to_json()
    assert figures["missing"][0]["reason"] == "no time was left"
    assert [each["workers"] for each in figures["rows"]] == [4, 0, 4, 4, 4]


def stream_of(store: Store, batch_size: int) -> Stream:
    return Stream(
        store, tuple(store.contents().split("train")), MODALITIES, AugmentConfig(), 0, batch_size
    )


@pytest.mark.parametrize(("batch_size", "cases"), [(1, 5), (2, 4), (5, 5), (6, 5)])
def test_only_whole_batches_are_measured(five: Store, batch_size: int, cases: int) -> None:
    assert len(in_whole_batches(stream_of(five, batch_size)).case_ids) == cases


def test_monais_window_gives_the_same_of_a_volume(store: Store) -> None:
    pytest.importorskip("monai")
    image, _ = store.read_volume(store.contents().split("val")[0])
    image = np.ascontiguousarray(image[..., :24, :24])  # at most two windows an axis

    def predicting(trained: LoadedRun, overlap: float) -> LoadedRun:
        how = InferenceConfig(overlap=overlap, tiles=2, flips=True)
        return replace(trained, config=trained.config.model_copy(update={"inference": how}))

    with trying(store).begun("fm_net", "precision=fp32") as session:
        session.model.eval()
        trained = session.as_trained()
        logits = predicting(trained, 0.5).logits(image)
        theirs, others = (
            monai_logits(predicting(trained, overlap), image) for overlap in (0.5, 0.75)
        )
    torch.testing.assert_close(theirs, logits)
    assert (others - logits).abs().max() > 1e-3  # so that is not said of any windows


def test_whole_volumes_are_timed_where_monai_is_not_installed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "monai", None)
    found = inference.measure(trying(store))
    assert {(each.way, each.missing) for each in found.rows} == {
        ("FM-Net", ""),
        ("MONAI", "not installed: make setup EXTRAS=train,peers"),
    }
    assert not found.difference
    text = shown(found.table())
    assert "not installed" in text
    assert not found.same_windows  # the volume's last axis has three
    assert "other places" in text
    ours = [each for each in found.rows if each.way == "FM-Net"]
    assert [(each.flips, each.tiles) for each in ours] == [(False, 2), (True, 2)]
    assert all(len(each.seconds) >= 2 and min(each.seconds) > 0 for each in ours)


def test_nothing_is_learnt_from_synthetic_cases(tmp_path: Path) -> None:
    found = learning.measure(trying(synthetic_store(tmp_path, 16), dry=False))
    assert found.to_json()["networks"] == []
    assert "name a store by --store" in shown(found.table())


def test_a_curve_in_parts_of_equal_time() -> None:
    learnt = Learnt("a network", seconds=[1.0, 1.5, 2.5, 4.0], losses=[4.0, 3.0, None, 1.0])
    assert learnt.part_losses() == [None, 3.5, None, 1.0]


def test_the_line_of_a_curve_passes_over_losses_that_are_no_numbers() -> None:
    values = np.array(20 * [4.0] + 20 * [2.0])  # a line's point is the mean of two
    values[[0, 30]] = np.nan
    line = running_mean(values)
    assert np.isnan(line[0])
    assert list(line[[1, 19, 20, 21, 30, 39]]) == [4, 4, 3, 2, 2, 2]


def test_a_curve_without_a_step() -> None:
    learnt = Learnt("a network", missing="out of memory")
    assert learnt.part_losses() == 4 * [None]
    assert learnt.to_json()["scores"] is None


@pytest.mark.slow
def test_batches_of_one_process_are_those_of_the_dataloader(five: Store) -> None:
    stream = stream_of(five, 2)
    with open_feed("torch", stream, CPU, 1) as feed:
        for ours, theirs in zip(islice(in_this_process(stream, CPU), 4), feed, strict=False):
            assert (ours.case_ids, ours.last) == (theirs.case_ids, theirs.last)
            assert torch.equal(ours.image, theirs.image)
            assert torch.equal(ours.label, theirs.label)


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    options = [word for name in ("table1", "inference", "learning") for word in ("--only", name)]
    command = ["bench", "--device", "cpu", "--dry-run", *options, "--out", str(file)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    figures: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert figures["dry_run"]
    sections: dict[str, Any] = figures["sections"]
    assert file.with_name("figures-learning.png").stat().st_size > 10_000
    return sections


@pytest.mark.slow
def test_a_dry_run_has_every_row(dry_run: dict[str, Any]) -> None:
    rows = dry_run["table1"]["rows"]
    expected = [
        (size, way.name, precision)
        for size in (1, 2)
        for way in WAYS
        for precision in way.precisions
    ]
    found = [(each["batch_size"], each["loader"], each["precision"]) for each in rows]
    assert found == expected
    assert dry_run["table1"]["missing"] == []
    for each in rows:
        seconds = sum(each["step_seconds"])
        assert each["volumes_per_second"] == pytest.approx(each["samples"] / seconds)
        assert each["samples"] == each["batch_size"] * len(each["step_seconds"])
        assert each["epoch_seconds"] == pytest.approx(EPOCH_CASES / each["volumes_per_second"])
        assert each["step_volumes_per_second"] > 0
        assert each["loader_volumes_per_second"] > 0
        assert 0 < each["wait_share"] < 1
    windows = dry_run["inference"]["rows"]
    assert len(windows) == 4
    assert all(each["missing"] or each["median_seconds"] > 0 for each in windows)
    ours, theirs = dry_run["learning"]["networks"]
    for learnt in (ours, theirs) if find_spec("monai") else (ours,):
        assert learnt["missing"] == ""
        assert learnt["steps"] == len(learnt["losses"]) == len(learnt["seconds"]) >= 4
        assert learnt["scores"]["cases"] == 1
    assert ours["parameters"] != theirs["parameters"]
