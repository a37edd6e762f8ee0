"""The quality report's flags: what they mean, their limits, and the rules that raise them."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import log
from statistics import median
from typing import Literal

from common.duplicates import shared_images
from common.geometry import Orientation
from common.labels import UNLIKE_ANATOMY
from common.record import CaseFailure, CaseRecord
from common.store import Store
from common.task import Task, title
from preprocess.quality.measure import Measures, Modality

Severity = Literal["error", "check", "note"]
"""How serious a flag is, most serious first."""

MIN_COHORT = 10
"""Cases that a cohort needs before one of them can be an outlier."""
OUTLIER = 3.5
"""An outlier's distance from the median, in median absolute deviations scaled to a normal's σ."""
TINY_ML = 1.0
HUGE_ML = 500.0
CUT = 0.05
"""Brain on a side of the grid, as a share of the brain's largest section."""
COVERED = 0.95
"""Share of the brain that each modality should cover."""
OFF_BRAIN = 0.01
"""Share of the tumour that may lie outside the brain."""
LOST = 0.0005
"""Share of the tumour that may lie outside the crop."""
BRIGHT = 25.0
"""Brightest voxel, in σ."""
RANGE_RATIO = 1.5
"""An unusual intensity range over the usual one."""
LEVELS = 256
BELOW_ZERO = 0.05
"""How far below 0 intensities may lie before normalisation, in σ."""
FLAIR_MARGIN = 0.25
"""In σ."""
FIT_MARGIN = 1.25


@dataclass(frozen=True)
class Flag:
    """One kind of finding."""

    severity: Severity
    title: str
    meaning: str
    """What was measured, and what follows from it."""
    action: str
    """What to do."""


_PEERS = f"cohort's cases (if {MIN_COHORT} or more; {OUTLIER:g} scaled median deviations)"

