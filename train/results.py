"""Scores of cases as rows, which `score`, `evaluate` and `folds` write and `compare` reads.

A row is one region of one case. It says under which rules, at which spacing and against which
reference it was scored, so that no other scores are compared with it.
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common import __version__
from common.errors import ConfigError, Finding, InputError
from common.files import json_text, read_json, read_text, reason_of, write_text, write_texts
from common.geometry import Vector
from common.metrics.metric import METRICS, Metric
from common.metrics.rules import RULE_SETS
from common.metrics.scores import CaseScores, RegionScore
from common.outputs import check_output
from common.statistics import LEVEL, RESAMPLES, SEED, Spread, spreads

Row = dict[str, Any]
"""Text, numbers and counts by the names of `scores.csv`'s columns."""

LESION_F1 = Metric("lesion_f1", "Lesion F1", "", lambda _: 0.0, 1.0, 0.0, higher_is_better=True)
"""Of the counts of lesions, so that it is not computed of masks."""

TEXTS = (
    *("case_id", "patient", "region", "rules", "prediction"),
    *("reference_convention", "prediction_convention", "reference_sha256"),
)
SPACING = ("spacing_z_mm", "spacing_y_mm", "spacing_x_mm")
COUNTS = (
    *("lesions_tp", "lesions_fn", "lesions_fp", "lesions_ignored"),
    *("reference_voxels", "prediction_voxels", "shared_voxels"),
)
VOLUMES = ("reference_ml", "prediction_ml")

MISSING = "missing"
"""In the column `prediction`: there was none, and an empty mask was scored."""


@dataclass(frozen=True)
class CaseResult:
    """One case, scored, and what it was scored on."""

    case_id: str
    patient: str
    scores: CaseScores
    spacing_mm: Vector
    """(z, y, x)."""
    reference_sha256: str
    reference_convention: str
    """How its file is written; empty if it was not read from a file."""
    prediction_convention: str
    """The same; None of a missing prediction."""
    is_missing: bool = False


def fingerprint(label: NDArray[np.uint8]) -> str:
    """What tells a reference (D, H, W) of canonical labels from another."""
    return hashlib.sha256(repr(label.shape).encode() + label.tobytes()).hexdigest()[:16]


def metrics_of(rules: str) -> tuple[Metric, ...]:
    """The metrics of a region under a rule set of this full name: of the whole, then of lesions."""
    lesions = [
        replace(metric, name=f"lesion_{metric.name}", title=f"Lesion {metric.title}")
        for metric in RULE_SETS[rules].metrics
    ]
    return (*METRICS, *lesions, LESION_F1)


def rows_of(results: Iterable[CaseResult]) -> list[Row]:
    """A row for each region of each case."""
    return [
        _row(result, region, score)
        for result in results
        for region, score in result.scores.regions.items()
    ]


def _row(result: CaseResult, region: str, score: RegionScore) -> Row:
    texts = (
        *(result.case_id, result.patient, region, result.scores.rules),
        MISSING if result.is_missing else "there",
        *(result.reference_convention, result.prediction_convention, result.reference_sha256),
    )
    lesions = score.lesions
    assert lesions is not None  # noqa: S101 - a rule set is always given
    values = score.values | {f"lesion_{name}": value for name, value in lesions.values.items()}
    counts = [lesions.count(status) for status in ("tp", "fn", "fp", "ignored")]
    voxels = (score.reference, score.prediction, score.intersection)
    return {
        **dict(zip(TEXTS, texts, strict=True)),
        **dict(zip(SPACING, result.spacing_mm, strict=True)),
        **values,
        LESION_F1.name: lesions.f1,
        **dict(zip(COUNTS, (*counts, *voxels), strict=True)),
        **dict(zip(VOLUMES, (score.reference_ml, score.prediction_ml), strict=True)),
    }


def lesion_rows(results: Iterable[CaseResult]) -> list[Row]:
    """A row for each lesion, numbered from 1 in each region of each case."""
    return [
        {
            "case_id": result.case_id,
            "patient": result.patient,
            "region": region,
            "rules": result.scores.rules,
            "lesion": number,
            "status": lesion.status,
            "reference_ml": lesion.volume_ml,
            "prediction_ml": lesion.predicted_ml,
            **{
                f"centre_{axis}_voxel": round(place, 1)
                for axis, place in zip("zyx", lesion.centre, strict=True)
            },
            **lesion.values,
        }
        for result in results
        for region, score in result.scores.regions.items()
        for number, lesion in enumerate(score.lesions.lesions if score.lesions else (), 1)
    ]


@dataclass(frozen=True)
class RegionResult:
    """One region over all cases; no case is left out of a mean."""

    region: str
    cases: int
    both_empty: int
    """Cases without the region in which none is predicted."""
    misses: int
    """Cases with the region where the prediction does not overlap it."""
    false_alarms: int
    """Cases without the region in which some is predicted."""
    missed_lesions: int
    false_lesions: int
    """Predicted lesions where there is none."""
    spreads: dict[str, Spread]
    """By metric."""

    def as_json(self) -> dict[str, Any]:
        """The same for a file."""
        return asdict(self)


def summarise(rows: Sequence[Row]) -> list[RegionResult]:
    """Each region over all rows of one rule set, in the order of the rows."""
    by_region: dict[str, list[Row]] = {}
    for row in rows:
        by_region.setdefault(row["region"], []).append(row)
    return [_summary(region, group) for region, group in by_region.items()]


