"""An experiment's results as files: table, figure and summary, in one folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from common import __version__
from common.files import write_json, write_text
from common.outputs import check_output
from common.statistics import LEVEL, Interval
from common.store.reader import Contents
from common.task import Task
from train.experiments.outcome import Judged, Outcome, Values, interval, judge, outcomes, verdict
from train.experiments.runs import Plan, PlannedRun
from train.figures.bars import Bar, bars_figure
from train.figures.curves import curves_figure
from train.figures.style import write_figure
from train.results import Row, check_same_settings, write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "–"


@dataclass(frozen=True)
class Results:
    """An experiment as far as it is done."""

    plan: Plan
    task: Task
    contents: Contents
    outcomes: list[Outcome]
    judged: list[Judged]

    @property
    def verdict(self) -> str:
        """Of its comparisons, in a sentence."""
        return verdict(self.judged)

    @property
    def conditions(self) -> str:
        """Under which these results were had."""
        plan, first = self.plan, next((each for each in self.outcomes if each.seeds), None)
        if first is None:
            return "nothing is done yet"
        cases = f"{len(first.cases)} cases scored " if first.cases else ""
        how = f"by {plan.folds} folds" if plan.folds else "that no run saw"
        scored = f"{cases}{how}, {plan.checkpoint} checkpoint; " if cases else ""
        crop = "×".join(map(str, self.contents.manifest.crop))
        grid = f"crops of {crop} at {self.contents.manifest.spacing_mm:g} mm"
        return (
            f"scale {plan.scale}; {len(self.contents.patients)} labelled cases of "
            f"{self.contents.manifest.name}, {grid}; {scored}{plan.seeds} seed(s); {first.compute}"
        )


def paths(out: Path) -> tuple[Path, ...]:
    """What `write` writes into a folder."""
    names = ("table.md", "table.csv", "figure.pdf", "figure.png", "summary.json")
    return tuple(out / name for name in names)


def check_outputs(plan: Plan) -> None:
    """Check that results can be written, in place of nothing but those of the same settings.

    Raises:
        ConfigError: they cannot.
    """
    check_output(plan.out, "folder")
    for path in paths(plan.out):
        check_output(path, "file")
    check_same_settings(paths(plan.out)[-1], plan.settings())


def gather(plan: Plan, task: Task, contents: Contents, problems: dict[PlannedRun, str]) -> Results:
    """Read what all runs have measured.

    Raises:
        RunError, InputError: a file of a run is damaged.
    """
    found = outcomes(plan, task, problems)
    judged = judge(found, plan.experiment.claims, contents)
    return Results(plan, task, contents, found, judged)


def write(results: Results) -> tuple[Path, ...]:
    """Write all files; returns them."""
    written = paths(results.plan.out)
    table, values, *_, summary = written
    results.plan.out.mkdir(parents=True, exist_ok=True)
    write_text(table, as_markdown(results))
    write_csv(values, _rows(results))
    if any(each.seeds for each in results.outcomes):
        write_figure(figure_of(results), results.plan.out / "figure")
    write_json(summary, _summary(results))
    return written


def as_markdown(results: Results) -> str:
    """The table, the comparisons and the verdict, beside what the paper says."""
    experiment, shown = results.plan.experiment, columns(results)
    paper = experiment.paper
    rows = [[column.heading for column in shown], ["---"] * len(shown)]
    rows += [[column.cell(each) for column in shown] for each in results.outcomes]
    lines = [
        f"# {experiment.title}",
        "",
        f"**{results.verdict}**",
        "",
        *([f"The paper ({paper.source}): {paper.finding}", ""] if paper else []),
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        f"Intervals of {LEVEL:.0%} are over seeds and patients, by bootstrap.",
        "",
        *(f"* {judged}" for judged in results.judged),
        *([""] if results.judged else []),
        f"Ours: {results.conditions}.",
    ]
    if paper:
        lines += ["", f"Theirs: {paper.conditions}.", "", f"What differs: {paper.differs}"]
    return "\n".join(lines) + "\n"


class Column(NamedTuple):
    """Of the table."""

    heading: str
    cell: Callable[[Outcome], str]
    on_screen: bool = True
    """Whether the terminal's table, which is narrower, has it too."""
    is_text: bool = False
    """Or a number."""


