"""The report of one or several runs: a page that a group can discuss around one screen."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from common.files import write_text
from common.task import Task
from train.report.facts import RunFacts
from train.report.page import Slices, case_ids, comparison_of, render
from train.report.predictions import Progress, Wanted, load_predictors, predict
from train.report.serve import cases_folder
from train.report.volumes import CaseVolumes, case_script, pack

INSIDE = 10
"""Cases whose volumes are in the page; those of more lie in a folder beside it."""

CASE_FILE = re.compile(r"\d+\.js")


def default_path(runs: Sequence[RunFacts]) -> Path:
    """`report.html` in the run's folder; of several runs in the working folder."""
    return (runs[0].folder if len(runs) == 1 else Path()) / "report.html"


def write(
    runs: Sequence[RunFacts],
    path: Path,
    wanted: Wanted,
    showing: Callable[[str], AbstractContextManager[Progress]],
) -> list[str]:
    """Write the page; returns its notes. `showing` makes a progress bar of what is being done.

    Raises:
        ConfigError: the runs' scores do not compare, or there is no such device.
    """
    comparison, folder = comparison_of(runs), cases_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    slices = Slices(folder.name)
    cases = case_ids(runs)[: wanted.cases]
    predictors = load_predictors(runs if cases else (), wanted)
    slices.notes += predictors.notes
    if predictors.store:
        _remove_cases(folder)
        keep = partial(_keep, slices, predictors.store.task, folder)
        with showing("predicting") as progress:
            slices.notes += predict(predictors, cases, keep, progress)
    page, notes = render(runs, comparison, slices)
    write_text(path, page)
    return notes


def _remove_cases(folder: Path) -> None:
    """Remove the cases of an earlier page."""
    for file in folder.glob("*.js"):
        if CASE_FILE.fullmatch(file.name):
            file.unlink()


def _keep(slices: Slices, task: Task, folder: Path, case_id: str, volumes: CaseVolumes) -> None:
    """Put a case into the page; into the folder if the page holds enough."""
    payload = pack(volumes, task)
    if len(slices.inside) < INSIDE:
        slices.inside[case_id] = payload
        return
    name = f"{len(slices.beside)}.js"
    folder.mkdir(exist_ok=True)
    write_text(folder / name, case_script(case_id, payload))
    slices.beside[case_id] = name
