"""`fmnet-preprocess`: from a BraTS folder to a store."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common import console, hints
from common.console import err, out
from common.errors import ConfigError
from common.manifest import Manifest, load_manifest, manifest_path
from common.store import Store, StoreWriter

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.text import Text

    from common.store.reader import Contents
    from preprocess.lock import Lock, Owner
    from preprocess.pipeline import Report
    from preprocess.plan import Plan


UNCLEAN = 1
"""Exit code when the work was done but something is wrong with the cohort or the store."""

app = typer.Typer(
    cls=console.Commands,
    help="From a folder of BraTS cases to a store that training streams.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Data = Annotated[Path, typer.Argument(help="The folder that holds the cases.")]
StoreArgument = Annotated[str, typer.Argument(help="A store's path or fsspec URL.")]
ManifestOption = Annotated[
    Path | None,
    typer.Option(
        help="The cohort's description; default beside the data, else here, else built in."
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes; default one a core.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the manifest, as in crop=[96,96,96]."),
]


def main() -> None:
    """The console script's door."""
    console.run(app)


@app.command()
def phantom(
    directory: Annotated[Path, typer.Argument(metavar="OUT", help="An empty or new folder.")],
    cases: Annotated[int, typer.Option(min=1)] = 8,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[str, typer.Option(help="D,H,W in voxels of 1 mm.")] = "155,240,240",
    release: Annotated[
        Literal["2021", "2023"], typer.Option(help="Whose names and label values.")
    ] = "2023",
) -> None:
    """Make a cohort of phantoms in BraTS format, with its manifest."""
    from preprocess.phantom import make_cohort

    shape = _triple(size)
    with console.progress("cases") as bar:
        task = bar.add_task("phantoms", total=cases)
        made = make_cohort(
            directory,
            cases=cases,
            seed=seed,
            size=shape,
            release=release,
            on_case=lambda: bar.advance(task),
        )
    out.print(f"{cases} phantoms in {made}, described by {made / 'data_manifest.yaml'}")


@app.command()
def check(
    data: Data,
    manifest: ManifestOption = None,
    overrides: Overrides = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON.")] = False,
) -> None:
    """Say what is wrong with a folder, case by case; writes nothing."""
    from preprocess.check import check as check_folder
    from preprocess.check import cohort_findings
    from preprocess.tables import finding_lines

    described = cohort_manifest(manifest, overrides, data, quiet=as_json)
    began = time.perf_counter()
    discovery, results = check_folder(data, described, workers)
    with console.progress("cases") as bar:
        bar.disable = as_json
        cases = list(bar.track(results, len(discovery.cases), description="checking"))
    findings = discovery.findings + [found for case in cases for found in case.findings]
    findings += cohort_findings(discovery, cases, described)
    usable = sum(case.is_usable for case in cases)
    errors = [finding for finding in findings if finding.severity == "error"]
    if as_json:
        print(json.dumps({"usable": usable, "findings": [asdict(f) for f in findings]}, indent=2))  # noqa: T201 - for programs to read
    else:
        print_lines(finding_lines(findings))
        seconds = time.perf_counter() - began
        out.print(f"{usable} usable case(s), {len(errors)} error(s), {seconds:.1f} s")
    if errors or not usable:
        raise typer.Exit(UNCLEAN)


