"""Every kind of input with an error or a warning: `check` names it as docs/check.md does.

What `check` refuses of a case, preparing it refuses with the same words, and the reverse.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.case import prepare
from common.discovery import discover
from common.errors import Finding, InputError
from common.manifest import Manifest
from common.names import name_fault
from common.splits import ListSplits
from common.store import Store
from preprocess.check import check_case, cohort_findings
from preprocess.plan import plan

DOCUMENT = Path(__file__).parents[3] / "docs" / "check.md"

Build = Callable[[Path], object]
Lists = dict[str, tuple[str, ...]]
Command = Callable[..., subprocess.CompletedProcess[str]]

COHORT = Manifest(crop=(16, 16, 16), splits=ListSplits(kind="lists"))


def checked(data: Path, manifest: Manifest = COHORT) -> list[Finding]:
    """All findings of `check` about a folder."""
    discovery = discover(data, manifest)
    cases = [check_case(manifest, files) for files in discovery.cases]
    findings = discovery.findings + [finding for case in cases for finding in case.findings]
    return findings + cohort_findings(discovery, cases, manifest)


def test_a_good_case_has_nothing_to_say(good: Path) -> None:
    assert checked(good) == []


def test_what_check_refuses_of_a_case_preparing_it_refuses(
    error: tuple[Build, str], tmp_path: Path
) -> None:
    build, found = error
    build(tmp_path)
    (files,) = discover(tmp_path, COHORT).cases
    findings = checked(tmp_path)
    assert findings
    for finding in findings:
        assert found in finding.found
        assert finding.severity == "error"
        assert finding.case == files.case_id
        assert Path(finding.file) in {*files.images.values(), files.label}
        assert finding.expected
        assert finding.action
        assert "\n" not in str(finding)
    with pytest.raises(InputError) as caught:
        prepare(files, COHORT)
    assert list(caught.value.findings) == findings


def test_what_makes_no_case_is_named(left_out: tuple[Build, str], tmp_path: Path) -> None:
    build, found = left_out
    build(tmp_path)
    (finding,) = [f for f in checked(tmp_path) if f.severity == "error"]
    assert finding.found.startswith(found)
    assert "\n" not in str(finding)


def test_a_case_with_a_warning_is_prepared(warning: tuple[Build, str], tmp_path: Path) -> None:
    build, found = warning
    build(tmp_path)
    (finding,) = checked(tmp_path)
    assert finding.found.startswith(found)
    assert finding.severity == "warning"
    assert "\n" not in str(finding)
    for files in discover(tmp_path, COHORT).cases:
        case = prepare(files, COHORT)
        assert np.isfinite(case.image).all()
        kept = [(note.found, note.action) for note in case.record.warnings]
        assert kept == [(f.found, f.action) for f in check_case(COHORT, files).findings]


def test_whatever_else_goes_wrong_with_a_case_is_an_error_of_that_case(good: Path) -> None:
    (files,) = discover(good, COHORT).cases
    nameless = replace(files, images=files.images | {"t2": files.images["t2"] / "\0"})
    (finding,) = check_case(COHORT, nameless).findings
    assert re.match("ValueError: .*embedded null", finding.found)
    assert (finding.case, finding.severity) == (files.case_id, "error")
    assert Path(finding.file) == good / "odd"


def divided(lists: Lists) -> Manifest:
    splits = ListSplits.model_validate({"kind": "lists"} | lists)
    return COHORT.model_copy(update={"splits": splits})


def test_what_splits_make_of_a_cohort(
    split: tuple[Build, Lists, str, str, str], tmp_path: Path
) -> None:
    build, lists, found, action, severity = split
    build(tmp_path)
    findings = checked(tmp_path, divided(lists))
    (finding,) = [f for f in findings if f.found.startswith(found)]
    assert finding.file == "(the cohort)"
    assert (finding.action, finding.severity) == (action, severity)
    assert plan(tmp_path, str(tmp_path / "s.zarr"), divided(lists)).todo  # whatever the splits


def documented() -> list[tuple[re.Pattern[str], str]]:
    """The rows of the tables in docs/check.md: what is found, `…` standing for anything; severity.

    A row is | what | `found` | severity | what to do |.
    """
    rows = re.findall(r"^\| [^|]+ \| `([^|]+)` \| (error|warning) \|", DOCUMENT.read_text(), re.M)
    return [(re.compile(".*".join(map(re.escape, text.split("…")))), kind) for text, kind in rows]


def test_every_finding_is_documented_and_every_line_of_the_document_is_found(
    everything: dict[str, Build], all_splits: list[tuple[Build, Lists]], tmp_path: Path
) -> None:
    findings = []
    for name, build in everything.items():
        build(tmp_path / name)
        findings += checked(tmp_path / name)
    for number, (build, lists) in enumerate(all_splits):
        build(tmp_path / str(number))
        findings += checked(tmp_path / str(number), divided(lists))
    lines, used = documented(), set()
    for finding in findings:
        fitting = {
            (pattern.pattern, severity)
            for pattern, severity in lines
            if pattern.match(finding.found) and severity == finding.severity
        }
        assert fitting, f"docs/check.md does not know the {finding.severity}: {finding.found}"
        used |= fitting
    assert {(pattern.pattern, severity) for pattern, severity in lines} == used


@pytest.mark.slow
def test_a_run_refuses_what_check_refuses_and_no_more(
    everything: dict[str, Build], keeps_out: dict[str, Build], tmp_path: Path, command: Command
) -> None:
    data, store = tmp_path / "data", tmp_path / "s.zarr"
    for name, build in everything.items():
        slug = name.replace(" ", "-")
        build(data / slug)
        for folder, _, files in os.walk(data / slug):
            for file in files:
                Path(folder, file).rename(Path(folder, f"{slug}-{file}"))
    (data / "data_manifest.yaml").write_text("crop: [16, 16, 16]\nsplits: {kind: lists}\n")

    answer = command("check", data, "--json")
    run = command("run", data, "--store", store, "--workers", 2)
    assert answer.returncode == run.returncode == 1, run.stderr
    findings = json.loads(answer.stdout)["findings"]
    errors = [finding for finding in findings if finding["severity"] == "error"]
    reasons = {
        case: failure.reason for case, failure in Store.open(store).contents().failures.items()
    }
    stored = Store.open(store).contents().records
    assert len(reasons) > len(keeps_out)  # those that are refused by the names of their files too
    refused = [finding for finding in errors if finding["case"] not in {"-", *stored}]
    refused = [finding for finding in refused if not name_fault(finding["case"])]
    assert {finding["case"] for finding in refused} == set(reasons)
    said = run.stdout.replace(f"{data}/", "")  # a store does not keep where the data was
    for finding in errors:
        found = finding["found"].replace(f"{data}/", "")
        assert found in said
        assert finding not in refused or found in reasons[finding["case"]]
    assert json.loads(answer.stdout)["usable"] == len(stored)
