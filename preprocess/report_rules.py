"""Which cases of a cohort get which flag, and why."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from math import log
from statistics import median

from common.grid import ToLPS
from common.labels import MODALITIES
from preprocess import report_flags as limits
from preprocess.report_cohort import Case, Raised
from preprocess.report_flags import FLAGS
from preprocess.report_measure import Measures, Modality

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
    if len(values) < limits.MIN_COHORT:
        return {}
    centre = median(values.values())
    spread = 1.4826 * median(abs(value - centre) for value in values.values())
    if spread == 0:
        return {}
    scores = {key: (value - centre) / spread for key, value in values.items()}
    return {key: score for key, score in scores.items() if abs(score) > limits.OUTLIER}


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
            if there > here + limits.FLAIR_MARGIN:
                what = f"FLAIR is {_sigma(here)} in the mask, {_sigma(there)} in its mirror image"
                yield case, "flip", what
        for name, modality in measures.modalities.items():
            if modality.mirrored_fit > limits.FIT_MARGIN:
                ratio = f"{modality.mirrored_fit:.1f} times as well as it is"
                yield case, "flip", f"{NAMES[name]}, mirrored, fits the other modalities {ratio}"


def _placement(cases: list[Case]) -> Found:
    for case, measures in _measured(cases):
        if measures.off_brain > limits.OFF_BRAIN:
            yield case, "off-brain", f"{measures.off_brain:.1%} of the tumour's voxels"
        for side, share in measures.border.items():
            if share > limits.CUT:
                yield case, "cut", f"{side} edge: {share:.0%} of the largest section"
        for name, modality in measures.modalities.items():
            if modality.coverage < limits.COVERED:
                what = f"{NAMES[name]} covers {modality.coverage:.1%} of the brain"
                yield case, "uncovered", what


def _intensities(cases: list[Case]) -> Found:
    for name in MODALITIES:
        images = {
            case.record.case_id: measures.modalities[name] for case, measures in _measured(cases)
        }
        reach = {c: log(i.high - i.low) for c, i in images.items() if i.high > i.low}
        usual = median(reach.values()) if reach else 0.0
        odd = {c for c in standing_out(reach) if abs(reach[c] - usual) > log(limits.REACH)}
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
    if lowest < -limits.BELOW_ZERO * std:
        yield f"down to {lowest:.4g} before normalisation".replace("-", "−")
    if image.levels <= limits.LEVELS:
        yield f"{image.levels} different values"
    if image.highest > limits.BRIGHT:
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
        elif ml < limits.TINY_ML or score < 0:
            yield case, "tiny", f"{ml:.3g} ml"
        elif ml > limits.HUGE_ML or score > 0:
            yield case, "huge", f"{ml:.0f} ml"
        if ml and not case.tumour_ml["et"]:
            yield case, "no-et", f"convention decided by {case.record.convention_from}"


def _left_out(cases: list[Case]) -> Found:
    for case in cases:
        voxels = case.record.tumour_voxels
        if voxels is None:
            continue
        if voxels.lost("crop") > limits.LOST:
            yield case, "lost", f"{voxels.lost('crop'):.1%} of the tumour"
        if voxels.missed["wt"]:
            yield case, "outside", f"{voxels.missed['wt'] / 1000:.3g} ml"


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