@app.command()
def run(
    data: Data,
    store: Annotated[
        str | None, typer.Option(help="Where to write; default is the manifest's.")
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="local, slurm, or a Dask scheduler's address: tcp://host:8786.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Local worker processes; default one a core.")
    ] = None,
    manifest: ManifestOption = None,
    overrides: Overrides = None,
    drop_absent: Annotated[
        bool, typer.Option("--drop-absent", help="Take stored cases out that are not in DATA.")
    ] = False,
) -> None:
    """Preprocess a cohort; cases that are in the store already and unchanged are kept."""
    from preprocess.pipeline import Report, begin
    from preprocess.plan import plan

    if workers and cluster != "local":
        raise ConfigError(
            f"--workers {workers}: for local workers only; with --cluster {cluster} leave it out: "
            "at an address as many work as were started there, and what SLURM is asked for "
            "is the manifest's, as in --set cluster.jobs=4"
        )
    described = cohort_manifest(manifest, overrides, data)
    path = store or described.store
    with held(path) as lock:
        with console.progress("cases") as bar:
            task = bar.add_task("comparing", visible=False)
            progress = partial(show, bar, task)
            work = plan(data, path, described, progress, drop_absent=drop_absent)
        out.print(f"{len(work.todo)} case(s) to do, {len(work.kept)} done before → {path}")
        report = Report(work.findings, work.kept, work.refused)
        if work.todo:
            _execute(work, lock, report, cluster, workers)
        else:
            begin(work)
    if not _conclude(work, report):
        raise typer.Exit(UNCLEAN)


def _execute(
    work: "Plan",
    lock: "Lock",
    report: "Report",
    cluster: str,
    workers: int | None,
) -> None:
    """Run the planned cases under a progress bar, keeping each outcome in the report."""
    from preprocess.cluster import connect
    from preprocess.pipeline import execute
    from preprocess.plan import done
    from preprocess.pool import available_cores

    section = work.manifest.cluster
    processes = min(workers or available_cores(), len(work.todo))
    out.print(f"connecting to {cluster} …" if "://" in cluster else f"starting {cluster} workers …")
    try:
        with connect(cluster, processes, section) as client, console.progress("cases") as bar:
            task = bar.add_task("preprocessing", total=len(work.todo))
            began = time.perf_counter()
            for outcome in execute(client, work, lock):
                report.outcomes.append(outcome)
                report.seconds = time.perf_counter() - began
                if outcome.failure:
                    bar.print(f"✗ {outcome.case_id} failed")
                bar.advance(task)
    except KeyboardInterrupt:
        # From the store: a worker may have committed a case that nobody heard of any more.
        err.print(
            f"interrupted: {len(done(work))} of {len(work.present)} case(s) are stored; the same "
            "command goes on with the others",
            soft_wrap=True,
        )
        raise typer.Exit(console.INTERRUPTED) from None


def _conclude(work: "Plan", report: "Report") -> bool:
    """Say what a run came to, and whether all of the cohort is in the store as it should be."""
    from preprocess.tables import absent_line, failure_lines, finding_lines, run_table

    print_lines(finding_lines(report.findings))
    print_lines(failure_lines(report.failures))
    if work.absent:
        out.print(absent_line(work), soft_wrap=True)
    store = Store.open(work.store_path)
    contents = store.contents()
    out.print(run_table(report, store, contents))
    if not print_leaks(contents) and not contents.absent and report.clean:
        return True
    expected = len(store.expected)
    done = expected - len(contents.absent)
    err.print(f"the cohort is not clean: see above; {done} of {expected} case(s) are stored")
    return False


@app.command()
def status(store: StoreArgument) -> None:
    """Say which cases are done, failed or missing, and what the store takes."""
    from preprocess.tables import failure_lines, status_table

    opened = Store.open(store)
    contents = opened.contents()
    out.print(status_table(opened, contents))
    print_lines(failure_lines(list(contents.failures.values())))
    leaks = print_leaks(contents)
    if leaks or contents.failures or contents.absent:
        raise typer.Exit(UNCLEAN)