def _summary(region: str, rows: Sequence[Row]) -> RegionResult:
    names = [metric.name for metric in metrics_of(rows[0]["rules"])]
    values = [[row[name] for name in names] for row in rows]
    found = spreads(values, [row["patient"] for row in rows])
    voxels = [tuple(row[name] for name in COUNTS[-3:]) for row in rows]
    return RegionResult(
        region,
        cases=len(rows),
        both_empty=sum(not reference and not predicted for reference, predicted, _ in voxels),
        misses=sum(reference > 0 and not shared for reference, _, shared in voxels),
        false_alarms=sum(not reference and predicted > 0 for reference, predicted, _ in voxels),
        missed_lesions=sum(row["lesions_fn"] for row in rows),
        false_lesions=sum(row["lesions_fp"] for row in rows),
        spreads=dict(zip(names, found, strict=True)),
    )


class ScoreFiles(NamedTuple):
    """Where scores are written."""

    summary: Path
    """JSON: settings, means and their spread."""
    cases: Path
    """CSV: a row for each region of each case."""
    lesions: Path
    """CSV: a row for each lesion."""

    @classmethod
    def in_folder(cls, folder: Path) -> "ScoreFiles":
        """Those of a folder of their own."""
        return cls(folder / "scores.json", folder / "scores.csv", folder / "lesions.csv")

    @classmethod
    def beside(cls, summary: Path) -> "ScoreFiles":
        """Those whose names begin as that of `summary`."""
        stem = summary.name.removesuffix(".json")
        return cls(summary, *(summary.with_name(f"{stem}{e}") for e in (".csv", "-lesions.csv")))

    @property
    def listed(self) -> str:
        """The files in words."""
        return f"{self.summary}, {self.cases.name}, {self.lesions.name}"

    def check(self, settings: Mapping[str, Any]) -> None:
        """Check that all can be written, in place of nothing but scores of the same settings.

        Raises:
            ConfigError: they cannot.
        """
        for path in self:
            check_output(path, "file")
        check_same_settings(self.summary, settings)

    def write(
        self,
        results: Sequence[CaseResult],
        regions: Sequence[RegionResult],
        about: Mapping[str, Any],
    ) -> None:
        """Write scores of one rule set, with what else there is to know about them: all or none."""
        rows = rows_of(results)
        spread = {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL}
        versions = {name: version(name) for name in ("numpy", "scipy")}
        self.summary.parent.mkdir(parents=True, exist_ok=True)
        summary = {
            **about,
            "rules": rows[0]["rules"],
            "versions": {"fm-net": __version__} | versions,
            "bootstrap": spread,
            "regions": {each.region: each.as_json() for each in regions},
        }
        write_texts(
            {
                self.cases: csv_text(rows),
                self.lesions: csv_text(lesion_rows(results)),
                self.summary: json_text(summary),
            }
        )


def check_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse to replace a file of results of other settings.

    Raises:
        ConfigError: it is there, and has others.
    """
    try:
        before = read_json(path).get("settings")
    except FileNotFoundError:
        return
    except (OSError, InputError, AttributeError):
        before = None
    if before != settings:
        others = [name for name in settings if not before or before.get(name) != settings[name]]
        raise ConfigError(
            f"{path}: results with another {', '.join(others)} are there; name another folder with "
            "--out, or move them away"
        )


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of the same columns, none of them too if there are none."""
    write_text(path, csv_text(rows))


def csv_text(rows: Sequence[Row]) -> str:
    """What `write_csv` writes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path: Path) -> list[Row]:
    """Read what `write_csv` wrote of `rows_of`.

    Raises:
        InputError: it is something else, or of other rules or metrics than this version has.
    """
    try:
        rows: list[Row] = list(csv.DictReader(io.StringIO(read_text(path))))
        if not rows:
            raise ValueError("no row")
        return [_typed(row) for row in rows]
    except (InputError, OSError) as error:
        found = reason_of(error)
    except (KeyError, ValueError, TypeError) as error:
        found = f"no scores of this version ({type(error).__name__}: {error})"
    expected = "a scores.csv that `fmnet-train score` or `evaluate` wrote"
    raise InputError(Finding(str(path), found, expected, "score again, or name another file"))


def warnings_beside(scores: Path) -> tuple[str, ...]:
    """What the summary beside a CSV of scores warns of; nothing where there is no summary.

    Raises:
        InputError: it cannot be read, or is something else.
    """
    path = scores.with_suffix(".json")
    try:
        return tuple(map(str, read_json(path).get("warnings", ())))
    except FileNotFoundError:
        return ()
    except (InputError, OSError) as error:
        found = reason_of(error)
    except (AttributeError, TypeError) as error:
        found = f"no summary of scores ({error})"
    expected = f"the summary of {scores.name}"
    raise InputError(Finding(str(path), found, expected, "score again, or move it away"))


def _typed(row: Row) -> Row:
    numbers = (*SPACING, *(metric.name for metric in metrics_of(row["rules"])), *VOLUMES)
    texts = {name: row[name] for name in TEXTS}
    return texts | {n: float(row[n]) for n in numbers} | {n: int(row[n]) for n in COUNTS}
