"""Every section of the training benchmark, and every check of a GPU, once on a CPU."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.sections import SECTIONS
from benchmarks.steps import NETWORKS, entries
from train.precision import DTYPES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]


def run(*arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("bench") / "new" / "figures.json"
    shown = run("benchmarks", "training", "--device", "cpu", "--dry-run", "--out", file)
    figures: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert figures["dry_run"]
    assert figures["store"]["crop"] == [16, 16, 16]
    assert {"commit", "driver", "versions"} <= figures.keys()
    assert all(section.title in shown for section in SECTIONS)
    return figures["sections"]


def test_every_way_of_taking_a_step_has_its_row(sections: dict[str, Any]) -> None:
    rows = sections["steps"]["rows"]
    names = [(entry.network, entry.way) for network in NETWORKS for entry in entries(network)]
    assert [(row["group"], row["name"]) for row in rows] == names
    assert {row["name"] for row in rows if not row["seconds"]} == {"compile"}


def test_peers_take_the_same_step(sections: dict[str, Any]) -> None:
    for row in sections["peers"]["rows"]:
        ours = row["group"] in {"U-Net", "FM-Net"}
        if ours or (find_spec("monai") and find_spec("dynamic_network_architectures")):
            assert min(row["seconds"]) > 0, row["note"]
            assert row["more"]["parameters"] > 0


def test_limits_have_work_bound_and_time(sections: dict[str, Any]) -> None:
    for network in sections["limits"]["networks"]:
        assert network["step_ms"] > network["bound_ms"] > 0
        assert network["operators"]["convolution"]["flop"] > 0


def test_whole_volumes(sections: dict[str, Any]) -> None:
    for row in sections["inference"]["rows"]:
        assert row["note"] or min(row["seconds"]) > 0
    for difference in sections["inference"]["largest_probability_difference"].values():
        assert difference < 1e-5


def test_a_samples_parts_add_up_to_the_whole(sections: dict[str, Any]) -> None:
    pipeline = sections["pipeline"]
    parts = pipeline["cpu_ms"]
    assert list(parts) == ["read", "decode", "draw", "transport", "augment"]
    assert sum(parts.values()) == pytest.approx(pipeline["loader"]["1 worker(s)"]["cpu_ms"])
    shares = [loop["wait_share"] for loop in pipeline["steps"].values()]
    assert shares[0] == 0
    assert all(0 < share < 1 for share in shares[1:])


def test_gpu_check(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    shown = run("pytest", "-q", "-m", "gpu", "tests/gpu", "--dry", "--out", file)
    assert "nothing about a GPU" in shown
    rows = {
        name: {row["name"]: row for row in section["rows"]}
        for name, section in json.loads(file.read_text("utf-8"))["sections"].items()
    }
    for check in ("samples", "resume"):
        assert all(row["status"] == "passed" for row in rows[check].values())
        assert all(row["found"] <= row["bound"] for row in rows[check].values())
    assert len(rows["memory"]) == 4 * len(DTYPES)
    for check in ("memory", "waits"):
        assert all(row["status"] == "not run" for row in rows[check].values())
    gap = rows["precision"]["bf16: largest gap"]
    assert 0 < gap["found"] <= gap["bound"]


def test_gpu_check_needs_a_gpu() -> None:
    shown = run("pytest", "-q", "-m", "gpu", "tests/gpu", "--device", "cpu", code=4)
    assert "DRY=1" in shown


def test_ways_to_predict_a_whole_case(tmp_path: Path) -> None:
    run("preprocess", "phantom", tmp_path / "data", "--cases", 3, "--size", "48,48,48")
    file = tmp_path / "figures.json"
    case = next((tmp_path / "data").glob("*/"))
    run("benchmarks", "inference", case, "--dry-run", "--device", "cpu", "--out", file)
    rows = {row["name"]: row for row in json.loads(file.read_text("utf-8"))["rows"]}
    measured = [row for row in rows.values() if "seconds" in row]
    assert len(measured) == (10 if find_spec("monai") else 8)
    assert set(rows["FM-Net, 8 views"]["dice"].values()) == {1.0}
    assert rows["FM-Net, overlap 0.75"]["windows"] > rows["FM-Net"]["windows"]
