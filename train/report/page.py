"""The run report as one HTML page; case files for its viewer may lie in a folder beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from common import hints
from common.report import page
from common.statistics import LEVEL
from common.task import title
from train.compare import Comparison, Method, compare
from train.report import sections
from train.report.facts import RunFacts
from train.report.volumes import CASE_EVENT
from train.results import COUNTS, VOLUMES
from train.score_table import DIGITS, heading_of, shown_metrics

COLUMN_RUNS = 3
"""Runs up to which each has a column for every region; of more, each has its mean alone."""
COLUMN_REGIONS = 3

IN_A_CASE = (*COUNTS[:3], *VOLUMES)
"""What the page has of a case's region beside the metrics on screen."""


def comparison_of(runs: Sequence[RunFacts]) -> Comparison | None:
    """The runs in pairs of the same case; None where fewer than two were evaluated.

    Raises:
        ConfigError: their scores do not compare.
    """
    methods = [
        Method(run.name, evaluation.csv, evaluation.rows)
        for _, run, evaluation in sections.evaluations(runs)
    ]
    return compare(methods) if len(methods) > 1 else None


def case_ids(runs: Sequence[RunFacts]) -> list[str]:
    """The evaluated cases, the worst first, by the mean over the runs of the mean Dice."""
    scores: dict[str, list[float]] = {}
    for _, _, evaluation in sections.evaluations(runs):
        for case_id in evaluation.cases:
            scores.setdefault(case_id, []).append(evaluation.mean_dice(case_id))
    return sorted(scores, key=lambda case_id: (fmean(scores[case_id]), case_id))


@dataclass
class Slices:
    """The cases that the slice viewer shows."""

    folder: str
    """The name of the folder beside the page."""
    inside: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Case id to its payload in the page."""
    beside: dict[str, str] = field(default_factory=dict)
    """Case id to its script in the folder."""
    notes: list[str] = field(default_factory=list)
    """What is not shown, and why."""


def render(
    runs: Sequence[RunFacts], comparison: Comparison | None, slices: Slices
) -> tuple[str, list[str]]:
    """The whole page of at least one run, and its notes."""
    task, cases = runs[0].manifest.task, case_ids(runs)
    places = {case_id: place for place, case_id in enumerate(cases)}
    trained = [run for run in runs if run.epochs]
    columns = _columns(runs)
    notes = [*_notes(runs, comparison), *slices.notes]
    volumes = {f"slices-{places[case_id]}": each for case_id, each in slices.inside.items()}
    html = page.render(
        "train.report",
        task,
        blocks={"data": _data(runs, cases, columns, slices)} | volumes,
        values={
            "runs": runs,
            "name": ", ".join(run.name for run in runs),
            "several": len(runs) > 1,
            "notes": notes,
            "figures": _figures(runs),
            "not_evaluated": [
                (run.name, hints.evaluate(run.folder)) for run in runs if not run.evaluation
            ],
            "regions": task.region_names,
            "region_titles": ", ".join(f"{r.upper()}: {title(r)}" for r in task.region_names),
            "level": f"{LEVEL:.0%}",
            "evaluations": sections.evaluations(runs),
            "comparison": comparison,
            "scores": sections.score_rows(runs, comparison),
            "dice_charts": sections.dice_charts(runs),
            "training": [sections.training(run, sections.most_loss(trained)) for run in trained],
            "volumes": sections.volume_charts(runs, places),
            "calibration": sections.calibration(runs),
            "misses": sections.misses(runs),
            "findings": sections.FINDINGS,
            "outside": sections.outside(runs),
            "columns": columns,
            "slices": len(slices.inside) + len(slices.beside),
            "settings": sections.settings(runs),
            "hashes": [sections.hashes(run) for run in runs],
        },
        root_style=f"--scores:{len(columns)};--runs:{len(sections.evaluations(runs))}",
        parts=("viewer", "report"),
        scripts_beside=bool(slices.beside),
    )
    return html, notes


def _figures(runs: Sequence[RunFacts]) -> list[tuple[str, str, str]]:
    """The first run's large numbers: (what, value, what is small below it)."""
    first = runs[0]
    figures = []
    if first.evaluation:
        for each in first.evaluation.regions:
            dice = each.spreads["dice"]
            ends = "" if dice.low is None else f"{dice.low:.3f} to {dice.high:.3f}"
            figures.append((f"Dice {each.region.upper()}", f"{dice.mean:.3f}", ends))
        found = [each for _, _, each in sections.evaluations(runs)]
        figures.append(("cases", f"{len(case_ids(runs)):,}", found[0].about.split))
        wrong = sum(each.misses + each.false_alarms for each in found[0].regions)
        figures.append(("regions missed or false", f"{wrong:,}", ""))
    if first.best_epoch:
        figures.append(("best epoch", str(first.best_epoch), f"of {len(first.epochs)}"))
    return figures


