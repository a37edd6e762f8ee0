"""Scheduling, looking and resuming cost a case the same, however many there are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEW, MANY = 40, 160

pytestmark = pytest.mark.slow

Row = dict[str, float]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, Row]:
    """What the benchmark measured with few cases and with many."""
    folder = tmp_path_factory.mktemp("scale")
    measured = folder / "scale.json"
    command = [sys.executable, "-m", "benchmarks", "scale", folder / "work", "--out", measured]
    done = subprocess.run(
        [*command, "--cases", str(FEW), "--cases", str(MANY)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    few, many = json.loads(measured.read_text())["sizes"]
    return few, many


def test_a_case_costs_no_more_where_there_are_many(sizes: tuple[Row, Row]) -> None:
    few, many = sizes
    assert many["client_cpu_ms_a_case"] < 2 * few["client_cpu_ms_a_case"]
    assert many["worker_ms_a_case"] < 2 * few["worker_ms_a_case"]
    # Of wall time, another program on the machine may take most for a while: hence the slack.
    assert many["overhead_ms_a_case"] < max(2 * few["overhead_ms_a_case"], 40)


@pytest.mark.parametrize(
    ("what", "cpu_ms_a_case"),
    [
        ("discovery", 3),
        ("status", 8),
        ("nothing_to_do", 10),
        ("touched", 10),
        ("check", 40),
        ("verify", 40),
        ("report", 100),
    ],
)
def test_what_a_further_case_adds_is_little(
    sizes: tuple[Row, Row], what: str, cpu_ms_a_case: float
) -> None:
    few, many = sizes
    added = many[f"{what}_cpu_seconds"] - few[f"{what}_cpu_seconds"]
    assert 1e3 * added / (MANY - FEW) < cpu_ms_a_case


def test_the_client_keeps_little_of_a_case(sizes: tuple[Row, Row]) -> None:
    few, many = sizes
    assert (many["client_peak_mb"] - few["client_peak_mb"]) / (MANY - FEW) < 0.1


def test_the_scheduler_keeps_nothing_of_a_case(sizes: tuple[Row, Row]) -> None:
    few, many = sizes
    assert many["scheduler_topics"] == few["scheduler_topics"]
