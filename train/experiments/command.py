"""Doing an experiment: its runs one after the other, then its results."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.table import Table
from rich.text import Text

from common.console import duration, err, out
from common.errors import ConfigError, FMNetError
from common.store import Store, is_remote
from train.experiments.definition import experiment_names, load_experiment
from train.experiments.files import Results, columns
from train.experiments.runs import Plan, PlannedRun, check_fits, do, is_done
from train.loaded_run import load_run
from train.run_figures import draw
from train.score_table import add_numbers
from train.trainer import End

Cases = AbstractContextManager[Callable[[int, int], None]]


def do_runs(
    plan: Plan,
    runs: Sequence[PlannedRun],
    store: Store,
    fingerprint: str,
    progress: Callable[[str], Cases],
) -> tuple[End, dict[PlannedRun, str]]:
    """Train and score the runs that are not done; a run that fails does not end the others.

    `fingerprint` is of the store's contents.

    Returns `End.STOPPED` where the user stopped it, and why runs failed.

    Raises:
        RunError: a run in the folder has other settings, or is of another store.
        InputError: a file of a run is damaged.
    """
    for run in runs:
        check_fits(run, store, fingerprint)
    left = [run for run in runs if not is_done(plan, run, store.task)]
    out.print(f"{len(runs)} run(s), {len(runs) - len(left)} done already", soft_wrap=True)
    problems, began = dict[PlannedRun, str](), time.monotonic()
    for done, run in enumerate(left):
        time_left = (time.monotonic() - began) / done * (len(left) - done) if done else 0
        about = f", about {duration(time_left)} left" if done else ""
        out.print(
            f"\nrun {done + 1} of {len(left)}{about}: {run.name} → {run.folder}", soft_wrap=True
        )
        try:
            end = do(plan, run, store, lambda: progress("scoring"))
        except FMNetError as error:
            problems[run] = str(error)
            err.print(f"✗ {run.name}: {error}", soft_wrap=True)
            continue
        if end is End.STOPPED:
            return end, problems
    return End.EPOCHS, problems


def chosen(runs: Sequence[PlannedRun], task: int | None) -> list[PlannedRun]:
    """All runs, or the one of this number.

    Raises:
        ConfigError: there is no such number.
    """
    if task is None:
        return [*runs]
    if task >= len(runs):
        raise ConfigError(f"--task {task}: there are {len(runs)} runs, 0 to {len(runs) - 1}")
    return [runs[task]]


def repeated(plan: Plan, seeds: int | None, only: Sequence[str]) -> list[str]:
    """The command that does this plan, for a script that may start elsewhere."""
    script = str(Path(sys.executable).parent / "fmnet-train")
    store = plan.store if is_remote(plan.store) else str(Path(plan.store).resolve())
    words = [script, "experiment", plan.name, "--scale", plan.scale, "--store", store]
    words += ["--out", str(plan.out.resolve())]
    for option, value in (("--seeds", seeds), ("--folds", plan.folds)):
        words += [option, str(value)] if value else []
    for option, values in (("--only", only), ("--set", plan.overrides)):
        words += [word for value in values for word in (option, value)]
    return words


def list_of_experiments() -> Table:
    """All experiments, and where the paper has them, if it does."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name in experiment_names():
        found = load_experiment(name)
        source = found.paper.source if found.paper else "not in the paper"
        table.add_row(Text(name, "bold"), found.title, Text(source, "dim"))
    return table


def draw_run(results: Results, store: Store, progress: Callable[[str], Cases]) -> Path | None:
    """Draw the figures of the first run, if the experiment asks for it; returns their folder.

    Raises:
        ConfigError: figures of another run are there.
    """
    plan = results.plan
    runs = [run for outcome in results.outcomes for run in outcome.runs]
    if not plan.experiment.draws_run or not runs:
        return None
    folder = plan.out / "figures"
    with progress("drawing") as on_case:
        draw(load_run(runs[0].folder, plan.checkpoint), store, plan.split, folder, on_case)
    return folder


def show(results: Results) -> None:
    """Print the table, the comparisons and the verdict."""
    table, shown = Table(box=None, pad_edge=False), columns(results)
    shown = [column for column in shown if column.on_screen]
    for column in shown:
        if column.is_text:
            table.add_column(column.heading, overflow="fold")
        else:
            add_numbers(table, (column.heading,))
    for outcome in results.outcomes:
        table.add_row(*(Text(column.cell(outcome)) for column in shown))
    out.print()
    out.print(table)
    for outcome in results.outcomes:
        if outcome.problem:
            out.print(f"✗ {outcome.name}: {outcome.problem}", soft_wrap=True)
    for judged in results.judged:
        out.print(Text(f"• {judged}"), soft_wrap=True)
    out.print(Text(results.verdict, "bold"), soft_wrap=True)
