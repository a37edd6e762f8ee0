"""`fmnet-preprocess`: from a folder of BraTS cases to a store."""

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common import console, hints
from common.alike import finding_lines
from common.console import err, out
from common.errors import ConfigError, StoreError
from common.files import check_outside, real_path
from common.manifest import (
    ClusterSection,
    Manifest,
    load_manifest,
    manifest_in,
    manifest_path,
)
from common.outputs import check_output
from common.store import Store, StoreWriter
from common.store.paths import check_address, translate_io_errors

if TYPE_CHECKING:
    from rich.text import Text

    from common.lock import Lock
    from common.store.reader import Contents
    from preprocess.pipeline import Report


UNCLEAN = 1
"""Exit code when the command worked, but something is wrong with the cohort or the store."""

app = typer.Typer(
    cls=console.Commands,
    help="Turn a folder of BraTS cases into a store to train from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Data = Annotated[Path, typer.Argument(metavar="DATA", help="The folder that holds the cases.")]
StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="The store's path or URL.")]
ManifestOption = Annotated[
    Path | None,
    typer.Option(
        help="The cohort's description. Default: data_manifest.yaml beside the cases, else in the "
        "working folder, else built-in values."
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes. Default: one per core.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value of the manifest, such as crop=[96,96,96]."),
]


def main() -> None:
    """Entry point of the console script."""
    console.run(app)


@app.command()
def phantom(
    directory: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty folder.")],
    cases: Annotated[int, typer.Option(min=1, help="How many.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other cases.")] = 0,
    size: Annotated[
        str, typer.Option(help="D,H,W of the images, in voxels of 1 mm.")
    ] = "155,240,240",
    release: Annotated[
        str | None,
        typer.Option(
            help="A release whose file names, folders and label values are used: 2021, 2023, bids, "
            "nnunet, msd, upenn-gbm, … (docs/data.md). Default: 2023."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="glioma, post-treatment, pediatric, metastases or meningioma-rt. Default: the "
            "release's."
        ),
    ] = None,
) -> None:
    """Make synthetic cases in BraTS format, with a manifest, to try everything without data."""
    from preprocess.phantom import make_cohort

    shape = _triple(size)
    check_output(directory, "folder")
    with console.progress("cases") as bar:
        bar_task = bar.add_task("phantoms", total=cases)
        made = make_cohort(
            directory,
            cases=cases,
            seed=seed,
            size=shape,
            release=release,
            task=task,
            on_case=lambda: bar.advance(bar_task),
        )
    out.print(f"{cases} phantoms in {made}, described by {made / 'data_manifest.yaml'}")
    out.print(f"next: {hints.preprocess(f'{made}.zarr', str(made))}", soft_wrap=True)


@app.command()
def check(
    data: Data,
    manifest: ManifestOption = None,
    overrides: Overrides = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a folder of cases: every problem of every case. Writes nothing."""
    from preprocess.check import check as check_folder
    from preprocess.check import cohort_findings, summarise
    from preprocess.plan import refused_cases

    cohort = _load_manifest(manifest, overrides, data, quiet=as_json)
    began = time.perf_counter()
    discovery, results = check_folder(data, cohort, workers)
    with console.progress("cases") as bar:
        bar.disable = as_json
        cases = list(bar.track(results, len(discovery.cases), description="checking"))
    findings = discovery.findings + [found for case in cases for found in case.findings]
    findings += cohort_findings(discovery, cases, cohort)
    summary = summarise(discovery, cases, cohort)
    usable, there = summary.cases, len(cases) + len(refused_cases(discovery))
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        answer = {"cases": there, "usable": usable, "findings": [asdict(f) for f in findings]}
        print(json.dumps(answer | {"summary": asdict(summary)}, indent=2))  # noqa: T201 - for programs to read
    else:
        _print_lines(finding_lines(findings))
        for line in summary.lines():
            out.print(line, soft_wrap=True, highlight=False)
        seconds = time.perf_counter() - began
        of = f" of {there}" if usable < there else ""
        out.print(f"{usable} usable case(s){of}, {errors} error(s), {seconds:.1f} s")
        if usable and not errors:
            store = _store_outside(data, cohort.store)
            after = hints.preprocess(store, str(data), *overrides or (), manifest=manifest)
            out.print(f"next: {after}", soft_wrap=True)
    if errors or not usable:
        raise typer.Exit(UNCLEAN)


@app.command()
def run(
    data: Data,
    store: Annotated[
        str | None, typer.Option(help="The store to write. Default: the manifest's.")
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="local, slurm, or a Dask scheduler such as tcp://host:8786.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Local processes. Default: one per core.")
    ] = None,
    manifest: ManifestOption = None,
    overrides: Overrides = None,
    drop_absent: Annotated[
        bool,
        typer.Option(
            "--drop-absent", help="Remove stored cases, and stored labels, that are not in DATA."
        ),
    ] = False,
) -> None:
    """Preprocess a folder of cases into a store. Stored cases that did not change are kept."""
    from common.lock import hold
    from preprocess.pipeline import Report, begin
    from preprocess.plan import plan

    if workers and cluster != "local":
        raise ConfigError(
            f"--workers {workers}: only for local workers; leave it out with --cluster {cluster}. "
            "A Dask scheduler uses all its workers; the manifest sets SLURM's jobs, as in "
            "--set cluster.jobs=4"
        )
    cohort = _load_manifest(manifest, overrides, data)
    if cluster == "slurm" and manifest is None:
        _check_cluster_section(data)
    path = store or cohort.store
    check_outside(path, data)
    with hold(path) as lock:
        with console.progress("cases") as bar:
            task = bar.add_task("comparing", visible=False)

            def on_case(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, visible=bool(total))

            work = plan(data, path, cohort, on_case, drop_absent=drop_absent)
        out.print(f"{len(work.todo)} case(s) to do, {len(work.kept)} done before → {path}")
        out.print(work.layout, soft_wrap=True)
        for change in work.changes:
            err.print(f"warning: all stored cases are made again: {change}", soft_wrap=True)
        report = Report(work)
        if work.todo:
            _execute(report, lock, cluster, workers)
        else:
            begin(work)
    if not _conclude(report):
        raise typer.Exit(UNCLEAN)


def _execute(report: "Report", lock: "Lock", cluster: str, workers: int | None) -> None:
    """Process the planned cases with a progress bar, and add each outcome to the report."""
    from common.pool import available_cores
    from preprocess.cluster import connect
    from preprocess.pipeline import execute
    from preprocess.plan import done

    work = report.work
    processes = min(workers or available_cores(), len(work.todo))
    out.print(f"connecting to {cluster} …" if "://" in cluster else f"starting {cluster} workers …")
    try:
        with (
            connect(cluster, processes, work.manifest.cluster) as client,
            console.progress("cases") as bar,
        ):
            task = bar.add_task("preprocessing", total=len(work.todo))
            began = time.perf_counter()
            for outcome in execute(client, work, lock):
                report.outcomes.append(outcome)
                report.seconds = time.perf_counter() - began
                if outcome.failure:
                    bar.print(f"✗ {outcome.case_id} failed")
                bar.advance(task)
    except KeyboardInterrupt:
        # Counted in the store: a worker may have stored a case and not reported it.
        err.print(
            f"interrupted: {len(done(work))} of {len(work.present)} case(s) are stored; run the "
            "same command again for the others",
            soft_wrap=True,
        )
        raise typer.Exit(console.INTERRUPTED) from None


def _conclude(report: "Report") -> bool:
    """Print a run's results; returns whether every case is in the store, without errors."""
    from preprocess.cohort_labels import label_findings, labelled_cases
    from preprocess.tables import (
        absent_line,
        failure_lines,
        run_table,
        warning_lines,
    )

    work = report.work
    _print_lines(finding_lines(work.findings))
    _print_lines(failure_lines(report.failures))
    if work.absent:
        out.print(absent_line(work), soft_wrap=True)
    store = Store.open(work.store_path)
    contents = store.contents()
    new = {outcome.case_id for outcome in report.outcomes if not outcome.failure}
    _print_lines(warning_lines(r for c, r in contents.records.items() if c in new))
    refused = [failure.reason for failure in contents.failures.values()]
    labels = labelled_cases(contents.records.values())
    _print_lines(finding_lines(label_findings(store.task, labels, refused)))
    out.print(run_table(report, store, contents))
    if not _print_doubles(contents) and not contents.absent and report.clean:
        out.print(f"next: {hints.report(store.path)}", soft_wrap=True)
        if contents.patients:
            out.print(f"      {hints.train(store.path)}", soft_wrap=True)
        return True
    expected = len(store.expected)
    done = expected - len(contents.absent)
    err.print(f"{done} of {expected} case(s) are stored; the problems are listed above")
    return False


@app.command()
def status(store: StoreArgument) -> None:
    """Show which cases are stored, failed or missing, and how large the store is."""
    from preprocess.tables import failure_lines, status_table

    opened = Store.open(store)
    contents = opened.contents()
    out.print(status_table(opened, contents))
    _print_lines(failure_lines(list(contents.failures.values())))
    leaks = _print_doubles(contents)
    if leaks or contents.failures or contents.absent:
        raise typer.Exit(UNCLEAN)


@app.command()
def verify(
    store: StoreArgument,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove damaged cases; the next run makes them again."),
    ] = False,
    workers: Workers = None,
) -> None:
    """Read the whole store again, and compare every checksum."""
    from common.lock import hold
    from common.pool import available_cores, map_in_processes
    from common.store.audit import audit_case, case_folders, conclude, lost_case
    from common.store.audit import repair as remove_damage
    from preprocess.tables import audit_lines, audit_table

    opened = Store.open(store)
    if not repair:
        _print_writer(store)
    with hold(store) if repair else nullcontext():
        with console.progress("cases") as bar:
            folders = case_folders(opened)
            bar.disable = not folders
            processes = workers or available_cores()
            lost = partial(lost_case, opened)
            audits = map_in_processes(audit_case, opened, folders, processes, lost)
            audit = conclude(opened, bar.track(audits, len(folders), description="verifying"))
        _print_lines(audit_lines(audit))
        for removed in remove_damage(StoreWriter(store), audit) if repair else ():
            out.print(f"removed {removed}", soft_wrap=True)
    out.print(audit_table(audit, opened, repaired=repair))
    if audit.missing:
        if audit.of("damaged") and not repair:
            err.print(
                f"to remove what is damaged: {hints.verify(store, repair=True)}", soft_wrap=True
            )
        err.print(f"to make the missing case(s): {hints.preprocess(store)}", soft_wrap=True)
    if audit.missing or audit.of("unreadable") or (audit.of("damaged") and not repair):
        raise typer.Exit(UNCLEAN)


def _print_writer(store: str) -> None:
    """Say who is writing a store; a lock that nobody can read keeps nobody from reading it."""
    from common.lock import LockFile

    try:
        with translate_io_errors(store, "read"):
            writer = LockFile.of_store(store).owner()
    except StoreError as error:
        err.print(f"warning: {error}", soft_wrap=True)
        return
    if writer and writer.seems_alive:
        out.print(f"{writer.name} is writing this store: its unfinished cases show as missing")


@app.command()
def report(
    store: StoreArgument,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The page. Default: STORE-quality.html beside the store."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Write the quality report, one HTML page to look at before training."""
    from common.pool import available_cores
    from preprocess import quality

    opened = Store.open(store)
    page = out_file or quality.default_path(store)
    check_output(page, "file", store)
    with console.progress("cases") as bar:
        contents = opened.contents()
        total = len(contents.records)
        task = bar.add_task("measuring", total=total, visible=bool(total))
        cohort = quality.measure_cohort(
            opened, contents, workers or available_cores(), lambda: bar.advance(task)
        )
    quality.write(cohort, page)
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    counts = f"{len(cohort.cases)} case(s), {len(cohort.to_check)} to check"
    absent = {"failed": len(cohort.failures), "missing": len(cohort.missing)}
    counts += "".join(f", {count} {what}" for what, count in absent.items() if count)
    out.print(f"{counts}: open {page} ({size})", soft_wrap=True)
    if contents.patients:
        out.print(f"next: {hints.train(store)}", soft_wrap=True)


def _triple(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"{text}: expected D,H,W, as in 155,240,240", param_hint="--size")
    depth, height, width = (int(part) for part in parts)
    return depth, height, width


def _store_outside(data: Path, store: str) -> str:
    """A store that `run` would write: this one, or one of its name beside the data."""
    try:
        check_outside(store, data)
    except ConfigError:
        return str(real_path(data).parent / Path(store).name)
    return store


def _load_manifest(
    path: Path | None, overrides: list[str] | None, data: Path, *, quiet: bool = False
) -> Manifest:
    """The manifest at `path`, else beside the cases, else in the working folder, else defaults."""
    chosen = manifest_path(path, data)
    manifest = load_manifest(chosen, overrides or ())
    check_address(manifest.store)
    if not quiet:
        out.print(f"manifest: {chosen or 'built-in values'}")
    return manifest


def _check_cluster_section(data: Path) -> None:
    """Refuse job settings from a manifest that lies in DATA, unless it is named.

    Whoever may write there could run commands as the user, by lines of the job script.
    """
    found = manifest_in(data)
    if found and load_manifest(found).cluster != ClusterSection():
        raise ConfigError(
            f"--cluster slurm: {found} has a cluster section and lies among the data; if you trust "
            f"it, name it with --manifest {found}"
        )


def _print_lines(lines: Iterator["Text"]) -> None:
    """Print each on one line: the terminal wraps it, and grep finds all of it."""
    for line in lines:
        out.print(line, soft_wrap=True)


def _print_doubles(contents: "Contents") -> bool:
    """Print a line for each case with an image of another; returns whether any is in two splits."""
    for double in contents.doubles(contents.splits):
        if not double.splits:
            what = f"{double}: move one away, unless it should count twice"
            err.print(f"warning: {what}", soft_wrap=True)
    leaks = contents.leaks(contents.splits)
    for leak in leaks:
        err.print(f"✗ {leak}", soft_wrap=True)
    return bool(leaks)