def _notes(runs: Sequence[RunFacts], comparison: Comparison | None) -> list[str]:
    """What makes the numbers mean something else than they seem to."""
    notes = [
        f"{run.name}: {warning}"
        for _, run, evaluation in sections.evaluations(runs)
        for warning in evaluation.about.warnings
    ]
    for _, run, evaluation in sections.evaluations(runs):
        about = evaluation.about
        now = run.best_epoch if about.checkpoint == "best" else len(run.epochs)
        if now != about.epochs:
            notes.append(
                f"{run.name}: these scores are of epoch {about.epochs}, the {about.checkpoint} "
                f"checkpoint is now of epoch {now}; evaluate again: {hints.evaluate(run.folder)}"
            )
    left_out = comparison.left_out if comparison else {}
    return notes + [
        f"{len(ids)} case(s) of {name} are not in all evaluations, and left out of differences"
        for name, ids in left_out.items()
    ]


def _columns(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """The table's columns of scores: each run's mean Dice, and its regions'."""
    found = sections.evaluations(runs)
    regions = runs[0].manifest.task.region_names[:COLUMN_REGIONS]
    wide = len(found) <= COLUMN_RUNS
    return [
        {
            "key": f"dice-{place}-{region or 'mean'}",
            "run": place,
            "region": region,
            "title": region.upper() if region else "Dice",
            "name": (f"{run.name}: " if len(runs) > 1 else "") + (region.upper() or "mean Dice"),
            "run_name": run.name,
            "span": 1 + (len(regions) if wide else 0),
        }
        for place, run, _ in found
        for region in ("", *(regions if wide else ()))
    ]


def _data(
    runs: Sequence[RunFacts],
    cases: Sequence[str],
    columns: list[dict[str, Any]],
    slices: Slices,
) -> dict[str, Any]:
    """What the page's script reads."""
    task, found = runs[0].manifest.task, sections.evaluations(runs)
    metrics = shown_metrics(found[0][2].rules) if found else ()
    return {
        "runs": [run.name for run in runs],
        "regions": task.region_names,
        "metrics": [[m.name, heading_of(m), DIGITS.get(m.unit, 3)] for m in metrics],
        "findings": sections.FINDINGS,
        "columns": columns,
        "cases": [
            _case(runs, case_id, [m.name for m in metrics])
            | {"inside": case_id in slices.inside, "beside": slices.beside.get(case_id)}
            for case_id in cases
        ],
        "slices": len(slices.inside) + len(slices.beside),
        "folder": slices.folder,
        "event": CASE_EVENT,
    }


def _case(runs: Sequence[RunFacts], case_id: str, metrics: Sequence[str]) -> dict[str, Any]:
    evaluations = [run.evaluation for run in runs]
    scored = [each.cases.get(case_id) if each else None for each in evaluations]
    rows = [each.rows_of(case_id) if each else {} for each in evaluations]
    known = next(of_case for of_case in rows if of_case)
    return {
        "id": case_id,
        "patient": next(iter(known.values()))["patient"],
        "ml": {region: row["reference_ml"] for region, row in known.items()},
        "outside": next((case.outside for case in scored if case), {}),
        "loss": [case.loss if case else None for case in scored],
        "mean": [
            each.mean_dice(case_id) if each and case else None
            for each, case in zip(evaluations, scored, strict=True)
        ],
        "scores": [
            {region: [row[name] for name in (*metrics, *IN_A_CASE)] for region, row in each.items()}
            for each in rows
        ],
        "findings": [
            {region: sections.findings_of(row) for region, row in each.items()} for each in rows
        ],
    }
