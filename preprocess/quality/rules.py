"""What the quality report can say of a case: each flag, its limits, and the rule that raises it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import log
from statistics import median

from common.geometry import ToLPS
from common.record import CaseFailure, CaseRecord
from common.store import Store
from common.task import MODALITIES, Task
from preprocess.quality.measure import Measures, Modality


class Severity(StrEnum):
    """How much a flag matters, most first."""

    ERROR = "error"
    CHECK = "check"
    NOTE = "note"


MIN_COHORT = 10
"""Cases that a cohort needs before one of them can stand out from it."""
OUTLIER = 3.5
"""Median absolute deviations, scaled to a normal's σ, beyond which a value stands out."""
TINY_ML = 1.0
HUGE_ML = 500.0
CUT = 0.05
COVERED = 0.95
OFF_BRAIN = 0.01
LOST = 0.0005
BRIGHT = 25.0
REACH = 1.5
LEVELS = 256
BELOW_ZERO = 0.05
FLAIR_MARGIN = 0.25
FIT_MARGIN = 1.25


@dataclass(frozen=True)
class Flag:
    """One kind of finding.

    Attributes:
        severity: how much it matters.
        title: its name on the page.
        meaning: what was looked at, and what can and cannot be concluded.
        action: what to do.
    """

    severity: Severity
    title: str
    meaning: str
    action: str


_PEERS = f"cases of the cohort (from {MIN_COHORT} on; {OUTLIER:g} scaled median deviations)"

