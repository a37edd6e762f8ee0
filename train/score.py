"""Scores of masks in folders, whoever predicted them, against reference masks."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.discovery import CaseFiles
from common.errors import ConfigError, Finding, InputError, warning
from common.files import real_path
from common.geometry import NEARLY_VOXELS, Geometry, offset_voxels, reorient
from common.labels import DECIDED_BY
from common.manifest import DEFAULT_NAME, Manifest, manifest_in
from common.masks import Mask, Masks, find_masks, manifest_of, read_mask
from common.metrics.rules import rules_for
from common.metrics.scores import score_case
from common.names import some
from common.pool import map_in_processes
from common.task import Task
from common.volume import bounding_box, extract
from train.predictions import PredictionsFile
from train.results import (
    CaseResult,
    RegionResult,
    ScoreFiles,
    fingerprint,
    rows_of,
    summarise,
)

CLEARER, MOSTLY = 1.5, 0.5
"""Labels that agree this many times as often under another convention, and in more than this
share, are likely misread; a poor network's labels agree under none."""


@dataclass(frozen=True)
class Pair:
    """One case's two masks."""

    case_id: str
    reference: CaseFiles
    prediction: CaseFiles | None


@dataclass(frozen=True)
class Shared:
    """What all pairs are read and scored by."""

    reference: Manifest
    prediction: Manifest
    prediction_folder: Path
    """Where a manifest of the predictions is, or would be."""
    rules: str
    """A rule set's full name."""


@dataclass(frozen=True)
class Outcome:
    """A pair, scored, or why it could not be."""

    case_id: str
    result: CaseResult | None
    findings: tuple[Finding, ...] = ()
    conventions: tuple[str, ...] = ()
    """Of reference and prediction: what the values mean, the convention, and what decided it."""


@dataclass(frozen=True)
class Plan:
    """Which masks are compared, and all that has no counterpart."""

    shared: Shared
    pairs: tuple[Pair, ...]
    extra: tuple[str, ...]
    """Ids of predictions without a reference."""
    failed: dict[str, str]
    """Case id to why it cannot be scored at all."""
    findings: tuple[Finding, ...]

    @property
    def task(self) -> Task:
        """Of both folders."""
        return self.shared.reference.task


def plan(reference: Path, prediction: Path, rules: str, task: str | None = None) -> Plan:
    """Match two folders, or files, of masks by case id.

    Two files are compared whatever their names are.

    Raises:
        InputError: one of them does not exist or has no masks, or they have no case in common.
        ConfigError: the folders' manifests describe different tasks, or there are no such rules.
    """
    settings = [f"task={task}"] if task else []
    ours_in, theirs_in = (p.parent if p.is_file() else p for p in (reference, prediction))
    ours = manifest_of(ours_in, *settings)
    theirs = manifest_of(theirs_in, *settings) if manifest_in(theirs_in) else _like(ours)
    if (ours.task.labels, ours.task.regions) != (theirs.task.labels, theirs.task.regions):
        raise ConfigError(
            f"{theirs_in / DEFAULT_NAME}: task {theirs.task.name}; expected that of the "
            f"references, {ours.task.name}: name the task of both with --task"
        )
    references = find_masks(reference, ours)
    predictions = _as_predicted(find_masks(prediction, theirs), theirs_in)
    if reference.is_file() and prediction.is_file():
        (case_id,), (only,) = references.files, predictions.files.values()
        predictions = Masks(theirs, {case_id: only})
    _check_overlap(reference, references, prediction, predictions)
    doubled = {**predictions.doubled, **references.doubled}
    failed = {
        case_id: f"{len(paths)} masks: {', '.join(map(str, paths))}; move all but one away"
        for case_id, paths in doubled.items()
    }
    failed |= {
        case_id: "no reference label"
        for case_id in references.unlabelled
        if case_id in predictions.files
    }
    pairs = tuple(
        Pair(case_id, files, predictions.files.get(case_id))
        for case_id, files in sorted(references.files.items())
        if case_id not in failed
    )
    extra = sorted(predictions.files.keys() - references.files.keys() - failed.keys())
    shared = Shared(ours, theirs, theirs_in, rules_named(rules, ours.task))
    findings = (*references.findings, *predictions.findings)
    return Plan(shared, pairs, tuple(extra), failed, findings)


def rules_named(name: str, task: Task) -> str:
    """The full name of a rule set.

    Raises:
        ConfigError: there is none.
    """
    try:
        return rules_for(name, task).name
    except ValueError as error:
        raise ConfigError(f"--rules {name}: {error}") from error