def columns(results: Results) -> list[Column]:
    """Scores and speed of each variant, beside the paper's figure for it, if there is one."""
    experiment, contents = results.plan.experiment, results.contents

    def dice(region: str) -> Callable[[Outcome], str]:
        return lambda each: _mean(each.values("dice", region), 3)

    def times(baseline: str) -> Callable[[Outcome], str]:
        base = next(each.rate for each in results.outcomes if each.name == baseline)
        return lambda each: _ratio(each.rate, base)

    def theirs(each: Outcome) -> str:
        return experiment.variants[each.name].paper or MISSING

    scores = [
        *(Column(region.upper(), dice(region)) for region in results.task.regions),
        Column("mean Dice", lambda each: _mean(each.values("dice"), 3)),
        Column(f"{LEVEL:.0%} CI", lambda each: _ends(interval(each, "dice", contents))),
        Column("loss", lambda each: _mean(each.loss, 3)),
    ]
    return [
        Column("", lambda each: each.name, is_text=True),
        *(scores if experiment.scored else []),
        *(Column(f"× {name}", times(name)) for name in experiment.baselines),
        Column("volumes/s", lambda each: _mean(each.rate, 2), on_screen=not experiment.scored),
        Column("M parameters", lambda each: f"{each.parameters / 1e6:.2f}", on_screen=False),
        Column("minutes", lambda each: f"{each.minutes:.1f}", on_screen=False),
        Column("peak GB", lambda each: f"{each.peak_memory_gb:.1f}", on_screen=False),
        *([Column("the paper", theirs, is_text=True)] if experiment.paper else []),
        Column("", lambda each: each.problem, on_screen=False, is_text=True),
    ]


def _mean(values: Values | None, digits: int) -> str:
    return MISSING if values is None else f"{values.mean():.{digits}f}"


def _ends(found: Interval | None) -> str:
    if found is None or found.low is None:
        return MISSING
    return f"{found.low:.3f}–{found.high:.3f}"


def _ratio(rate: Values | None, base: Values | None) -> str:
    return MISSING if rate is None or base is None else f"{rate.mean() / base.mean():.2f}"


def _rows(results: Results) -> list[Row]:
    """One for each seed of each variant."""
    return [
        {
            "variant": outcome.name,
            "seed": seed,
            "parameters": outcome.parameters,
            "cases": len(outcome.cases),
            **{f"dice_{name}": float(each[index].mean()) for name, each in outcome.dice.items()},
            **({} if outcome.loss is None else {"loss": float(outcome.loss[index].mean())}),
            **(
                {}
                if outcome.rate is None
                else {"volumes_per_second": float(outcome.rate[index, 0])}
            ),
        }
        for outcome in results.outcomes
        for index, seed in enumerate(outcome.seeds)
    ]


def figure_of(results: Results) -> "Figure":
    """Curves of the validation loss, or bars of Dice or speed."""
    experiment, done = results.plan.experiment, [each for each in results.outcomes if each.seeds]
    if experiment.figure == "curves":
        curves = {each.name: each.curves for each in done}
        return curves_figure(experiment.title, curves, "validation loss")
    rates = experiment.figure == "rates"
    by, axis = ("rate", "volumes per second") if rates else ("dice", "mean Dice of unseen cases")
    region = next((claim.region for claim in experiment.claims if claim.region), None)
    if region:
        axis = f"Dice {region.upper()} of unseen cases"
    bars = dict[str, Bar]()
    for each in done:
        found, values = interval(each, by, results.contents, region), each.values(by, region)
        if found is not None and values is not None:
            bars[each.name] = Bar(
                found.mean, found.low, found.high, points=tuple(values.mean(axis=1))
            )
    return bars_figure(experiment.title, bars, axis)


def _summary(results: Results) -> dict[str, Any]:
    plan = results.plan
    return {
        "settings": plan.settings(),
        "title": plan.experiment.title,
        "verdict": results.verdict,
        "conditions": results.conditions,
        "store": plan.store,
        "store_fingerprint": results.contents.fingerprint,
        "seeds": plan.seeds,
        "paper": plan.experiment.paper and plan.experiment.paper.model_dump(),
        "claims": [
            {
                **judged.claim.model_dump(),
                "status": judged.status,
                "difference": None if judged.apart is None else asdict(judged.apart),
            }
            for judged in results.judged
        ],
        "variants": [_variant(results, outcome) for outcome in results.outcomes],
        "versions": {"fm-net": __version__},
    }


def _variant(results: Results, outcome: Outcome) -> dict[str, Any]:
    found = {by: interval(outcome, by, results.contents) for by in ("dice", "loss", "rate")}
    return {
        "name": outcome.name,
        "paper": results.plan.experiment.variants[outcome.name].paper,
        "parameters": outcome.parameters,
        "seeds": list(outcome.seeds),
        "problem": outcome.problem,
        "compute": outcome.compute,
        "minutes": outcome.minutes,
        "peak_memory_gb": outcome.peak_memory_gb,
        **{by: None if each is None else asdict(each) for by, each in found.items()},
        "dice_of_regions": {name: float(each.mean()) for name, each in outcome.dice.items()},
        "validation_loss": [list(curve) for curve in outcome.curves],
        "runs": [str(run.folder) for run in outcome.runs],
    }
