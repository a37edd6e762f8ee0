"""Several methods' scores of the same cases: how much better one is, how surely, and ranks."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from common.errors import ConfigError
from common.files import real_path, write_json
from common.metrics import RULE_SETS, Metric
from common.names import show, some
from common.outputs import check_output
from common.statistics import LEVEL, Difference, difference, holm, ranks
from common.task import title
from train.results import (
    SPACING,
    Row,
    check_same_settings,
    read_csv,
    warnings_beside,
    write_csv,
)
from train.score_table import add_numbers, heading_of, narrow_table, number, shown_metrics

Values = NDArray[np.float64]

SCORES = "scores.csv"
EVALUATION = "evaluation-test.csv"
"""Of a run, where it has several evaluations."""
MOST_WARNINGS = 5
"""Of one method that are shown; its summary has all."""


@dataclass(frozen=True)
class Method:
    """Scores of one method."""

    name: str
    path: Path
    """Its CSV."""
    rows: dict[tuple[str, str], Row]
    """By case id and region."""
    warnings: tuple[str, ...] = ()
    """Why its scores may mislead, as their summary says."""

    @property
    def cases(self) -> set[str]:
        """Ids of its cases."""
        return {case_id for case_id, _ in self.rows}


@dataclass(frozen=True)
class Compared:
    """One metric of one region of one method."""

    region: str
    metric: Metric
    method: str
    mean: float
    mean_rank: float
    """Over the cases; 1 is the best."""
    apart: Difference | None
    """From the first method; None of the first itself."""
    p_holm: float | None
    """Corrected for all tests of the comparison."""


@dataclass(frozen=True)
class Comparison:
    """Methods on the cases that all of them have."""

    methods: tuple[Method, ...]
    """The first is what the others are compared with."""
    rules: str
    cases: tuple[str, ...]
    left_out: dict[str, list[str]]
    """Method to ids of its cases that not all have."""
    rows: list[Compared]
    ranked_by: tuple[Metric, ...]
    rank: dict[str, float]
    """Method to its mean rank over cases, regions and these metrics."""

    @property
    def tests(self) -> int:
        """How many tests the p-values are corrected for."""
        return sum(row.apart is not None for row in self.rows)


def open_methods(paths: Sequence[Path]) -> tuple[Method, ...]:
    """Scores by the names of folders or files, which are shown as they differ.

    Raises:
        ConfigError: there are fewer than two, or one has no scores, or several.
        InputError: a file cannot be read.
    """
    if len({real_path(path) for path in paths}) < max(2, len(paths)):
        raise ConfigError("compare needs the scores of at least two methods, each named once")
    named = zip(distinct_names(paths), paths, strict=True)
    return tuple(_open(name, _scores_of(path)) for name, path in named)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """The last parts of paths; where two are the same, what follows the folder that holds all."""
    found = [real_path(path) for path in paths]
    names = [path.name for path in found]
    if len(set(names)) == len(names):
        return names
    above = os.path.commonpath(found)
    return [str(path.relative_to(above)) for path in found]


def _open(name: str, file: Path) -> Method:
    rows = read_csv(file)
    regions = {row["region"] for row in rows}
    by_region = {(row["case_id"], row["region"]): row for row in rows}
    method = Method(name, file, by_region, warnings_beside(file))
    if not len(rows) == len(method.rows) == len(method.cases) * len(regions):
        raise ConfigError(f"{file}: not one row for each region of each case; score again")
    return method


def _scores_of(path: Path) -> Path:
    """The CSV of a folder of scores, of a run's evaluation, or beside a JSON file."""
    if path.is_dir() and os.path.lexists(path / SCORES):
        return path / SCORES
    if found := evaluation_of(path):
        return found
    raise ConfigError(
        f"{path}: no scores; name a folder that `fmnet-train score` wrote, or evaluate the run"
    )


def evaluation_of(path: Path) -> Path | None:
    """The CSV of a run's evaluation, named by its folder or by one of its files; None if none is.

    Raises:
        ConfigError: there are several, of which none is the usual one.
    """
    if not path.is_dir():
        return path.with_suffix(".csv") if path.suffix == ".json" else path
    found = sorted(file for file in path.glob("evaluation-*.csv") if "-lesions" not in file.name)
    usual = [file for file in found if file.name == EVALUATION] or found
    if len(usual) > 1:
        names = ", ".join(file.name for file in found)
        raise ConfigError(f"{path}: several evaluations, {names}: name one of these files")
    return usual[0] if usual else None


