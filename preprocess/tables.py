"""Lines and tables that the preprocessing commands print."""

import statistics
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from common import hints
from common.alike import finding_lines
from common.names import some
from common.record import CaseFailure, CaseRecord
from common.splits import SPLITS
from common.store import Store
from common.store.audit import Audit
from common.store.reader import Contents
from preprocess.cohort_labels import count_conventions, labelled_cases

if TYPE_CHECKING:
    # Imports Dask, which only a run needs.
    from preprocess.pipeline import Report
    from preprocess.plan import Plan


STALE = "made with other parameters than the store's, so they are not used"
LISTED = 20
"""Names in a line; of more the number."""


def warning_lines(records: Iterable[CaseRecord]) -> Iterator[Text]:
    """Lines for everything unusual in the files of stored cases, as `check` has them."""
    return finding_lines(
        warning.of(record.case_id) for record in records for warning in record.warnings
    )


def failure_lines(failures: list[CaseFailure]) -> Iterator[Text]:
    """One line per failed case: stage, peak memory, reason."""
    for failure in failures:
        peak = failure.peak_memory_mb
        memory = "" if peak is None else f", peak memory {peak:.0f} MB"
        where = f"failed at stage {failure.stage}{memory}: "
        case = (f"{failure.case_id}  ", "bold")
        yield Text.assemble(("✗ ", "bold red"), case, where, " ".join(failure.reason.split("\n")))


def run_table(report: "Report", store: Store, contents: Contents) -> Table:
    """A run's results and the store."""
    table = _plain(f"Preprocessed into {store.path}")
    count = len(report.outcomes)
    new = count - len(report.failures)
    table.add_row("cases stored", f"{new} new, {len(report.work.kept)} kept")
    table.add_row("cases failed", str(len(report.failures) + len(report.work.refused)))
    if count:
        workers = len({outcome.process for outcome in report.outcomes if outcome.process})
        rate = f"{report.seconds:.1f} s, {report.seconds / count:.2f} s per case"
        table.add_row("time", f"{rate}, {workers} worker process(es)")
        peaks = [o.peak_memory_mb for o in report.outcomes if o.peak_memory_mb is not None]
        if peaks:
            table.add_row("peak memory", f"{max(peaks):.0f} MB per worker")
    _add_store_rows(table, store, contents)
    return table


def absent_line(work: "Plan") -> str:
    """Stored cases that are not in the data, and whether they were removed."""
    count = f"{len(work.absent)} stored case(s)"
    if work.drop_absent:
        return f"removed {count} that are not in {work.data}: {some(work.absent, LISTED)}"
    return (
        f"{count} are not in {work.data} and were kept: {some(work.absent, LISTED)}; "
        f"{hints.option('--drop-absent')} removes them from the store"
    )


def status_table(store: Store, contents: Contents) -> Table:
    """A store's cases and parameters."""
    records, failures = contents.records, contents.failures
    table = _plain(f"Store {store.path}")
    missing = set(contents.absent) - set(failures) - set(contents.stale)
    table.add_row("cases", f"{len(records)} done, {len(failures)} failed")
    if contents.stale:
        table.add_row("to be made again", f"{len(contents.stale)}: {STALE}")
    table.add_row("missing", f"{len(missing)}: not tried yet, or removed" if missing else "none")
    manifest = store.manifest
    crop = "×".join(str(side) for side in manifest.crop)
    channels = len(store.task.modalities)
    table.add_row("arrays", f"{channels}×{crop} {manifest.dtype}, and whole volumes")
    table.add_row("parameters", store.parameter_hash)
    _add_store_rows(table, store, contents)
    return table


def audit_lines(audit: Audit) -> Iterator[Text]:
    """One line per finding of an audit, damage first."""
    for case in audit.of("damaged", "unreadable"):
        yield Text.assemble(("✗ ", "bold red"), case.what)
    if audit.missing:
        why = {case.case_id: f" ({case.state})" for case in audit.of("failed", "stale")}
        names = some([name + why.get(name, "") for name in audit.missing], LISTED)
        yield Text.assemble(("✗ ", "bold red"), f"{len(audit.missing)} case(s) missing: {names}")
    unfinished = [case.case_id for case in audit.of("unfinished")]
    left = [f"cases/{name}" for name in unfinished] + list(audit.leftovers)
    if left:
        what = f"{len(left)} leftover(s) of killed writers: {some(left, LISTED)}"
        yield Text.assemble(
            ("warning: ", "yellow"), what, (f" → {hints.option('--repair')} removes them", "cyan")
        )

    if audit.unchecked:
        what = f"{len(audit.unchecked)} file(s) of an earlier version have no checksum, so that "
        what += f"a change in them may not be seen: {some(audit.unchecked, LISTED)}"
        add = f" → {hints.option('--repair')} adds it"
        yield Text.assemble(("warning: ", "yellow"), what, (add, "cyan"))


def audit_table(audit: Audit, store: Store, *, repaired: bool = False) -> Table:
    """An audit's results."""
    table = _plain(f"Store {store.path}")
    stored = len(audit.of("stored"))
    table.add_row("intact", f"{stored} case(s)")
    table.add_row("removed" if repaired else "damaged", str(len(audit.of("damaged"))))
    if unreadable := len(audit.of("unreadable")):
        table.add_row("not read", f"{unreadable}, and left as they are")
    if stale := len(audit.of("stale")):
        table.add_row("to be made again", f"{stale}: {STALE}")
    failed = len(audit.of("failed"))
    which = f", of which {failed} failed" if failed else ""
    what = f"{len(audit.missing)} of {len(store.expected)} expected case(s){which}"
    table.add_row("missing", what)
    return table


def _plain(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    return table


def _add_store_rows(table: Table, store: Store, contents: Contents) -> None:
    records = contents.records
    if not records:
        return
    if warned := sum(bool(record.warnings) for record in records.values()):
        table.add_row("warnings", f"on {warned} case(s), which `check` and the report show")
    labelled = [record for record in records.values() if record.tumour_voxels]
    table.add_row("labels", f"{len(labelled)} of {len(records)} cases")
    for convention in count_conventions(store.task, labelled_cases(labelled)):
        table.add_row("", str(convention))
    if not labelled:
        table.add_row("", "no case has a label: the store serves prediction, not training")
    counts = {name: len(contents.splits[name]) for name in SPLITS}
    if left_out := len(labelled) - sum(counts.values()):
        counts["none"] = left_out
    table.add_row("splits", ", ".join(f"{name} {count}" for name, count in counts.items()))
    if labelled:
        table.add_row("tumour outside", _lost(labelled))
    crops, volumes = (store.files.size_bytes(part) / 1e6 for part in ("crops", "cases"))
    crop, volume = crops / len(records), volumes / len(records)
    per_case = f"per case: crop {crop:.1f} MB, whole volume {volume:.1f} MB"
    table.add_row("disk", f"{crops + volumes:.0f} MB; {per_case}")


def _lost(labelled: list[CaseRecord]) -> str:
    voxels = [record.tumour_voxels for record in labelled if record.tumour_voxels]
    crop = _shares([counts.lost("crop") for counts in voxels])
    centred = _shares([counts.lost("centred_crop") for counts in voxels])
    return f"crop {crop}; crop centred on the brain {centred}"


def _shares(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2%} (at most {max(values):.1%})"