def _like(manifest: Manifest) -> Manifest:
    """How to read masks of the same cases without a manifest of their own."""
    kept = {"task": manifest.task, "patient_pattern": manifest.patient_pattern}
    return Manifest().model_copy(update=kept)


def _as_predicted(masks: Masks, folder: Path) -> Masks:
    """Masks that `predict` wrote have the convention that it noted."""
    noted = PredictionsFile.read(folder).cases.values()
    conventions = {name: case.convention for case in noted for name in case.files}
    files = {
        case_id: replace(each, suggested_convention=convention, states_convention=True)
        if (convention := conventions.get(each.label.name if each.label else ""))
        in masks.manifest.task.conventions
        else each
        for case_id, each in masks.files.items()
    }
    return replace(masks, files=files)


def _check_overlap(
    reference: Path, references: Masks, prediction: Path, predictions: Masks
) -> None:
    for path, masks in ((reference, references), (prediction, predictions)):
        if not masks.files:
            found, expected = "no mask", "masks as .nii.gz or .nii files"
            action = "name another folder, or its masks by their case ids"
            raise InputError(Finding(str(path), found, expected, action), *masks.findings)
    if references.files.keys() & predictions.files.keys():
        return
    ours, theirs = next(iter(references.files)), next(iter(predictions.files))
    raise InputError(
        Finding(
            str(prediction),
            f"{len(predictions.files)} mask(s), none of a case in {reference}, such as {theirs}",
            f"masks named by case id, such as {ours}",
            "rename them, or name another folder",
        )
    )


def score_pairs(plan: Plan, workers: int) -> Iterable[Outcome]:
    """Score all pairs in several processes; they come in order, as the caller iterates."""
    if workers == 1 or len(plan.pairs) == 1:  # here: a process takes seconds to start
        return (score_pair(plan.shared, pair) for pair in plan.pairs)
    return map_in_processes(score_pair, plan.shared, plan.pairs, workers, _lost)


def score_pair(shared: Shared, pair: Pair) -> Outcome:
    """Read and score one pair; whatever goes wrong with it does not end the others."""
    try:
        return _score(shared, pair)
    except InputError as error:
        return Outcome(pair.case_id, None, error.findings)
    except Exception as error:  # noqa: BLE001 - as above
        return _lost(pair, " ".join(f"{type(error).__name__}: {error}".split()))


def _lost(pair: Pair, why: str) -> Outcome:
    expected, action = "two masks that can be compared", "look at both, or free some memory"
    finding = Finding(str(pair.reference.label), why, expected, action)
    return Outcome(pair.case_id, None, (finding,))


def _score(shared: Shared, pair: Pair) -> Outcome:
    reference = read_mask(pair.reference, shared.reference)
    task, findings = shared.reference.task, list(reference.warnings)
    conventions = [_meaning(reference, task)]
    predicted, convention = np.zeros_like(reference.label), ""
    if pair.prediction is not None:
        mask = read_mask(pair.prediction, shared.prediction)
        path = pair.prediction.label or Path()
        predicted = on_grid(mask, reference.geometry, path)
        findings += mask.warnings
        if misread := agreement(reference.label, predicted, mask.decided.convention, task):
            findings.append(_misread(*misread, shared, path))
        conventions.append(_meaning(mask, task))
        convention = mask.decided.convention
    spacing_mm = reference.geometry.spacing_mm
    result = CaseResult(
        pair.case_id,
        pair.reference.patient,
        score_case(reference.label, predicted, spacing_mm, task, rules=shared.rules),
        spacing_mm,
        fingerprint(reference.label),
        reference.decided.convention,
        convention,
        is_missing=pair.prediction is None,
    )
    return Outcome(pair.case_id, result, tuple(findings), tuple(conventions))


def _meaning(mask: Mask, task: Task) -> str:
    """What a mask's values were taken for, and why; one without tumour does not tell."""
    if not mask.label.any():
        return "no tumour, and so no convention to be told"
    convention, by = mask.decided
    return f"{task.legend(convention)} ({convention}, by {DECIDED_BY[by]})"


def on_grid(mask: Mask, grid: Geometry, path: Path) -> NDArray[np.uint8]:
    """A mask's labels on the reference's grid, if it is in the same place.

    The order and directions of its axes may be others. Nothing is resampled.

    Raises:
        InputError: it is on another grid.
    """
    if mask.geometry.matches(grid):
        return mask.label
    apart = offset_voxels(mask.geometry, grid)
    if apart is None or round(apart, 3) > NEARLY_VOXELS:
        found, expected = f"a grid of {mask.geometry}", f"the reference's, {grid}"
        action = "export it again on that grid"
        raise InputError(Finding(str(path), found, expected, action))
    return np.ascontiguousarray(reorient(mask.label, mask.geometry, grid))


