"""The run report's page: what is in it, and what the command refuses."""

import base64
import json
import re
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli import invoke
from runs import validated

from common.store import Store
from common.task import GLIOMA
from train.cli import app
from train.compare import compare, open_methods
from train.results import read_csv
from train.session import save

MakeRun = Callable[..., Path]


def written(*arguments: object) -> str:
    done = invoke(app, "report", *arguments)
    assert done.returncode == 0, done.stderr
    named = dict(pairwise(arguments)).get("--out")
    return Path(named or arguments[0] / "report.html").read_text()


def block(page: str, name: str) -> dict[str, Any]:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found
    held: dict[str, Any] = json.loads(found[1])
    return held


def data_of(page: str) -> dict[str, Any]:
    return block(page, "data")


def unpacked(mask: str) -> bytes:
    return zlib.decompress(base64.b64decode(mask))


def test_a_run_that_was_trained_and_evaluated_has_a_page(store: Store, tmp_path: Path) -> None:
    validated(store, run := tmp_path / "run")
    page = written(run)
    assert f"evaluate {run}" in page
    assert data_of(page)["cases"] == []
    assert invoke(app, "evaluate", run, "--split", "val").returncode == 0
    page = written(run)
    (row,) = (row for row in read_csv(run / "evaluation-val.csv") if row["region"] == "wt")
    (case,) = data_of(page)["cases"]
    assert case["id"] == row["case_id"]
    assert case["scores"][0]["wt"][0] == row["dice"]
    assert "chosen on 1 of 1 case" in page
    slices = block(page, "slices-0")
    volume, label = store.read_volume(case["id"])
    assert slices["shape"] == list(volume.shape[1:])
    assert unpacked(slices["reference"]) == label.tobytes()
    (prediction,) = slices["predictions"]
    assert prediction["title"] == "run"
    voxels = np.isin([*unpacked(prediction["mask"])], GLIOMA.regions["wt"]).sum()
    assert voxels == row["prediction_voxels"]
    assert "slices-0" not in written(run, "--cases", 0)
    assert page.count('class="line region region-wt run-0"') == 1  # of reliability


def test_every_case_is_there_the_worst_first(one_run: Path) -> None:
    cases = data_of(written(one_run))["cases"]
    means = [case["mean"][0] for case in cases]
    assert means == sorted(means)
    rows = read_csv(one_run / "evaluation-test.csv")
    assert {case["id"] for case in cases} == {row["case_id"] for row in rows}
    found = {case["id"]: case["findings"][0]["wt"] for case in cases}
    assert found["missed"] == {"missed": 1, "lesions-missed": 1}
    assert found["false-alarm"] == {"false": 1, "lesions-false": 1}
    assert found["empty"] == found["perfect"] == {}


def test_a_run_whose_store_is_gone_or_another_has_a_page_without_slices(
    store: Store, make_store: Callable[..., Store], tmp_path: Path
) -> None:
    validated(store, run := tmp_path / "run")
    invoke(app, "evaluate", run)
    assert "slices-0" in written(run)
    done = invoke(app, "report", run, "--store", tmp_path / "gone.zarr")
    assert done.returncode == 0
    assert "gone.zarr" in done.stderr
    other = make_store(crop=(24, 24, 24))
    done = invoke(app, "report", run, "--store", other.path)
    assert "other cases or parameters than when it was evaluated" in done.stderr
    page = (run / "report.html").read_text()
    assert "slices-0" not in page
    assert "other cases or parameters than when it was evaluated" in page


def test_slices_of_other_weights_than_were_scored_are_said_to_be(
    store: Store, tmp_path: Path
) -> None:
    session = validated(store, run := tmp_path / "run")
    invoke(app, "evaluate", run)
    with torch.no_grad():
        session.model.main_head.bias -= 1
    save(session, best=True)
    done = invoke(app, "report", run)
    assert "slices to view show other predictions than were scored" in done.stderr


def test_cases_beyond_those_inside_lie_beside_the_page(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.report.INSIDE", 0)
    validated(store, run := tmp_path / "run")
    invoke(app, "evaluate", run)
    (run / "report-cases").mkdir()
    (run / "report-cases" / "7.js").write_text("of an earlier page")
    (run / "report-cases" / "notes.txt").write_text("somebody's")
    page = written(run)
    (case,) = data_of(page)["cases"]
    there = sorted(file.name for file in (run / "report-cases").iterdir())
    assert there == [case["beside"], "notes.txt"] == ["0.js", "notes.txt"]
    assert "script-src 'sha256-" in page
    assert re.search("script-src '[^']*' 'self';", page)


def test_runs_are_compared_on_the_cases_of_all(two_runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = written(*two_runs, "--out", tmp_path / "both.html")
    held, comparison = data_of(page), compare(open_methods(two_runs))
    last = {case["id"]: case for case in held["cases"]}["plain-08"]
    assert last["mean"][1] is None
    assert last["mean"][0] > 0
    assert "1 case(s) of low are not in all evaluations" in page
    (row,) = (
        row
        for row in comparison.rows
        if (row.region, row.metric.name, row.method) == ("wt", "dice", "high")
    )
    assert row.apart
    assert f"+{row.apart.mean:.3f} (" in page
    assert re.search("<th[^>]*>seed</th><td[^>]*>0</td><td[^>]*>1</td>", page)


def test_no_text_of_a_file_becomes_markup(one_run: Path) -> None:
    page = written(one_run)
    assert "<img" not in page
    assert "<b>of others" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_page_asks_for_nothing(one_run: Path) -> None:
    page = written(one_run)
    outside = re.sub(r'<script type="application/json".*?</script>', "", page)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", outside)
    assert "default-src 'none'" in outside


def test_scores_of_an_earlier_epoch_are_said_to_be(make_run: MakeRun, tmp_path: Path) -> None:
    page = written(make_run(tmp_path / "longer", ["missed", "perfect"], epochs=10))
    assert "these scores are of epoch 8" in page
    assert "is now of epoch 10" in page


def test_an_evaluation_of_an_earlier_version_has_no_calibration(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "old", ["perfect"], calibration=None)
    assert "Evaluate again to see them" in written(run)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: (run / "evaluation-test.json").unlink(), "evaluation-test.json"),
        (lambda run: (run / "evaluation-test.json").write_text("{}"), "evaluation-test.json"),
        (lambda run: (run / "metrics.jsonl").write_text("{"), "metrics.jsonl"),
        (lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1}\n'), "metrics.jsonl"),
        (lambda run: (run / "metrics.jsonl").write_text('{"epoch": NaN}\n'), "metrics.jsonl"),
        (lambda run: (run / "metrics.jsonl").write_text("[1]\n"), "metrics.jsonl"),
        (lambda run: (run / "config.yaml").write_text(""), "config.yaml"),
        (lambda run: (run / "evaluation-test.csv").write_text("a,b\n1,2\n"), "evaluation-test.csv"),
        (lambda run: (run / "report.html").mkdir(), "report.html"),
    ],
)
def test_a_file_that_is_torn_or_in_the_way_is_named(
    change: Callable[[Path], None], told: str, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", ["missed", "perfect"])
    change(run)
    done = invoke(app, "report", run)
    assert done.returncode == 2
    assert str(run / told) in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_run_or_named_twice_is_refused(one_run: Path, tmp_path: Path) -> None:
    assert "no such run" in invoke(app, "report", tmp_path / "none").stderr
    assert "once" in invoke(app, "report", one_run, one_run / "evaluation-test.json").stderr
