"""The quality report's page and command."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from common.manifest import Manifest
from common.store import Store, StoreWriter
from preprocess import quality
from preprocess.quality.rules import FLAGS, Cohort

Command = Callable[..., subprocess.CompletedProcess[str]]

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def page(page_path: Path) -> str:
    assert [file.name for file in page_path.parent.iterdir()] == ["heads-quality.html"]
    return page_path.read_text("utf-8")


def block(page: str, name: str) -> object:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_the_page_holds_every_case(page: str, cohort: Cohort) -> None:
    shown = block(page, "data")
    assert isinstance(shown, dict)
    cases = {case["id"]: case for case in shown["cases"]}
    assert set(cases) == set(cohort.store.contents().records)
    for case_id, record in cohort.store.contents().records.items():
        if record.tumour_voxels is None:
            assert cases[case_id]["ml"] is None
            continue
        counts = cohort.store.task.region_voxels(record.tumour_voxels.native)
        assert cases[case_id]["ml"] == {region: n / 1000 for region, n in counts.items()}
    assert cases["plain-00"]["split"] == "train"
    assert cases["unlabelled"]["labelled"] is False
    pictures = block(page, "pictures")
    assert isinstance(pictures, list)
    assert [picture is None for picture in pictures] == [c == "damaged" for c in cases]


def test_the_page_counts_failures_and_the_missing(page: str, cohort: Cohort) -> None:
    found = re.findall(r"<dt>([a-z ]+)</dt><dd>([\d,]+)</dd></div>", page)
    figures = {title: int(count) for title, count in found}
    done = len(cohort.cases)
    assert figures == {
        "done": done,
        "failed": 1,
        "missing": 1,
        "labelled": done - 1,
        "unlabelled": 1,
        "patients": done,
        "to check": len(cohort.to_check),
    }
    assert "not-tried" in page
    assert "1,234 MB" in page


def test_no_name_or_reason_becomes_markup(page: str) -> None:
    assert HOSTILE not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; out of memory" in page


def test_the_page_asks_for_nothing(page: str) -> None:
    outside = re.sub(r'<script type="application/json".*?</script>', "", page)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", outside)
    assert "@import" not in outside
    assert "default-src 'none'" in outside


def test_every_flag_is_explained_the_gravest_first(page: str) -> None:
    assert all(page.count(f"</span>{flag.title}<") == 1 for flag in FLAGS.values())
    assert page.index(FLAGS["leak"].title) < page.index(FLAGS["flip"].title)
    assert page.index(FLAGS["flip"].title) < page.index(FLAGS["resampled"].title)


def test_the_command_writes_the_page_beside_the_store(store: Store, command: Command) -> None:
    done = command("report", store.path, "--workers", 2)
    assert done.returncode == 0, done.stderr
    page = Path(store.path).with_name("heads-quality.html")
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert re.search(r"\d+/\d+.*elapsed", done.stdout)
    assert "heads-quality.html" in done.stdout.replace("\n", "")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    store: Store, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link.html").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.html")
    for name in ("file/page.html", "link.html", "pipe.html", ".", "::x.html", 260 * "a"):
        refused = command("report", store.path, "--out", tmp_path / name)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: {tmp_path / name}: ")
        assert refused.stderr.count("\n") == 1
        assert refused.stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link.html", "pipe.html"]


def test_missing_folders_of_a_page_are_made(store: Store, tmp_path: Path, command: Command) -> None:
    page = tmp_path / "a" / "b" / (240 * "p" + ".html")
    assert command("report", store.path, "--out", page).returncode == 0
    assert [path.name for path in page.parent.iterdir()] == [page.name]


def test_a_store_without_cases_is_reported_too(tmp_path: Path) -> None:
    empty = StoreWriter.create(tmp_path / "e.zarr", Manifest(), ("one",))
    cohort = quality.measure_cohort(empty, empty.contents(), workers=1, on_case=lambda: None)
    quality.write(cohort, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "No case is stored yet" in text
    assert "one" in text


def test_where_pages_go_by_default() -> None:
    assert quality.default_path("a/brats.zarr") == Path("a/brats-quality.html")
    assert quality.default_path("brats.zarr/") == Path("brats-quality.html")
    assert quality.default_path("s3://bucket/b/brats.zarr") == Path("brats-quality.html")