FLAGS: dict[str, Flag] = {
    "damaged": Flag(
        "error",
        "Cannot be read",
        "This case's voxels could not be read, so nothing else was measured.",
        "`fmnet-preprocess verify --repair STORE` drops what is damaged; then preprocess again.",
    ),
    "leak": Flag(
        "error",
        "Same image in two splits",
        "An image of this case is also one of a case in another split, even if its file is "
        "written otherwise: scores on that split would be scores on training data.",
        "Move one of the cases away and preprocess with --drop-absent, or list both in one split.",
    ),
    "duplicate": Flag(
        "check",
        "Same image twice",
        "An image is also that of another case or of another modality of this case. Compared are "
        "mean and standard deviation, which stay when an image is saved again.",
        "Find out which file is wrong, and replace or remove it.",
    ),
    "flip": Flag(
        "check",
        "Left–right flip suspected",
        "A file fits the others better when it is mirrored left to right: FLAIR is darker in the "
        f"mask than in its mirror image (by {FLAIR_MARGIN:g} σ or more), or one modality shares "
        f"at least {FIT_MARGIN:g} times more information with the others when mirrored. Not found: "
        "a case whose files are all flipped, and a symmetrical mask. A tumour that is dark in "
        "FLAIR can raise this flag wrongly.",
        "Compare the picture with the source and with the headers of all files of the case.",
    ),
    "off-brain": Flag(
        "check",
        "Mask outside the brain",
        f"More than {OFF_BRAIN:.0%} of the stored tumour lies where every modality is background: "
        "mask and images may not belong together, or skull stripping removed tumour.",
        "Look at the picture; export the mask in the images' own grid.",
    ),
    "cut": Flag(
        "check",
        "Brain cut by the field of view",
        f"Brain covers more than {CUT:.0%} of its largest section on the last plane of the file's "
        "grid, so part of it was probably not imaged. A cut inside the grid, as in a padded slab, "
        "is not found.",
        "Keep the case if the tumour is far from the cut; otherwise leave it out.",
    ),
    "uncovered": Flag(
        "check",
        "A modality misses part of the brain",
        f"One modality is background in more than {1 - COVERED:.0%} of the brain that the "
        "modalities show together: a shorter slab, another brain mask, or zeros inside the brain.",
        "Look at that modality; register and strip all modalities with one brain mask.",
    ),
    "intensity": Flag(
        "check",
        "Odd intensity range",
        f"A modality has values below 0 before normalisation, at most {LEVELS} different values "
        f"(as after an 8-bit export), a voxel brighter than {BRIGHT:g} σ, or a range (0.1% to "
        f"99.9%) at least {RANGE_RATIO:g} times wider or narrower than usual that is an outlier "
        f"among the {_PEERS}.",
        "Open the case and compare its curves with the cohort's; export the modality again.",
    ),
    "anatomy": Flag(
        "check",
        "Labels contradict anatomy",
        "Oedema should be outermost in the tumour, and enhancing tumour brightest in T1CE beside "
        "T1. Here they are not, so the label's values were probably misread. Labels of fewer than "
        "100 voxels are not judged.",
        "Look at the picture; the case's warning says which values would fit.",
    ),
    "empty": Flag(
        "check",
        "No tumour in the mask",
        "The label has no tumour voxel.",
        "Leave the case out, or keep it as a healthy one.",
    ),
    "tiny": Flag(
        "check",
        "Tiny tumour",
        f"The tumour is under {TINY_ML:g} ml, or unusually small among the {_PEERS}, on a "
        "logarithmic scale.",
        "Look at the mask; a few stray voxels are an annotation error.",
    ),
    "huge": Flag(
        "check",
        "Huge tumour",
        f"The tumour is over {HUGE_ML:g} ml, or unusually large among the {_PEERS}, on a "
        "logarithmic scale.",
        "Check that the mask shows the tumour and not the brain, and check the spacing.",
    ),
    "lost": Flag(
        "check",
        "Crop loses tumour",
        "Part of the tumour, or of stray voxels in its mask, lies outside the training crop, so "
        "training never sees it. Scores on whole volumes are not affected.",
        "Look for stray voxels; otherwise preprocess into a new store with a larger crop.",
    ),
    "outside": Flag(
        "check",
        "Tumour outside the stored volume",
        "Part of the mask lies outside the stored volume, which is the brain's box. Scores count "
        "it as missed.",
        "Look at the mask; it probably has stray voxels in the background.",
    ),
    "no-et": Flag(
        "note",
        "No enhancing tumour",
        "The mask has no enhancing tumour. That is common in low-grade glioma. If most cases have "
        "none, the label values were probably misread: such a mask does not show its convention.",
        "If it should enhance, compare the file's label values with the convention shown.",
    ),
    "convention": Flag(
        "note",
        "Another label convention",
        "This case's label is not written in the cohort's most frequent convention. The store has "
        "one convention; predictions are written in the case's own.",
        "Nothing, if the cohort comes from several releases.",
    ),
    "orientation": Flag(
        "note",
        "Another orientation",
        "The file's axes have another order or direction than in most of the cohort. They were "
        "turned to LPS by the header: if the header is wrong, the case is flipped.",
        "Compare the picture with the source once for each orientation.",
    ),
    "resampled": Flag(
        "note",
        "Resampled",
        "The file's spacing is not the store's, so its voxels were interpolated.",
        "Thick slices look blurred in the picture; leave the case out if it is too blurred.",
    ),
}
"""Every flag by its key, in the order of the page."""


@dataclass(frozen=True)
class Case:
    """A stored case and its measures."""

    record: CaseRecord
    task: Task
    """The store's."""
    split: str
    """Empty if in none."""
    measures: Measures | None
    """None if the voxels could not be read."""
    problem: str = ""
    """Why they could not be read."""

    @property
    def tumour_ml(self) -> dict[str, float] | None:
        """Volume of each region; None without a label."""
        if self.record.tumour_voxels is None:
            return None
        counts = self.task.region_voxels(self.record.tumour_voxels.native)
        return {region: self.ml(count) for region, count in counts.items()}

    def ml(self, voxels: int) -> float:
        """Volume of voxels of the stored grid."""
        return float(voxels * self.record.spacing_mm**3 / 1000)


@dataclass(frozen=True)
class RaisedFlag:
    """A flag of a case, and what was found there."""

    key: str
    detail: str


@dataclass(frozen=True)
class Cohort:
    """What the report shows."""

    store: Store
    cases: list[Case]
    """The stored cases, by id."""
    flags: dict[str, list[RaisedFlag]]
    """Case id to its flags."""
    failures: list[CaseFailure]
    """Cases that could not be preprocessed."""
    missing: list[str]
    """Ids of cases that are in the data and were not tried yet."""

    @property
    def to_check(self) -> list[str]:
        """Ids of the cases with a flag that is more than information."""
        return [
            case_id
            for case_id, flags in self.flags.items()
            if any(FLAGS[flag.key].severity != "note" for flag in flags)
        ]


