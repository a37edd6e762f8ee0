"""The check of a GPU, dry: the CPU takes the GPU's part; faults that are planted are found."""

import json
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import command
from typer.testing import CliRunner

from benchmarks.training.suite import Bench
from benchmarks.training.table1_loaders import in_this_process
from common.errors import ConfigError
from common.store import Store
from train import checkpoint, torch_loader
from train.checkpoint import Checkpoint
from train.cli import app
from train.data.feed import Batch
from train.data.stream import Stream
from train.gpucheck import resume
from train.gpucheck.augmentation import ALL, CHECKED, Case, compare, stream_of
from train.gpucheck.learning import TINY
from train.gpucheck.precision import Curve, judge, judge_float32
from train.gpucheck.rows import Checked, Row, attempt, judged, why_not
from train.gpucheck.samples import by_dali
from train.precision import DTYPES

CPU = torch.device("cpu")
MakeStore = Callable[..., Store]


def stream(store: Store, case: Case) -> Stream:
    return stream_of(case, store, tuple(store.contents().split("train")))


def torches(of: Stream) -> list[Batch]:
    return list(islice(in_this_process(of, CPU), 4))


def statuses(rows: Sequence[Row]) -> dict[str, str]:
    return {row.name.rpartition(": ")[2]: row.status for row in rows}


# Samples


@pytest.fixture(scope="module")
def everything(store: Store) -> tuple[Case, Stream, list[Batch]]:
    """Four samples with every augmentation, through DALI."""
    case = Case("all")
    return case, stream(store, case), by_dali(stream(store, case), CPU, 4)


def test_dalis_samples_pass(everything: tuple[Case, Stream, list[Batch]]) -> None:
    case, of, made = everything
    rows = compare(case, of, made, torches(of))
    assert statuses(rows) == {"image": "passed", "labels": "passed"}
    assert rows[0].bound is not None
    assert 0 < rows[0].bound < 2e-4
    assert rows[0].raw["largest_difference"] < 5e-3
    assert rows[0].raw["voxels"] == 4 * 4 * 16**3


def test_another_seeds_samples_do_not_pass(everything: tuple[Case, Stream, list[Batch]]) -> None:
    case, of, made = everything
    rows = compare(case, of, made, torches(replace(of, seed=1)))
    assert statuses(rows) == {"image": "FAILED", "labels": "FAILED"}


@pytest.mark.parametrize(
    "change",
    [{"brightness_range": (0.99, 0.99)}, {"blur_range": (1.6, 1.6)}, {"noise_range": (0.34, 0.34)}],
)
def test_an_amount_that_is_off_does_not_pass(
    everything: tuple[Case, Stream, list[Batch]], change: dict[str, Any]
) -> None:
    case, of, made = everything
    other = replace(of, augment=of.augment.model_copy(update=change))
    assert statuses(compare(case, of, made, torches(other)))["image"] == "FAILED"


