"""The report of one or several runs: a page that a group can discuss around one screen."""

from collections.abc import Sequence
from pathlib import Path

from common.files import write_text
from train.report.facts import RunFacts
from train.report.page import comparison_of, render


def default_path(runs: Sequence[RunFacts]) -> Path:
    """`report.html` in the run's folder; of several runs in the working folder."""
    return (runs[0].folder if len(runs) == 1 else Path()) / "report.html"


def write(runs: Sequence[RunFacts], path: Path) -> None:
    """Write the page.

    Raises:
        ConfigError: the runs' scores do not compare.
    """
    page = render(runs, comparison_of(runs))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