def compare(methods: Sequence[Method]) -> Comparison:
    """Compare methods in pairs of the same case, each with the first.

    Raises:
        ConfigError: they have no case in common, or differ in rules, regions, spacing or reference.
    """
    first = methods[0]
    cases = sorted(set.intersection(*(method.cases for method in methods)))
    if not cases:
        named = ", ".join(f"{m.name} has {min(m.cases)}" for m in methods)
        raise ConfigError(f"no case is in all scores: {named}; score the same cases")
    for other in methods[1:]:
        _check_comparable(first, other, cases)
    rules = next(iter(first.rows.values()))["rules"]
    regions = list(dict.fromkeys(region for _, region in first.rows))
    patients = [first.rows[case_id, regions[0]]["patient"] for case_id in cases]
    rows, in_ranks = list[Compared](), dict[str, list[Values]]()
    for region in regions:
        for metric in shown_metrics(rules):
            values = np.array(
                [[m.rows[case_id, region][metric.name] for m in methods] for case_id in cases]
            )
            ranked = ranks(values, higher_is_better=metric.higher_is_better)
            in_ranks.setdefault(metric.name, []).append(ranked)
            for index, method in enumerate(methods):
                apart = difference(values[:, index], values[:, 0], patients) if index else None
                mean, rank = float(values[:, index].mean()), float(ranked[:, index].mean())
                rows.append(Compared(region, metric, method.name, mean, rank, apart, None))
    ranked_by = tuple(m for m in shown_metrics(rules) if m.name in _ranking(rules))
    together = np.concatenate([each for metric in ranked_by for each in in_ranks[metric.name]])
    return Comparison(
        tuple(methods),
        rules,
        tuple(cases),
        {m.name: sorted(m.cases - {*cases}) for m in methods if m.cases - {*cases}},
        _corrected(rows),
        ranked_by,
        dict(zip((m.name for m in methods), together.mean(axis=0).tolist(), strict=True)),
    )


def _ranking(rules: str) -> list[str]:
    """The metrics that the challenges rank by: Dice and the distance, of lesions."""
    return [f"lesion_{metric.name}" for metric in RULE_SETS[rules].metrics[:2]]


def _corrected(rows: Sequence[Compared]) -> list[Compared]:
    corrected = iter(holm([row.apart.p for row in rows if row.apart]))
    return [replace(row, p_holm=next(corrected) if row.apart else None) for row in rows]


def _check_comparable(first: Method, other: Method, cases: Sequence[str]) -> None:
    regions = [{region for _, region in method.rows} for method in (first, other)]
    if regions[0] != regions[1]:
        raise ConfigError(
            f"{first.path} has regions {', '.join(sorted(regions[0]))}, {other.path} "
            f"{', '.join(sorted(regions[1]))}: score both as the same task"
        )
    what = {"rules": ("rules",), "spacing": SPACING, "reference masks": ("reference_sha256",)}
    for case_id in cases:
        for region in regions[0]:
            ours, theirs = (method.rows[case_id, region] for method in (first, other))
            for name, columns in what.items():
                if (one := [ours[c] for c in columns]) != (two := [theirs[c] for c in columns]):
                    raise ConfigError(
                        f"case {case_id}: {first.path} and {other.path} have different {name} "
                        f"({_listed(one)} and {_listed(two)}), so their scores do not compare: "
                        "score both against the same references under the same rules"
                    )


def _listed(values: Sequence[Any]) -> str:
    return " × ".join(map(str, values))