FLAGS = {
    "damaged": Flag(
        Severity.ERROR,
        "Cannot be read",
        "The store could not give back this case's voxels, so nothing below was measured for it.",
        "`fmnet-preprocess verify --repair STORE` drops what is damaged; then preprocess again.",
    ),
    "leak": Flag(
        Severity.ERROR,
        "Same image in two splits",
        "An image file of this case has the very bytes of another case's in another split: scores "
        "on that split would be scores on training data.",
        "Move one of the cases away and preprocess with --drop-absent, or list both in one split.",
    ),
    "duplicate": Flag(
        Severity.CHECK,
        "Same image twice",
        "An image file has the very bytes of another: of another case, or of another modality of "
        "this case. Copies that were written anew, and so differ in bytes, are not found.",
        "Find out which one is wrong, and fetch or remove it.",
    ),
    "flip": Flag(
        Severity.CHECK,
        "Left–right flip suspected",
        "Within the case, something fits better when mirrored left to right about the middle of "
        "the brain: the mask lies on darker FLAIR than its mirror image does (by "
        f"{FLAIR_MARGIN:g} σ or more), or one modality shares at least {FIT_MARGIN:g} times more "
        "information with the others when mirrored. A case whose files are all flipped alike "
        "cannot be seen here, nor can a mask that is symmetrical; a tumour that is dark in FLAIR "
        "can raise this wrongly.",
        "Compare the picture with the source and with the headers of all files of the case.",
    ),
    "off-brain": Flag(
        Severity.CHECK,
        "Mask outside the brain",
        f"More than {OFF_BRAIN:.0%} of the tumour that is stored lies where every modality is "
        "background: mask and images may not belong together, or skull stripping took tumour away.",
        "Look at the picture; export the mask in the images' own grid.",
    ),
    "cut": Flag(
        Severity.CHECK,
        "Brain cut by the field of view",
        "Brain reaches the last plane of the file's grid, over more than "
        f"{CUT:.0%} of the brain's largest section in that direction, so some of it was probably "
        "not imaged. A cut that does not lie on the edge of the grid, such as a slab that was "
        "padded, is not seen, nor is any where only the crop is stored.",
        "Keep it if the tumour is far from the cut; else leave the case out.",
    ),
    "uncovered": Flag(
        Severity.CHECK,
        "A modality misses part of the brain",
        f"One modality is background in more than {1 - COVERED:.0%} of the brain that all "
        "modalities together show: a shorter slab, another mask, or zeros in its middle.",
        "Look at that modality; register and strip all modalities with one brain mask.",
    ),
    "intensity": Flag(
        Severity.CHECK,
        "Odd intensity range",
        f"A modality has values below 0 before normalisation, at most {LEVELS} different values "
        f"(as after an 8-bit export), a voxel brighter than {BRIGHT:g} σ that squeezes the rest, "
        f"or a range (0.1% to 99.9%) {REACH:g} times wider or narrower than is usual that also "
        f"stands out from other {_PEERS}.",
        "Open the case and compare its curves with the cohort's; export the modality again.",
    ),
    "empty": Flag(
        Severity.CHECK,
        "No tumour in the mask",
        "The label file holds nothing but background.",
        "Leave the case out, or keep it knowingly as a healthy one.",
    ),
    "tiny": Flag(
        Severity.CHECK,
        "Tiny tumour",
        f"The whole tumour is under {TINY_ML:g} ml, or stands out as small from other {_PEERS}, "
        "on a logarithmic scale.",
        "Look at the mask; a few stray voxels are an annotation slip.",
    ),
    "huge": Flag(
        Severity.CHECK,
        "Huge tumour",
        f"The whole tumour is over {HUGE_ML:g} ml, or stands out as large from other {_PEERS}, "
        "on a logarithmic scale.",
        "Look at the mask; check that it is the tumour and not the brain, and the spacing.",
    ),
    "lost": Flag(
        Severity.CHECK,
        "Crop loses tumour",
        "The tumour, stray voxels of its mask included, reaches further than the training crop, so "
        "training never sees the rest of it. Whole-volume scores are not affected.",
        "Look for stray voxels; else preprocess into a new store with a larger crop.",
    ),
    "outside": Flag(
        Severity.CHECK,
        "Tumour outside the stored volume",
        "Part of the mask lies outside the brain's box, which is all that is stored. Every "
        "whole-volume score counts it as missed.",
        "Look at the mask; it probably has stray voxels in the background.",
    ),
    "no-et": Flag(
        Severity.NOTE,
        "No enhancing tumour",
        "The mask has no enhancing tumour. That is common in low-grade glioma; where it is so in "
        "most cases, the label values were probably misread. Such a mask cannot tell its own "
        "convention.",
        "If it should enhance, compare the file's label values with the convention shown.",
    ),
    "convention": Flag(
        Severity.NOTE,
        "Another label convention",
        "The cohort mixes label conventions, and this case is not written in its most frequent "
        "one. Labels in the store are alike; predictions are written back in the case's own.",
        "Nothing, if the cohort was put together from several releases.",
    ),
    "orientation": Flag(
        Severity.NOTE,
        "Another orientation",
        "The file's axes run in another order or direction than in most of the cohort, and were "
        "turned to LPS by the header's word alone: if the header is wrong, the case is flipped.",
        "Compare the picture with the source once for each kind of file.",
    ),
    "resampled": Flag(
        Severity.NOTE,
        "Resampled",
        "The file's spacing is not 1 mm in every direction, so its voxels were interpolated.",
        "Thick slices look blurred in the picture; leave the case out if they do too much.",
    ),
}
"""Every flag by its key, in the order in which the page shows them."""


@dataclass(frozen=True)
class Case:
    """A stored case with what was measured of it.

    Attributes:
        record: its record.
        task: the store's.
        split: the split it is in; empty if in none.
        measures: None if its voxels could not be read.
        problem: why they could not be.
    """

    record: CaseRecord
    task: Task
    split: str
    measures: Measures | None
    problem: str = ""

    @property
    def tumour_ml(self) -> dict[str, float] | None:
        """Volume of each region, of the whole tumour; None without a label."""
        voxels = self.record.tumour_voxels
        # Voxels are counted in the 1 mm grid: a thousand of them are a millilitre.
        if voxels is None:
            return None
        counts = self.task.region_voxels(voxels.native)
        return {region: count / 1000 for region, count in counts.items()}


@dataclass(frozen=True)
class Raised:
    """A flag on a case, with what was found there."""

    key: str
    detail: str


@dataclass(frozen=True)
class Cohort:
    """What the report is made of.

    Attributes:
        store: where it comes from.
        cases: the stored cases, by id.
        flags: case id to its flags.
        failures: the cases that preprocessing set aside.
        missing: ids of cases that were found and not tried yet.
    """

    store: Store
    cases: list[Case]
    flags: dict[str, list[Raised]]
    failures: list[CaseFailure]
    missing: list[str]

    @property
    def to_check(self) -> list[str]:
        """Ids of the cases that have more than notes."""
        return [
            case_id
            for case_id, flags in self.flags.items()
            if any(FLAGS[flag.key].severity is not Severity.NOTE for flag in flags)
        ]


NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1CE", "t2": "T2"}
"""Modalities as a reader knows them."""


Found = Iterator[tuple[Case, str, str]]
"""The case, the flag's key, and what was found."""


def raise_flags(cases: list[Case]) -> dict[str, list[Raised]]:
    """Every case's flags, in the order of FLAGS; cases without one have an empty list."""
    raised: dict[str, list[Raised]] = {case.record.case_id: [] for case in cases}
    for rule in RULES:
        for case, key, detail in rule(cases):
            raised[case.record.case_id].append(Raised(key, detail))
    order = list(FLAGS)
    return {
        case_id: sorted(flags, key=lambda f: order.index(f.key))
        for case_id, flags in raised.items()
    }


def standing_out(values: Mapping[str, float]) -> dict[str, float]:
    """Those far from the others, with their distance in scaled median absolute deviations.

    The modified z-score of Iglewicz and Hoaglin (1993); nothing stands out of a cohort that is
    small, or of which more than half is alike.
    """
    if len(values) < MIN_COHORT:
        return {}
    centre = median(values.values())
    spread = 1.4826 * median(abs(value - centre) for value in values.values())
    if spread == 0:
        return {}
    scores = {key: (value - centre) / spread for key, value in values.items()}
    return {key: score for key, score in scores.items() if abs(score) > OUTLIER}


def _damaged(cases: list[Case]) -> Found:
    for case in cases:
        if case.problem:
            yield case, "damaged", case.problem


def _same_bytes(cases: list[Case]) -> Found:
    owners: dict[str, list[tuple[Case, str]]] = defaultdict(list)
    for case in cases:
        for source in case.record.sources:
            if source.role in MODALITIES:
                owners[source.sha256].append((case, source.role))
    for group in owners.values():
        for case, role in group:
            others = [one for one in group if one[0] is not case or one[1] != role]
            divided = [one for one in others if _divided(case, one[0])]
            if others:
                other, other_role = (divided or others)[0]
                what = f"{NAMES[role]} is {NAMES[other_role]} of {other.record.case_id}"
                what += f", in {other.split}" if divided else ""
                what += f", and {len(others) - 1} more" if len(others) > 1 else ""
                yield case, "leak" if divided else "duplicate", what


def _divided(case: Case, other: Case) -> bool:
    return bool(case.split and other.split) and case.split != other.split


def _flipped(cases: list[Case]) -> Found:
    for case, measures in _measured(cases):
        if measures.flair_in_mask is not None:
            here, there = measures.flair_in_mask
            if there > here + FLAIR_MARGIN:
                what = f"FLAIR is {_sigma(here)} in the mask, {_sigma(there)} in its mirror image"
                yield case, "flip", what
        for name, modality in measures.modalities.items():
            if modality.mirrored_fit > FIT_MARGIN:
                ratio = f"{modality.mirrored_fit:.1f} times as well as it is"
                yield case, "flip", f"{NAMES[name]}, mirrored, fits the other modalities {ratio}"


def _placement(cases: list[Case]) -> Found:
    for case, measures in _measured(cases):
        if measures.off_brain > OFF_BRAIN:
            yield case, "off-brain", f"{measures.off_brain:.1%} of the tumour's voxels"
        for side, share in measures.border.items():
            if share > CUT:
                yield case, "cut", f"{side} edge: {share:.0%} of the largest section"
        for name, modality in measures.modalities.items():
            if modality.coverage < COVERED:
                what = f"{NAMES[name]} covers {modality.coverage:.1%} of the brain"
                yield case, "uncovered", what