@app.command()
def verify(
    store: StoreArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop what is damaged, for the next run to redo.")
    ] = False,
    workers: Workers = None,
) -> None:
    """Read every byte again and compare it with what was written and with the contract."""
    from common.store.audit import repair as drop
    from preprocess.lock import LockFile
    from preprocess.pool import available_cores
    from preprocess.tables import audit_lines, audit_table
    from preprocess.verify import audit as look

    opened = Store.open(store)
    writer = LockFile.of_store(store).holder()
    if writer and writer.seems_alive and not repair:
        out.print(f"{writer.name} is writing this store: what it is at shows as missing or left")
    with held(store) if repair else nullcontext():
        with console.progress("cases") as bar:
            task = bar.add_task("verifying", visible=False)
            audit = look(opened, workers or available_cores(), partial(show, bar, task))
        print_lines(audit_lines(audit))
        for dropped in drop(StoreWriter(store), audit) if repair else ():
            out.print(f"dropped {dropped}", soft_wrap=True)
    out.print(audit_table(audit, opened))
    if audit.missing:
        steps = f"`{hints.preprocess(store)}` makes the missing case(s), and no other"
        if audit.of("damaged") and not repair:
            steps = f"`{hints.verify(store, repair=True)}` drops what is damaged; then {steps}"
        err.print(steps, soft_wrap=True)
    if audit.missing or audit.of("unreadable") or (audit.of("damaged") and not repair):
        raise typer.Exit(UNCLEAN)


@app.command()
def report(
    store: StoreArgument,
    out_file: Annotated[
        Path | None,
        typer.Option("--out", help="The page; default <store>-quality.html beside the store."),
    ] = None,
    workers: Workers = None,
) -> None:
    """Write the quality report: one HTML page to open before training."""
    from preprocess import quality
    from preprocess.pool import available_cores

    opened = Store.open(store)
    page = out_file or quality.default_path(store)
    quality.check_writable(page)
    with console.progress("cases") as bar:
        total = len(opened.records())
        task = bar.add_task("looking", total=total, visible=bool(total))
        cohort = quality.look(opened, workers or available_cores(), lambda: bar.advance(task))
    quality.write(cohort, page)
    size = f"{page.stat().st_size / 1e6:.1f} MB"
    counts = f"{len(cohort.cases)} case(s), {len(cohort.to_check)} to check"
    absent = {"failed": len(cohort.failures), "missing": len(cohort.missing)}
    counts += "".join(f", {count} {what}" for what, count in absent.items() if count)
    out.print(f"{counts}: open {page} ({size})", soft_wrap=True)


def _triple(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"{text}: expected D,H,W, as in 155,240,240", param_hint="--size")
    depth, height, width = (int(part) for part in parts)
    return depth, height, width


def cohort_manifest(
    path: Path | None, overrides: list[str] | None, data: Path, *, quiet: bool = False
) -> Manifest:
    """The manifest to use: the one named, else beside the data, else here, else the packaged."""
    chosen = manifest_path(path, data)
    described = load_manifest(chosen, overrides or ())
    if not quiet:
        out.print(f"manifest: {chosen or 'the defaults'}")
    return described


@contextmanager
def held(store: str) -> Iterator["Lock"]:
    """Hold a store's lock; a scheduler's or a system's SIGTERM gives it back like Ctrl-C."""
    from preprocess.lock import hold

    signal.signal(signal.SIGTERM, _interrupt)
    with hold(store, _say_watched) as lock:
        if lock.taken_over:
            out.print(f"taking over the lock that {lock.taken_over.name} left behind")
        yield lock


def _say_watched(owner: "Owner") -> None:
    from preprocess.lock import STALE_SECONDS

    out.print(
        f"{owner.name} left a lock at the store, or is slow: looking for a sign of life for "
        f"{STALE_SECONDS:.0f} s …",
    )


def show(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    """How far work of an unknown length has come; nothing as long as there is none."""
    bar.update(task, completed=done, total=total, visible=bool(total))


def print_lines(lines: Iterator["Text"]) -> None:
    """Each on a line of its own, however long: the terminal wraps it, grep finds it whole."""
    for line in lines:
        out.print(line, soft_wrap=True)


def print_leaks(contents: "Contents") -> bool:
    """A line for each image that is in two splits; whether there was one."""
    for leak in contents.leaks:
        err.print(f"✗ {leak}", soft_wrap=True)
    return bool(contents.leaks)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
