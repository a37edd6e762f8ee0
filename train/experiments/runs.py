"""The runs of an experiment: which there are, training and scoring them, and a script for SLURM."""

import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import RunError
from common.lock import hold
from common.store import Store
from common.task import Task
from train.checkpoint import Which
from train.config import TrainConfig, load_config
from train.evaluate import evaluate, usual_stem
from train.experiments.definition import Experiment, Scale, Variant, load_experiment, scale_config
from train.loaded_run import load_run
from train.report.facts import read_epochs
from train.run import begin, execute, reopen
from train.run_folder import CONFIG, read_config, read_run_file
from train.trainer import METRICS_FILE, End

RUNS = "runs"
"""The folder of the runs, in the experiment's."""

OTHER_FAMILY = "model.kind="


@dataclass(frozen=True)
class PlannedRun:
    """One training of one variant."""

    variant: str
    seed: int
    fold: int | None
    """The fold that it is scored on; None where it is scored on test cases."""
    preset: str
    overrides: tuple[str, ...]
    folder: Path
    config: TrainConfig = field(compare=False)
    """The preset with the overrides."""

    @property
    def name(self) -> str:
        """For messages."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        return f"{self.variant}, seed {self.seed}{fold}"


@dataclass(frozen=True)
class Plan:
    """An experiment at a scale, on a store."""

    name: str
    experiment: Experiment
    scale: Scale
    store: str
    """Its path."""
    out: Path
    seeds: int
    folds: int | None
    """How many folds the cases are scored by; None for the store's test cases."""
    overrides: tuple[str, ...]
    """Settings of every run, over all others."""

    @property
    def checkpoint(self) -> Which:
        """The weights that are scored; the best would be chosen on the cases of the fold."""
        return "last" if self.folds else scale_config(self.scale).checkpoint

    @property
    def split(self) -> str:
        """The split that is scored."""
        return "val" if self.folds else "test"

    def runs(self, only: Sequence[str] = ()) -> list[PlannedRun]:
        """All runs, or those of some variants: every variant once, then with the next seed.

        So what an experiment has done when it is interrupted can be compared.

        Raises:
            ConfigError: there is no such variant, or a setting is wrong.
        """
        self.experiment.check_variants(tuple(only))
        folds = range(self.folds) if self.folds else [None]
        return [
            self._run(name, variant, seed, fold)
            for seed in range(self.seeds)
            for fold in folds
            for name, variant in self.experiment.variants.items()
            if not only or name in only
        ]

    def _run(self, name: str, variant: Variant, seed: int, fold: int | None) -> PlannedRun:
        shared = scale_config(self.scale)
        own = (*self.experiment.at(self.scale), *variant.at(self.scale), *self.overrides)
        family = () if any(each.startswith(OTHER_FAMILY) for each in own) else shared.family
        of_run = [
            f"seed={seed}",
            *([] if fold is None else [f"fold={fold}", f"folds={self.folds}"]),
        ]
        overrides = (*shared.settings, *family, *own, *of_run)
        config = load_config(variant.preset, overrides)  # what is wrong is told before any run
        place = f"seed-{seed}" if fold is None else f"seed-{seed}-fold-{fold}"
        folder = self.out / RUNS / _as_folder(name) / place
        return PlannedRun(name, seed, fold, variant.preset, overrides, folder, config)

    def settings(self) -> dict[str, object]:
        """What results must share to be in one folder."""
        return {
            "experiment": self.name,
            "scale": self.scale,
            "folds": self.folds,
            "overrides": list(self.overrides),
        }


def plan(  # noqa: PLR0913 - the command has as many options
    name: str,
    scale: Scale,
    store: str,
    out: Path,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Plan an experiment; without `seeds`, with as many as the scale has.

    Raises:
        ConfigError: there is no such experiment.
    """
    experiment = load_experiment(name)
    count = seeds or scale_config(scale).seeds
    return Plan(name, experiment, scale, store, out, count, folds, tuple(overrides))


def scores_file(planned: Plan, run: PlannedRun) -> Path:
    """The JSON file of a run's scores."""
    return run.folder / f"{usual_stem(planned.split, planned.checkpoint)}.json"


def is_done(planned: Plan, run: PlannedRun, task: Task) -> bool:
    """Whether a run is trained to its end and, if it should be, scored.

    Raises:
        InputError: the file of its epochs is damaged.
    """
    if planned.experiment.scored:
        return scores_file(planned, run).is_file()
    rows = read_epochs(run.folder / METRICS_FILE, task)
    return bool(rows) and rows[-1]["epoch"] == run.config.epochs


def check_fits(run: PlannedRun, store: Store, fingerprint: str) -> None:
    """Check that a run that was begun is the planned one, on the same store.

    Raises:
        RunError: it has other settings, or is of another store.
    """
    if not (run.folder / CONFIG).exists():
        return
    there, seen = read_config(run.folder), run.config.modalities_of(store.task)
    wanted = run.config.model_copy(update={"modalities": seen})
    names = type(wanted).model_fields
    other = [name for name in names if getattr(wanted, name) != getattr(there, name)]
    if read_run_file(run.folder).store_fingerprint != fingerprint:
        other.append("store")
    if other:
        raise RunError(
            f"{run.folder} was trained with another {', '.join(other)}: name another folder with "
            "--out, or move it away"
        )


def do(
    planned: Plan,
    run: PlannedRun,
    store: Store,
    scoring: Callable[[], AbstractContextManager[Callable[[int, int], None]]],
) -> End:
    """Train one run to its end, from where it is, and score it in a context of `scoring`.

    Raises:
        FMNetError: it cannot be trained or scored.
    """
    with hold(str(run.folder)):
        if (run.folder / CONFIG).exists():
            session = reopen(run.preset, (), store, run.folder)
        else:
            session = begin(run.preset, run.overrides, store, run.folder)
        end = execute(session)
    if end is not End.STOPPED and planned.experiment.scored:
        loaded = load_run(run.folder, planned.checkpoint, session.config.device)
        with scoring() as on_case:
            evaluate(loaded, store, planned.split, on_case)
    return end


def slurm_script(planned: Plan, count: int, command: Sequence[str]) -> str:
    """A script for sbatch that does each of so many runs as a task of an array, by a command.

    A task that SLURM preempts gets SIGTERM, writes a checkpoint, and resumes when it is requeued.
    """
    gpu = "#SBATCH --gres=gpu:1\n" if planned.scale == "full" else ""
    logs = shlex.quote(str(planned.out.resolve() / "slurm-%A-%a.log"))
    return f"""\
#!/bin/bash
#SBATCH --job-name=fmnet-{planned.name}
#SBATCH --array=0-{count - 1}
#SBATCH --output={logs}
#SBATCH --requeue
#SBATCH --signal=TERM@120
{gpu}# When all tasks are done, the same command without --task writes the table and the figure:
#   {shlex.join(command)}
cd {shlex.quote(str(Path.cwd()))} || exit
exec {shlex.join(command)} --task "$SLURM_ARRAY_TASK_ID"
"""


def _as_folder(name: str) -> str:
    """A variant's name as one word."""
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))
