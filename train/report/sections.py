"""The run report's sections: what its template shows, of one run or of several side by side."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from common.files import sha256
from common.metrics import Metric
from common.record import hash_of, parameters
from common.report.charts import Svg, decades_of, lost
from common.statistics import LEVEL, Spread
from common.task import title
from train.checkpoint import checkpoint_path
from train.compare import Compared, Comparison, p_value
from train.report import charts
from train.report.charts import Dot, Interval, Line, nice
from train.report.facts import Evaluation, RunFacts
from train.results import Row
from train.score_table import heading_of, number, shown_metrics

DIGEST_SHOWN = 16
"""Characters of a checksum."""

FINDINGS = {
    "missed": ("missed", "Cases with the region that the prediction does not overlap"),
    "false": ("false alarm", "Cases without the region in which some is predicted"),
    "lesions-missed": ("missed lesions", "Lesions of the region that are not found"),
    "lesions-false": ("false lesions", "Predicted lesions where there is none"),
}
"""What may be wrong with a region of a case: its key, its name and what it counts."""


def findings_of(row: Row) -> dict[str, int]:
    """How often each of `FINDINGS` is true of a row; only what is."""
    reference, predicted = row["reference_voxels"], row["prediction_voxels"]
    found = {
        "missed": int(reference > 0 and not row["shared_voxels"]),
        "false": int(not reference and predicted > 0),
        "lesions-missed": row["lesions_fn"],
        "lesions-false": row["lesions_fp"],
    }
    return {key: count for key, count in found.items() if count}


def evaluations(runs: Sequence[RunFacts]) -> list[tuple[int, RunFacts, Evaluation]]:
    """The runs that were evaluated, each with its place."""
    return [(i, run, run.evaluation) for i, run in enumerate(runs) if run.evaluation]


def score_rows(runs: Sequence[RunFacts], comparison: Comparison | None) -> list[dict[str, Any]]:
    """For each metric and run: each region's mean, interval, and difference from the first run."""
    found = evaluations(runs)
    if not found:
        return []
    apart = {
        (row.region, row.metric.name, row.method): row
        for row in (comparison.rows if comparison else ())
    }
    return [
        {
            "metric": heading_of(metric),
            "run": run.name,
            "first": place == found[0][0],
            "regions": [
                _score(metric, each.spreads[metric.name])
                | _apart(metric, apart.get((each.region, metric.name, run.name)))
                for each in evaluation.regions
            ],
        }
        for metric in shown_metrics(found[0][2].rules)
        for place, run, evaluation in found
    ]


def _score(metric: Metric, spread: Spread) -> dict[str, str]:
    ends = _ends(metric, spread.low, spread.high)
    return {"mean": number(metric, spread.mean), "interval": ends, "apart": ""}


def _apart(metric: Metric, row: Compared | None) -> dict[str, str]:
    if row is None or row.apart is None or row.p_holm is None:
        return {}
    sign = "+" if row.apart.mean > 0 else ""
    ends = _ends(metric, row.apart.low, row.apart.high)
    shown = f"{sign}{number(metric, row.apart.mean)} ({ends}), p {p_value(row.p_holm)}"
    return {"apart": shown.replace("-", "−")}


def _ends(metric: Metric, low: float | None, high: float | None) -> str:
    return f"{number(metric, low)} to {number(metric, high)}" if low is not None else "–"


def dice_charts(runs: Sequence[RunFacts]) -> list[tuple[str, Svg]]:
    """For each region the runs' Dice: of each case, and the mean with its interval."""
    found = evaluations(runs)
    worst = min((row["dice"] for _, _, each in found for row in each.rows.values()), default=1.0)
    marks = [mark for mark in nice(min(worst, 0.9), 1) if mark <= 1]
    return [
        (
            region,
            charts.intervals(
                f"Dice of {title(region)}: cases, and the mean with its {LEVEL:.0%} interval",
                [
                    Interval(
                        run.name,
                        f"region region-{region} run-{place}",
                        [row["dice"] for row in each.rows.values() if row["region"] == region],
                        *(spread.mean, spread.low, spread.high),
                    )
                    for place, run, each in found
                    for spread in [each.of(region).spreads["dice"]]
                ],
                marks,
            ),
        )
        for region in (runs[0].manifest.task.region_names if found else ())
    ]


def training(run: RunFacts, most_loss: float) -> dict[str, Any]:
    """A run's curves and where its time went; `most_loss` is the top of the loss' axis."""
    task, rows = run.manifest.task, run.epochs
    loss = [
        Line(name, style, [(row["epoch"], row[key]) for row in rows if row[key] is not None])
        for name, style, key in (
            ("training", "train", "train_loss"),
            ("validation", "val", "val_loss"),
        )
    ]
    dice = [
        Line(
            region.upper(),
            f"region region-{region} line-{index}",
            [(r["epoch"], r[f"val_dice_{region}"]) for r in rows if r["val_loss"] is not None],
        )
        for index, region in enumerate(task.regions)
    ]
    best = run.best_epoch
    return {
        "name": run.name,
        "best": best,
        "epochs": len(rows),
        "of": run.config.epochs,
        "loss": charts.curves("Loss by epoch", loss, nice(0, most_loss), best),
        "dice": charts.curves("Validation Dice by epoch", dice, [0, 0.25, 0.5, 0.75, 1], best),
        "times": charts.times("Where the time went", _times(run)),
        "skipped": sum(row["skipped_steps"] for row in rows),
        "rate": f"{fmean(row['volumes_per_second'] for row in rows):.3g}",
    }