def _intensities(cases: list[Case]) -> Found:
    for name in MODALITIES:
        images = {
            case.record.case_id: measures.modalities[name] for case, measures in _measured(cases)
        }
        reach = {c: log(i.high - i.low) for c, i in images.items() if i.high > i.low}
        usual = median(reach.values()) if reach else 0.0
        odd = {c for c in standing_out(reach) if abs(reach[c] - usual) > log(REACH)}
        for case in cases:
            image = images.get(case.record.case_id)
            if image is None:
                continue
            for what in _odd(image, case.record.mean[name], case.record.std[name]):
                yield case, "intensity", f"{NAMES[name]}: {what}"
            if case.record.case_id in odd:
                size = "wider" if reach[case.record.case_id] > usual else "narrower"
                ends = f"from {_sigma(image.low)} to {_sigma(image.high)}"
                yield case, "intensity", f"{NAMES[name]}: {ends}, {size} than in other cases"


def _odd(image: Modality, mean: float, std: float) -> Iterator[str]:
    lowest = mean + std * image.lowest
    # Half precision moves values by a thousandth of a standard deviation or so.
    if lowest < -BELOW_ZERO * std:
        yield f"down to {lowest:.4g} before normalisation".replace("-", "−")
    if image.levels <= LEVELS:
        yield f"{image.levels} different values"
    if image.highest > BRIGHT:
        yield f"up to {image.highest:.0f} σ"


def _tumour_size(cases: list[Case]) -> Found:
    volumes = {c.record.case_id: c.tumour_ml["wt"] for c in cases if c.tumour_ml is not None}
    scores = standing_out({case_id: log(ml) for case_id, ml in volumes.items() if ml > 0})
    for case in cases:
        if case.tumour_ml is None:
            continue
        ml, score = case.tumour_ml["wt"], scores.get(case.record.case_id, 0.0)
        if ml == 0:
            yield case, "empty", "0 ml"
        elif ml < TINY_ML or score < 0:
            yield case, "tiny", f"{ml:.3g} ml"
        elif ml > HUGE_ML or score > 0:
            yield case, "huge", f"{ml:.0f} ml"
        if ml and not case.tumour_ml["et"]:
            yield case, "no-et", f"convention decided by {case.record.convention_from}"


def _left_out(cases: list[Case]) -> Found:
    for case in cases:
        voxels = case.record.tumour_voxels
        if voxels is None:
            continue
        if voxels.lost("crop") > LOST:
            yield case, "lost", f"{voxels.lost('crop'):.1%} of the tumour"
        if missed := sum(voxels.missed.values()):
            yield case, "outside", f"{missed / 1000:.3g} ml"


def _unlike_most(cases: list[Case]) -> Found:
    labelled = [case for case in cases if case.record.has_label]
    for case, own, usual in _minority(labelled, lambda case: str(case.record.convention)):
        yield case, "convention", f"{own}; most cases are {usual}"
    for case, own, usual in _minority(cases, _axes):
        yield case, "orientation", f"{own}; most cases are {usual}"


def _minority(cases: list[Case], of: Callable[[Case], str]) -> Iterator[tuple[Case, str, str]]:
    counts = Counter(of(case) for case in cases)
    for case in cases:
        usual = max(counts, key=lambda kind: counts[kind])
        if of(case) != usual:
            yield case, of(case), usual


def _axes(case: Case) -> str:
    """Where the file's axes (i, j, k) point, as in LPS."""
    to_lps = ToLPS.of(case.record.geometry)
    letters = {0: "SI", 1: "PA", 2: "LR"}
    ends = {
        file_axis: letters[axis][int(flip)]
        for axis, (file_axis, flip) in enumerate(zip(to_lps.axes, to_lps.flips, strict=True))
    }
    return "".join(ends[axis] for axis in (2, 1, 0))


def _resampled(cases: list[Case]) -> Found:
    for case in cases:
        if ToLPS.of(case.record.geometry).resamples:
            z, y, x = case.record.geometry.spacing_mm
            yield case, "resampled", f"{x:.3g} × {y:.3g} × {z:.3g} mm"


def _sigma(value: float) -> str:
    return f"{value:.1f} σ".replace("-", "−")


def _measured(cases: list[Case]) -> list[tuple[Case, Measures]]:
    return [(case, case.measures) for case in cases if case.measures and case.measures.modalities]


RULES: tuple[Callable[[list[Case]], Found], ...] = (
    _damaged,
    _same_bytes,
    _flipped,
    _placement,
    _intensities,
    _tumour_size,
    _left_out,
    _unlike_most,
    _resampled,
)