def table_of(comparison: Comparison) -> Table:
    """Each region's metrics: a line for each method, with its difference from the first."""
    first, cases = comparison.methods[0].name, len(comparison.cases)
    heading = f"{cases} case(s), rules {comparison.rules}, differences from {first}"
    table = narrow_table(heading, _notes(comparison))
    table.add_column("", max_width=20)
    table.add_column("method", overflow="fold")
    add_numbers(table, ("mean", "difference", f"{LEVEL:.0%} CI", "p (Holm)", "rank"))
    region = ""
    for row in comparison.rows:
        if row.region != region:
            region = row.region
            table.add_row(Text(f"{title(region)}, {region}", "bold"))
        is_first = row.method == first
        name = f"  {heading_of(row.metric)}" if is_first else ""
        table.add_row(name, Text(show(row.method)), *_cells(row))
    table.add_row(Text("All", "bold"))
    for method, rank in comparison.rank.items():
        table.add_row("", Text(show(method)), "", "", "", "", f"{rank:.2f}")
    return table


def _cells(row: Compared) -> tuple[str, ...]:
    mean, rank = number(row.metric, row.mean), f"{row.mean_rank:.2f}"
    if row.apart is None or row.p_holm is None:
        return mean, "", "", "", rank
    ends = () if row.apart.low is None else (row.apart.low, row.apart.high)
    interval = " to ".join(number(row.metric, end) for end in ends) or "–"
    apart = number(row.metric, row.apart.mean)
    sign = "+" if row.apart.mean > 0 else ""
    return mean, f"{sign}{apart}", interval, p_value(row.p_holm), rank


def p_value(p: float) -> str:
    """As in papers."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"  # which shows a NaN


def _notes(comparison: Comparison) -> list[str]:
    ranked = ", ".join(metric.title for metric in comparison.ranked_by)
    return [
        f"{LEVEL:.0%} CI: paired bootstrap over patients. p: Wilcoxon signed-rank,",
        f"corrected for {comparison.tests} tests. rank: mean over cases, 1 is best;",
        f"in All, over regions, {ranked} too.",
    ]


def warnings(comparison: Comparison) -> list[str]:
    """Which scores may mislead."""
    found = [
        f"{len(ids)} case(s) of {name} are not in all scores, and left out: {some(ids)}"
        for name, ids in comparison.left_out.items()
    ]
    for method in comparison.methods:
        found += [f"{method.name}: {warning}" for warning in method.warnings[:MOST_WARNINGS]]
        more = len(method.warnings) - MOST_WARNINGS
        if more > 0:
            found.append(f"{method.name}: {more} more in {method.path.with_suffix('.json')}")
    return found


def check_outputs(out: Path, methods: Sequence[Method]) -> None:
    """Check that a comparison can be written into a folder.

    Raises:
        ConfigError: it cannot, or another one is there.
    """
    check_output(out, "folder")
    for path in _outputs(out):
        check_output(path, "file")
    check_same_settings(_outputs(out)[0], _settings(methods))


def _outputs(out: Path) -> tuple[Path, ...]:
    return tuple(out / f"compare.{ending}" for ending in ("json", "csv", "pdf", "png"))


def _settings(methods: Sequence[Method]) -> dict[str, Any]:
    return {"scores": [str(real_path(method.path)) for method in methods]}


def write(comparison: Comparison, out: Path) -> tuple[Path, ...]:
    """Write a comparison into a folder; returns its files, of which the figure is drawn apart."""
    out.mkdir(parents=True, exist_ok=True)
    paths = _outputs(out)
    summary, table, *_ = paths
    write_csv(table, [_as_row(row, len(comparison.cases)) for row in comparison.rows])
    write_json(
        summary,
        {
            "settings": _settings(comparison.methods),
            "methods": {method.name: str(method.path) for method in comparison.methods},
            "rules": comparison.rules,
            "cases": list(comparison.cases),
            "left_out": comparison.left_out,
            "warnings": {method.name: list(method.warnings) for method in comparison.methods},
            "tests": comparison.tests,
            "ranked_by": [metric.name for metric in comparison.ranked_by],
            "rank": comparison.rank,
        },
    )
    return paths


def _as_row(row: Compared, cases: int) -> Row:
    apart = asdict(row.apart) if row.apart else dict.fromkeys(("mean", "low", "high", "p"), "")
    return {
        "region": row.region,
        "metric": row.metric.name,
        "method": row.method,
        "cases": cases,
        "mean": row.mean,
        "difference": apart["mean"],
        "difference_low": apart["low"],
        "difference_high": apart["high"],
        "p": apart["p"],
        "p_holm": "" if row.p_holm is None else row.p_holm,
        "mean_rank": row.mean_rank,
    }