def most_loss(runs: Sequence[RunFacts]) -> float:
    """The highest loss of all runs' curves."""
    losses = [r[key] for run in runs for r in run.epochs for key in ("train_loss", "val_loss")]
    return max((loss for loss in losses if loss is not None), default=1.0)


def _times(run: RunFacts) -> list[tuple[str, str, float]]:
    waited = sum(row["seconds"] * row["wait_share"] for row in run.epochs)
    trained = sum(row["seconds"] for row in run.epochs)
    validated = sum(row.get("validation_seconds") or 0 for row in run.epochs)
    return [
        ("steps", "training steps", trained - waited),
        ("waiting", "waiting for data", waited),
        ("validation", "validation", validated),
    ]


def volume_charts(runs: Sequence[RunFacts], places: dict[str, int]) -> list[tuple[str, Svg]]:
    """For each region, every case's Dice over its volume; `places` are the cases' in the page."""
    rows = [(i, row) for i, _, each in evaluations(runs) for row in each.rows.values()]
    decades = decades_of([row["reference_ml"] for _, row in rows])
    return [
        (
            region,
            charts.scatter(
                f"Dice of {title(region)} by its volume in ml",
                [
                    Dot(
                        row["reference_ml"],
                        row["dice"],
                        f"{row['case_id']}: {row['dice']:.3f}, {row['reference_ml']:.3g} ml"
                        + (f", {runs[i].name}" if len(runs) > 1 else ""),
                        f"region region-{region} run-{i}",
                        places[row["case_id"]],
                    )
                    for i, row in rows
                    if row["region"] == region
                ],
                decades,
            ),
        )
        for region in (runs[0].manifest.task.region_names if rows else ())
    ]


def calibration(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """For each region the runs' reliability curves and calibration errors."""
    found = [
        (i, run, each.about.calibration)
        for i, run, each in evaluations(runs)
        if each.about.calibration
    ]
    return [
        {
            "region": region,
            "chart": charts.reliability(
                f"Reliability of the probability of {title(region)}",
                [
                    (f"region region-{region} run-{i}", counted.regions[region])
                    for i, _, counted in found
                ],
            ),
            "errors": [
                {
                    "run": run.name,
                    "all": _share(counted.regions[region].error),
                    "above": _share(counted.regions[region].error_above_lowest),
                }
                for _, run, counted in found
            ],
        }
        for region in (runs[0].manifest.task.region_names if found else ())
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def misses(runs: Sequence[RunFacts]) -> list[dict[str, Any]]:
    """For each region and run: cases with and without it, and how many of each are wrong."""
    return [
        {
            "region": each.region,
            "run": run.name,
            "place": place,
            "first": place == evaluations(runs)[0][0],
            "with": sum(row["reference_voxels"] > 0 for row in rows),
            "without": sum(row["reference_voxels"] == 0 for row in rows),
            "missed": each.misses,
            "false": each.false_alarms,
            "lesions-missed": each.missed_lesions,
            "lesions-false": each.false_lesions,
            "named": _named(rows),
        }
        for region in runs[0].manifest.task.region_names
        for place, run, evaluation in evaluations(runs)
        for each in [evaluation.of(region)]
        for rows in [[row for row in evaluation.rows.values() if row["region"] == region]]
    ]


def _named(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What is missed or invented as a whole, with its volume: (case, what)."""
    return [
        (row["case_id"], f"missed {row['reference_ml']:.3g} ml")
        if "missed" in found
        else (row["case_id"], f"false alarm of {row['prediction_ml']:.3g} ml")
        for row in rows
        for found in [findings_of(row)]
        if "missed" in found or "false" in found
    ]


def outside(runs: Sequence[RunFacts]) -> dict[str, Any] | None:
    """Cases by the share of their tumour outside the training crop; None if it is not known."""
    cases = {c: case for _, _, each in evaluations(runs) for c, case in each.cases.items()}
    crop = [case.outside["crop"] for case in cases.values() if case.outside]
    box = [case.outside["box"] for case in cases.values() if case.outside]
    if not crop:
        return None
    return {
        "chart": lost({"crop": crop}),
        "crop": f"{fmean(crop):.2%} on average, {max(crop):.1%} at most",
        "box": f"{fmean(box):.2%} on average, {max(box):.1%} at most",
        "some": sum(share > 0 for share in crop),
        "cases": len(crop),
    }


def settings(runs: Sequence[RunFacts]) -> list[tuple[str, list[str]]]:
    """The keys in which the runs' configurations differ, with each run's value."""
    flat = [_flat(run.config.model_dump(mode="json")) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values)
    return [
        (key, [str(values.get(key, "–")) for values in flat])
        for key in keys
        if len({repr(values.get(key, "–")) for values in flat}) > 1
    ]


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else None
        flat.update(inner if inner is not None else {f"{above}{key}": value})
    return flat


def hashes(run: RunFacts) -> list[tuple[str, str]]:
    """What tells a run's data, weights and scores from others: (what, checksum)."""
    found = [
        ("Store, cases and parameters", run.run.store_fingerprint),
        ("Preprocessing parameters", hash_of(parameters(run.manifest))),
        ("Configuration", hash_of(run.config.model_dump(mode="json"))),
    ]
    files = [checkpoint_path(run.folder, "best"), checkpoint_path(run.folder, "last")]
    files += [run.evaluation.csv] if run.evaluation else []
    return found + [(file.name, _sha256(file)) for file in files if file.is_file()]


def _sha256(file: Path) -> str:
    return f"SHA-256 {sha256(file)[:DIGEST_SHOWN]}…"
