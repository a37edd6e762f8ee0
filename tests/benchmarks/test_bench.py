"""The benchmark of training, dry: tiny crops, the small network, a CPU."""

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from benchmarks.training.loader import busy_ms
from benchmarks.training.pipeline import worker_counts
from benchmarks.training.suite import Bench
from common.errors import ConfigError
from common.store import Store
from train.cli import app

FACTOR = 3
"""Within which a step's phases add up to a whole step, whatever else the machine is at."""


def bench(*options: str) -> Result:
    command = ["bench", "demo", "--device", "cpu", "--only", "pipeline", *options]
    return CliRunner().invoke(app, command)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Any]]:
    file = tmp_path_factory.mktemp("bench") / "new" / "figures.json"
    result = bench("--dry-run", "--out", str(file))
    assert result.exit_code == 0, result.output
    return result, json.loads(file.read_text("utf-8"))


def test_the_figures_say_what_they_hold_for(ran: tuple[Result, dict[str, Any]]) -> None:
    _, figures = ran
    assert figures["store"] == {"name": "synthetic", "crop": [16, 16, 16], "dtype": "float16"}
    assert figures["device"].startswith("CPU, ")
    assert figures["driver"] is None
    assert figures["dry_run"] is True
    pipeline = figures["sections"]["pipeline"]
    assert (pipeline["preset"], pipeline["cases"]) == ("demo", 4)
    assert pipeline["config"]["batch_size"] == 2
    assert {"torch", "nvidia-dali-cuda120", "zarr", "python"} <= figures["versions"].keys()
    assert figures["commit"]
    assert figures["cores"] >= 1
    assert figures["date"].startswith("20")


def test_a_samples_parts_add_up_to_the_whole(ran: tuple[Result, dict[str, Any]]) -> None:
    loader = ran[1]["sections"]["pipeline"]["loader"]
    parts, cpu_ms = loader["parts"], loader["cpu_ms"]
    assert list(cpu_ms) == ["read", "decode", "draw", "transport", "augment"]
    whole = 1e3 * parts["augmented"]["cpu_seconds"] / parts["augmented"]["samples"]
    assert sum(cpu_ms.values()) == pytest.approx(whole)
    assert cpu_ms["read"] > 0
    assert cpu_ms["decode"] > 0  # the others are differences, of a few samples: any may be below
    compared = {name: parts[name]["samples"] for name in ("drawn", "handed_over", "augmented")}
    assert len(set(compared.values())) == 1
    assert parts["augment_device_ms"] is parts["copy_device_ms"] is None


def test_the_loader_is_measured_with_as_many_workers_as_there_are_cores(
    ran: tuple[Result, dict[str, Any]],
) -> None:
    by_workers = ran[1]["sections"]["pipeline"]["loader"]["by_workers"]
    assert [int(workers) for workers in by_workers] == worker_counts()
    for rate in by_workers.values():
        seconds = sum(rate["batch_seconds"])
        assert rate["volumes_per_second"] == pytest.approx(rate["samples"] / seconds)
        assert rate["volumes_per_cpu_second"] == pytest.approx(
            rate["samples"] / rate["cpu_seconds"]
        )


def test_the_loader_is_measured_with_its_caches(ran: tuple[Result, dict[str, Any]]) -> None:
    loader = ran[1]["sections"]["pipeline"]["loader"]
    assert list(loader["by_cache"]) == ["ram", "device"]
    for rate in loader["by_cache"].values():
        assert rate["cpu_ms"] > 0


def test_a_steps_phases_are_those_of_a_whole_step(ran: tuple[Result, dict[str, Any]]) -> None:
    step = ran[1]["sections"]["pipeline"]["step"]
    phases = step["phases_ms"]
    assert list(phases) == ["input", "forward", "loss", "backward", "optimiser"]
    assert len({len(times) for times in phases.values()}) == 1
    assert all(time > 0 for times in phases.values() for time in times)
    together = sum(median(times) for times in phases.values())
    assert together / FACTOR < median(step["whole_ms"]) < together * FACTOR
    assert median(phases["backward"]) > median(phases["loss"])
    assert step["skipped"] == 0
    assert step["peak_memory_gb"] > 0.1


@pytest.mark.parametrize("cache", ["none", "ram", "device"])
def test_the_loop_with_its_loader(ran: tuple[Result, dict[str, Any]], cache: str) -> None:
    loop = ran[1]["sections"]["pipeline"]["end_to_end"][cache]
    assert loop["workers"] == 1
    assert len(loop["step_seconds"]) == len(loop["wait_seconds"]) >= 2
    assert loop["samples"] == 2 * len(loop["step_seconds"])
    assert 0 < loop["wait_share"] < 1
    assert loop["volumes_per_second"] == pytest.approx(loop["samples"] / sum(loop["step_seconds"]))


def test_the_table_has_a_line_for_every_figure(ran: tuple[Result, dict[str, Any]]) -> None:
    table = ran[0].output
    for part in ("demo", "synthetic", "read", "decode", "transport", "1 worker(s)", "backward"):
        assert part in table
    assert "waiting for data" in table


def test_a_store_of_ones_own(store: Store) -> None:
    nothing = Bench("demo", (), torch.device("cpu"), store, True, 0.0, print)
    with nothing.begun("demo", "batch_size=1") as session:
        assert session.store.path == store.path
        assert session.config.batch_size == 1
    assert not session.run_dir.exists()


def test_a_section_that_is_not_there() -> None:
    result = CliRunner().invoke(app, ["bench", "--only", "pipelin"])
    assert isinstance(result.exception, ConfigError)
    assert "pipelin: no such section; there are steps" in str(result.exception)


def test_a_section_that_fails_is_said_and_the_file_is_there(tmp_path: Path) -> None:
    result = bench("--crop", "16", "--out", f"{tmp_path}/", "--set", "model.widths=[1,1,1,1,1,1,1]")
    assert result.exit_code == 1
    (file,) = tmp_path.glob("cpu-*.json")
    failed = json.loads(file.read_text("utf-8"))["sections"]["pipeline"]["failed"]
    assert "need crops of a multiple of 64" in failed
    assert failed.split()[0] in result.output


def test_what_a_gpu_did_is_told_apart_by_name() -> None:
    events = [("Memcpy HtoD (Pinned -> Device)", 1500.0), ("resample", 200.0), ("fill", 50.0)]
    assert busy_ms([*events, ("Memcpy HtoD (Pageable -> Device)", 500.0)]) == (2.0, 0.25)