Findings = Iterator[tuple[Case, str, str]]
"""A case, a flag's key, and what was found."""


def raise_flags(cases: list[Case]) -> dict[str, list[RaisedFlag]]:
    """Every case's flags in the order of FLAGS; an empty list for cases without one."""
    raised: dict[str, list[RaisedFlag]] = {case.record.case_id: [] for case in cases}
    for rule in RULES:
        for case, key, detail in rule(cases):
            raised[case.record.case_id].append(RaisedFlag(key, detail))
    order = list(FLAGS)
    return {
        case_id: sorted(flags, key=lambda flag: order.index(flag.key))
        for case_id, flags in raised.items()
    }


def outliers(values: Mapping[str, float]) -> dict[str, float]:
    """The outlying values' modified z-scores (Iglewicz and Hoaglin 1993).

    There are none in a cohort that is small, or of which more than half has the same value.
    """
    if len(values) < MIN_COHORT:
        return {}
    centre = median(values.values())
    spread = 1.4826 * median(abs(value - centre) for value in values.values())
    if spread == 0:
        return {}
    scores = {key: (value - centre) / spread for key, value in values.items()}
    return {key: score for key, score in scores.items() if abs(score) > OUTLIER}


def _unreadable(cases: list[Case]) -> Findings:
    for case in cases:
        if case.problem:
            yield case, "damaged", case.problem


def _shared_images(cases: list[Case]) -> Findings:
    by_id = {case.record.case_id: case for case in cases}
    images = {case_id: case.record.images for case_id, case in by_id.items()}
    for group in shared_images(images):
        for case_id, modality in group:
            case = by_id[case_id]
            others = [one for one in group if one != (case_id, modality)]
            elsewhere = [
                one for one in others if case.split and by_id[one[0]].split not in {"", case.split}
            ]
            other_id, other_modality = (elsewhere or others)[0]
            what = f"{title(modality)} is {title(other_modality)} of {other_id}"
            what += f", in {by_id[other_id].split}" if elsewhere else ""
            what += f", and {len(others) - 1} more" if len(others) > 1 else ""
            yield case, "leak" if elsewhere else "duplicate", what


def _flips(cases: list[Case]) -> Findings:
    for case, measures in _measured(cases):
        if measures.flair_in_mask is not None:
            inside, mirrored = measures.flair_in_mask
            if mirrored > inside + FLAIR_MARGIN:
                what = f"FLAIR is {_sigma(inside)} in the mask"
                yield case, "flip", f"{what}, {_sigma(mirrored)} in its mirror image"
        for name, modality in measures.modalities.items():
            if modality.mirrored_fit > FIT_MARGIN:
                ratio = f"{modality.mirrored_fit:.1f} times as well as unmirrored"
                yield case, "flip", f"{title(name)}, mirrored, fits the other modalities {ratio}"


def _field_of_view(cases: list[Case]) -> Findings:
    for case, measures in _measured(cases):
        if measures.off_brain > OFF_BRAIN:
            yield case, "off-brain", f"{measures.off_brain:.1%} of the tumour's voxels"
        for side, share in measures.border.items():
            if share > CUT:
                yield case, "cut", f"{side} edge: {share:.0%} of the largest section"
        for name, modality in measures.modalities.items():
            if modality.coverage < COVERED:
                what = f"{title(name)} covers {modality.coverage:.1%} of the brain"
                yield case, "uncovered", what


def _intensities(cases: list[Case]) -> Findings:
    for name in cases[0].task.modalities if cases else ():
        images = {
            case.record.case_id: measures.modalities[name] for case, measures in _measured(cases)
        }
        ranges = {c: log(i.high - i.low) for c, i in images.items() if i.high > i.low}
        centre = median(ranges.values()) if ranges else 0.0
        unusual = {c for c in outliers(ranges) if abs(ranges[c] - centre) > log(RANGE_RATIO)}
        for case in cases:
            case_id = case.record.case_id
            image = images.get(case_id)
            if image is None:
                continue
            for what in _odd_values(image, case.record.mean[name], case.record.std[name]):
                yield case, "intensity", f"{title(name)}: {what}"
            if case_id in unusual:
                size = "wider" if ranges[case_id] > centre else "narrower"
                ends = f"from {_sigma(image.low)} to {_sigma(image.high)}"
                yield case, "intensity", f"{title(name)}: {ends}, {size} than in other cases"