def agreement(
    reference: NDArray[np.uint8], prediction: NDArray[np.uint8], convention: str, task: Task
) -> tuple[str, str] | None:
    """How labels agree as they were read, and another convention in which they agree far better.

    Tools may number the same labels otherwise: values alone do not tell, but the reference does.
    """
    box = bounding_box(np.minimum(reference, prediction))  # where both have some label
    if box is None:
        return None
    true, values = (
        extract(reference, box),
        task.from_canonical(extract(prediction, box), convention),
    )
    both = (true > 0) & (values > 0)
    true, values = true[both], values[both]
    agreeing = {
        name: float((task.to_canonical(values, name) == true).mean())
        for name in task.conventions_of(np.unique(values).tolist())
    }
    best = max(agreeing, key=lambda name: agreeing[name])
    if agreeing[best] <= max(MOSTLY, CLEARER * agreeing[convention]):
        return None
    shares = [f"in {agreeing[name]:.0%} read as {name}" for name in (convention, best)]
    return f"labels that are the reference's {' and '.join(shares)}", best


def _misread(found: str, best: str, shared: Shared, path: Path) -> Finding:
    task = shared.prediction.task
    action = f"if its values are {task.legend(best)}, write label_convention: {best} into "
    action += f"{shared.prediction_folder / DEFAULT_NAME}; else look at both masks"
    return warning(path, found, "labels that mostly agree where both have one", action)


@dataclass(frozen=True)
class FolderScores:
    """What `score` found."""

    plan: Plan
    results: list[CaseResult]
    failed: dict[str, str]
    """Case id to why it was not scored; it is in no mean."""
    findings: list[Finding]
    """Warnings."""
    conventions: dict[str, Counter[str]]
    """Of references and predictions: in how many files the values mean what."""

    @property
    def missing(self) -> list[str]:
        """Ids of cases without a prediction, for which an empty mask was scored."""
        return [result.case_id for result in self.results if result.is_missing]

    def legend(self) -> list[str]:
        """A line for each convention of each side: what its values mean."""
        return [
            f"{side}: {count:,} × {meaning}"
            for side, found in self.conventions.items()
            for meaning, count in found.most_common()
        ]

    def lines(self) -> list[str]:
        """What the means do not show: cases without a counterpart, and failures."""
        counts = {
            "case(s) have no prediction, and count with an empty mask (to leave them out, name "
            "a folder without their references)": self.missing,
            "prediction(s) have no reference, and are not scored": self.plan.extra,
            "case(s) could not be scored, and are in no mean": list(self.failed),
        }
        return [f"{len(ids)} {what}: {some(ids)}" for what, ids in counts.items() if ids]


def gather(
    plan: Plan,
    outcomes: Iterable[Outcome],
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
) -> FolderScores:
    """All outcomes together; `on_case` gets (cases done, cases in all), first with none done.

    Raises:
        InputError: no case could be scored.
    """
    results, findings = list[CaseResult](), [*plan.findings]
    failed, errors = dict(plan.failed), list[Finding]()
    sides = {"references": Counter[str](), "predictions": Counter[str]()}
    on_case(0, len(plan.pairs))
    for done, outcome in enumerate(outcomes, 1):
        for found, meaning in zip(sides.values(), outcome.conventions, strict=False):
            found[meaning] += 1
        if outcome.result is None:
            failed[outcome.case_id] = "\n".join(map(str, outcome.findings))
            errors += outcome.findings
        else:
            results.append(outcome.result)
            findings += [replace(each, case=outcome.case_id) for each in outcome.findings]
        on_case(done, len(plan.pairs))
    if not results:
        raise InputError(*errors)
    return FolderScores(plan, results, failed, findings, sides)


def settings_of(reference: Path, prediction: Path, plan: Plan) -> dict[str, Any]:
    """What decides the scores: those of other settings are never replaced."""
    return {
        "reference": str(real_path(reference)),
        "prediction": str(real_path(prediction)),
        "task": plan.task.name,
        "rules": plan.shared.rules,
    }


def write(found: FolderScores, settings: dict[str, Any], files: ScoreFiles) -> list[RegionResult]:
    """Write the scores; returns them by region."""
    about = {
        "settings": settings,
        "conventions": found.conventions,
        "missing": found.missing,
        "extra": list(found.plan.extra),
        "failed": found.failed,
        "warnings": [f"{each.case}: {each}" for each in found.findings],
    }
    regions = summarise(rows_of(found.results))
    files.write(found.results, regions, about)
    return regions