def test_another_cubic_kernel_does_not_pass(
    everything: tuple[Case, Stream, list[Batch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, of, made = everything
    monkeypatch.setattr(torch_loader, "CUBIC_A", -0.75)
    rows = compare(case, of, made, torches(of))
    assert statuses(rows) == {"image": "FAILED", "labels": "passed"}


def moved(batches: list[Batch], steps: int) -> list[Batch]:
    """The same, but each batch's largest value is so many steps of float16 larger."""

    def move(batch: Batch) -> Batch:
        image = batch.image.clone()
        bits = image.view(torch.int16).flatten()
        bits[image.float().argmax()] += steps
        return replace(batch, image=image)

    return [move(batch) for batch in batches]


@pytest.mark.parametrize(
    ("on", "allowed"), [((), 0), (("flip",), 0), (("brightness",), 1), (ALL, 1)]
)
def test_what_is_only_copied_is_equal_and_the_rest_within_a_step(
    store: Store, on: tuple[str, ...], allowed: int
) -> None:
    case = Case("a case", on=on)
    of = stream(store, case)
    batches = torches(of)
    for steps in range(3):
        rows = compare(case, of, moved(batches, steps), batches)
        expected = "passed" if steps <= allowed else "FAILED"
        assert statuses(rows) == {"image": expected, "labels": "passed"}, steps


def test_one_label_that_is_another_does_not_pass(store: Store) -> None:
    case = Case("flips", on=("flip",))
    of = stream(store, case)
    made = torches(of)
    made[2].label[0, 3, 4, 5] += 1
    assert statuses(compare(case, of, made, torches(of))) == {"image": "passed", "labels": "FAILED"}


def test_a_float32_store_is_rounded_and_may_be_a_step_off(make_store: MakeStore) -> None:
    store = make_store(dtype="float32")
    case = Case("copied", on=())
    of = stream(store, case)
    for steps, status in ((1, "passed"), (2, "FAILED")):
        rows = compare(case, of, moved(torches(of), steps), torches(of))
        assert statuses(rows)["image"] == status


def test_nan_does_not_pass(store: Store) -> None:
    case = Case("all")
    of = stream(store, case)
    made = torches(of)
    made[0].image[0, 0, 0, 0, 0] = math.nan
    assert statuses(compare(case, of, made, torches(of)))["image"] == "FAILED"


# Learning


def curves(*ends: float) -> list[Curve]:
    return [Curve((4.0 + end, 3.0, 1.0 + end, 1.0 + end), skipped=0) for end in ends]


@pytest.mark.parametrize(
    ("losses", "failing"),
    [
        ((4.1, 3.1, 1.1, 1.2), set()),
        ((4.0, 3.5, 1.0, 1.0), {"largest gap"}),
        ((4.0, 3.0, 1.0, 1.4), {"largest gap", "gap at the end"}),
        ((4.0, 3.0, 1.0, math.nan), {"largest gap", "gap at the end"}),
        ((4.0, math.nan, 1.0, 1.0), {"largest gap"}),
        ((4.0, 3.0, 1.0, 1.0), {"differs at all"}),
    ],
)
def test_a_curve_beyond_float32s_spread_fails(losses: tuple[float, ...], failing: set[str]) -> None:
    rows = judge("bf16", Curve(losses, skipped=0), curves(0.0, 0.3, 0.1))
    found = statuses(rows)
    assert {name for name, status in found.items() if status == "FAILED"} == failing
    json.dumps([row.to_json() for row in rows], allow_nan=False)


@pytest.mark.parametrize(
    ("precision", "skipped", "status"),
    [("fp16", 16, "passed"), ("fp16", 17, "FAILED"), ("bf16", 1, "FAILED")],
)
def test_steps_that_were_left_out_are_counted(precision: Any, skipped: int, status: str) -> None:
    rows = judge(precision, Curve((4.1, 3.1, 1.1, 1.1), skipped), curves(0.0, 0.3))
    assert statuses(rows)["steps without a finite gradient"] == status


def test_float32_that_does_not_learn_says_nothing() -> None:
    assert statuses(judge_float32(curves(0.0, 0.3)))["learns"] == "passed"
    stuck = Curve((4.0, 4.0, 4.0, 3.9), skipped=0)
    assert statuses(judge_float32([*curves(0.0), stuck]))["learns"] == "FAILED"


def test_which_precisions_a_cpu_has() -> None:
    assert why_not(CPU, "fp32") == ""
    assert "needs a GPU" in why_not(CPU, "fp16")
    assert why_not(CPU, "bf16") == ""


# Resuming


def end(weight: float, moment: float, step: int = 10) -> Checkpoint:
    tensors = {
        "model.main_head.weight": torch.tensor([1.0, weight]),
        "optimizer.main_head.weight.exp_avg": torch.tensor([1.0, moment]),
        "optimizer.main_head.weight.step": torch.tensor(float(step)),
        "rng.cpu": torch.tensor([1, 2], dtype=torch.uint8),
    }
    return Checkpoint(tensors, {})


def failing(*ends: Checkpoint, on_gpu: bool) -> set[str]:
    found = statuses(resume.judge(*ends, on_gpu=on_gpu))
    return {name for name, status in found.items() if status == "FAILED"}


def test_on_a_cpu_no_bit_may_differ() -> None:
    one, least = end(2, 2), float(torch.tensor(2.0).nextafter(torch.tensor(3.0)))
    assert failing(one, one, end(2, 2), on_gpu=False) == set()
    assert failing(one, one, end(least, 2), on_gpu=False) == {"weights"}
    assert failing(one, one, end(2, least), on_gpu=False) == {"exp_avg"}


def test_on_a_gpu_runs_may_differ_as_far_as_two_without_a_break() -> None:
    one, other = end(2, 2), end(2.01, 2.01)
    assert failing(one, other, end(1.98, 1.98), on_gpu=True) == set()
    assert failing(one, other, end(1.98, 2.1), on_gpu=True) == {"exp_avg"}
    assert failing(one, other, end(2, 2, step=9), on_gpu=True) == {"step"}
    assert failing(one, one, end(2.01, 2), on_gpu=True) == {"weights"}


def test_runs_that_learnt_nothing_say_nothing() -> None:
    one = end(2, 2)
    bare = Checkpoint({k: v for k, v in one.tensors.items() if k.startswith("model")}, {})
    assert failing(bare, bare, bare, on_gpu=True) == {"tensors"}
    assert failing(one, one, bare, on_gpu=True) == {"tensors"}


@pytest.fixture
def dry(store: Store) -> Bench:
    return Bench("fm_net", TINY, CPU, store, True, 0.0, lambda _: None)


@pytest.mark.slow
def test_an_optimiser_that_forgets_is_found(dry: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(tensors: Any, model: Any, optimizer: Any) -> None:
        checkpoint.load_weights(model, tensors)

    monkeypatch.setattr(checkpoint, "restore", forget)
    found = {row.name: row.status for row in resume.measure(dry).rows}
    assert found["resumed: at step"] == "passed"
    assert found["resumed: weights"] == found["resumed: exp_avg"] == "FAILED"
    assert found["resumed: step"] == "FAILED"


# Rows and the command


def test_what_a_device_does_not_like_is_a_row() -> None:
    def hungry() -> Sequence[Row]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def broken() -> Sequence[Row]:
        raise RuntimeError("CUDA error: no kernel image is available")

    (row,) = attempt("fm_net, batch of 2", hungry)
    assert (row.name, row.status) == ("fm_net, batch of 2", "FAILED")
    assert "does not fit" in row.why
    assert "2.00 GiB" in row.why
    (row,) = attempt("a row", broken)
    assert (row.status, row.why) == (
        "FAILED",
        "RuntimeError: CUDA error: no kernel image is available",
    )


def test_rows_are_counted_and_shown() -> None:
    checked = Checked(
        [
            judged("one", 1, 2, "because"),
            judged("two", math.nan, 2, "it is"),
            Row("three", "not run", "no GPU"),
        ]
    )
    assert checked.counts == {"passed": 1, "FAILED": 1, "not run": 1}
    written = json.loads(json.dumps(checked.to_json(), allow_nan=False))
    assert written["rows"][1]["found"] == "nan"
    assert written["rows"][0]["why"] == "because"


def test_without_a_gpu_there_is_nothing_to_check() -> None:
    result = CliRunner().invoke(app, ["gpu-check", "--device", "cpu"])
    assert isinstance(result.exception, ConfigError)
    assert "gpu-check needs a GPU, and 'cpu' is none" in str(result.exception)
    assert "make gpu-check DRY=1" in str(result.exception)
    result = CliRunner().invoke(app, ["gpu-check", "--device", "cpu", "--only", "wait"])
    assert "wait: no such section" in str(result.exception)


def test_one_check_alone(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    only = ["gpu-check", "--dry-run", "--out", str(file), "--only"]
    assert CliRunner().invoke(app, [*only, "waits"]).exit_code == 0
    assert [*json.loads(file.read_text("utf-8"))["sections"]] == ["waits"]
    result = CliRunner().invoke(app, [*only, "wait"])
    assert isinstance(result.exception, ConfigError)
    assert "wait: no such section; there are augmentation, resume" in str(result.exception)


@pytest.mark.slow
def test_the_dry_run(tmp_path: Path) -> None:
    file = tmp_path / "new" / "figures.json"
    done = subprocess.run(
        command("gpu-check", "--dry-run", "--out", file),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing about a GPU" in done.stdout
    figures = json.loads(file.read_text("utf-8"))
    assert figures["dry_run"] is True
    assert figures["device"].startswith("CPU, ")
    assert figures["store"]["crop"] == [16, 16, 16]
    assert {"commit", "driver", "versions"} <= figures.keys()
    rows = {
        name: {row["name"]: row for row in section["rows"]}
        for name, section in figures["sections"].items()
    }
    samples = {f"{case.name}: {what}" for case in CHECKED for what in ("image", "labels")}
    assert rows["augmentation"].keys() == samples
    for check_name in ("augmentation", "resume"):
        assert all(row["status"] == "passed" for row in rows[check_name].values())
        assert all(row["found"] <= row["bound"] for row in rows[check_name].values())
    assert rows["resume"]["resumed: at step"]["found"] == 7
    assert len(rows["memory"]) == 4 * len(DTYPES)
    for check_name in ("memory", "waits"):
        assert all(row["status"] == "not run" for row in rows[check_name].values())
    learning = rows["precision"]
    assert learning["fp16"]["status"] == "not run"
    assert 0 < learning["bf16: largest gap"]["found"] <= learning["bf16: largest gap"]["bound"]
    assert len(learning["fp32: learns"]["raw"]["curves"]) == 4
    shown = [row["name"] for section in rows.values() for row in section.values()]
    assert all(name.split()[0] in done.stdout for name in shown)