def _odd_values(image: Modality, mean: float, std: float) -> Iterator[str]:
    lowest = mean + std * image.lowest
    # Half precision changes values by about a thousandth of a standard deviation.
    if lowest < -BELOW_ZERO * std:
        yield f"down to {lowest:.4g} before normalisation".replace("-", "−")
    if image.levels <= LEVELS:
        yield f"{image.levels} different values"
    if image.highest > BRIGHT:
        yield f"up to {image.highest:.0f} σ"


def _tumour_size(cases: list[Case]) -> Findings:
    """By the first region, which is the whole tumour in BraTS."""
    volumes = {c.record.case_id: next(iter(c.tumour_ml.values())) for c in cases if c.tumour_ml}
    scores = outliers({case_id: log(ml) for case_id, ml in volumes.items() if ml > 0})
    for case in cases:
        if case.tumour_ml is None:
            continue
        ml, score = volumes[case.record.case_id], scores.get(case.record.case_id, 0.0)
        if not case.record.tumour_voxels or not any(case.record.tumour_voxels.native.values()):
            yield case, "empty", "0 ml"
        elif ml == 0:  # labels outside the first region alone, such as a resection cavity
            continue
        elif ml < TINY_ML or score < 0:
            yield case, "tiny", f"{ml:.3g} ml"
        elif ml > HUGE_ML or score > 0:
            yield case, "huge", f"{ml:.0f} ml"
        if ml and not case.tumour_ml.get("et", ml):
            yield case, "no-et", f"convention decided by {case.record.convention_from}"


def _against_anatomy(cases: list[Case]) -> Findings:
    for case in cases:
        for warning in case.record.warnings:
            if warning.found.startswith(UNLIKE_ANATOMY):
                yield case, "anatomy", warning.found.removeprefix(UNLIKE_ANATOMY)


def _outside(cases: list[Case]) -> Findings:
    for case in cases:
        voxels = case.record.tumour_voxels
        if voxels is None:
            continue
        if voxels.lost("crop") > LOST:
            yield case, "lost", f"{voxels.lost('crop'):.1%} of the tumour"
        if missed := sum(voxels.missed.values()):
            yield case, "outside", f"{case.ml(missed):.3g} ml"


def _minorities(cases: list[Case]) -> Findings:
    labelled = [case for case in cases if case.record.has_label]
    for case, own, most in _minority(labelled, lambda case: str(case.record.convention)):
        yield case, "convention", f"{own}; most cases are {most}"
    for case, own, most in _minority(cases, _orientation):
        yield case, "orientation", f"{own}; most cases are {most}"


def _minority(cases: list[Case], kind: Callable[[Case], str]) -> Iterator[tuple[Case, str, str]]:
    """Cases that are not of the most frequent kind, with their kind and that one."""
    counts = Counter(kind(case) for case in cases)
    for case in cases:
        most = max(counts, key=lambda one: counts[one])
        if kind(case) != most:
            yield case, kind(case), most


def _orientation(case: Case) -> str:
    """Where the file's axes (i, j, k) point, such as LPS."""
    own = Orientation.of(case.record.geometry)
    letters = {0: "SI", 1: "PA", 2: "LR"}
    ends = {
        file_axis: letters[axis][int(flip)]
        for axis, (file_axis, flip) in enumerate(zip(own.axes, own.flips, strict=True))
    }
    return "".join(ends[axis] for axis in (2, 1, 0))


def _resampled(cases: list[Case]) -> Findings:
    for case in cases:
        if case.record.to_lps.resamples:
            z, y, x = case.record.geometry.spacing_mm
            yield case, "resampled", f"{x:.3g} × {y:.3g} × {z:.3g} mm"


def _sigma(value: float) -> str:
    return f"{value:.1f} σ".replace("-", "−")


def _measured(cases: list[Case]) -> list[tuple[Case, Measures]]:
    return [(case, case.measures) for case in cases if case.measures and case.measures.modalities]


RULES: tuple[Callable[[list[Case]], Findings], ...] = (
    _unreadable,
    _shared_images,
    _flips,
    _field_of_view,
    _intensities,
    _against_anatomy,
    _tumour_size,
    _outside,
    _minorities,
    _resampled,
)
