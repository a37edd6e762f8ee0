"""What is odd about a cohort, which no case shows alone."""

from collections import Counter
from collections.abc import Sequence

from common.errors import ConfigError, Finding
from common.manifest import Manifest
from common.splits import Splits, assign, fill
from preprocess.check import CheckedCase

WHOLE = "(the cohort)"
EXPECTED_OF_SPLITS = "a labelled patient in every split, and in one alone"


def cohort_findings(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """Images that several cases share, label conventions, and splits without a case."""
    usable = [case for case in cases if case.is_usable]
    findings = _conventions(usable) + _stacked(usable, manifest)
    findings += _splits(cases, manifest)
    return findings + _shared_images(usable, _places(usable, manifest))


def _shared_images(cases: Sequence[CheckedCase], splits: dict[str, str]) -> list[Finding]:
    first: dict[str, CheckedCase] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        for modality, image in case.images.items():
            other = first.setdefault(image, case)
            if other is not case:
                pair = other.files.case_id, case.files.case_id
                shared.setdefault(pair, []).append(modality)
    return [_twins(one, other, names, splits) for (one, other), names in shared.items()]


def _twins(one: str, other: str, modalities: list[str], splits: dict[str, str]) -> Finding:
    """An error where the two are in different splits, as preprocessing and training have it."""
    found = f"{', '.join(modalities)} have the same bytes as those of {one}"
    places = {splits.get(one), splits.get(other)} - {None}
    if len(places) == 2:
        action = f"move one away: {one} is in {splits[one]} and {other} in {splits[other]}"
        return Finding(WHOLE, found, "an image in one split alone", action, other)
    action = "move one away, unless it shall count twice"
    return Finding(WHOLE, found, "an image under one case id", action, other, "note")


def _conventions(cases: Sequence[CheckedCase]) -> list[Finding]:
    counts = Counter((c.convention, c.convention_from) for c in cases if c.convention)
    if len({convention for convention, _ in counts}) < 2:
        return []
    told = ", ".join(f"{n} {convention} (by {by})" for (convention, by), n in counts.most_common())
    action = "nothing if so; label_convention in the manifest sets one for all"
    return [Finding(WHOLE, f"labels of {told}", "one convention", action, severity="note")]


def _stacked(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    count = sum(case.convention_from == "layout" for case in cases)
    if not count:
        return []
    order = ", ".join(manifest.stacked.channels)
    found = (
        f"{count} case(s) of one 4-D file, read as {order}, and their labels as 1 oedema, "
        "2 necrotic core, 3 enhancing tumour (msd)"
    )
    action = "nothing if so; else set stacked.channels or label_convention in the manifest"
    return [Finding(WHOLE, found, "the Decathlon's channels and values", action, severity="note")]


def _splits(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """What `run` refuses, which has not read a case yet; else what it will leave unfilled."""
    found = [case.files.case_id for case in cases if case.files.label]
    usable = [case.files.case_id for case in cases if case.convention]
    patients = {case.files.case_id: case.files.patient for case in cases}
    action = "set splits in the manifest: `run` refuses the whole cohort"
    if why := _why_not_filled(manifest.splits, {case: patients[case] for case in found}):
        return [Finding(WHOLE, why, EXPECTED_OF_SPLITS, action)]
    action = "put the damaged cases right, or set splits in the manifest: training needs each"
    if why := _why_not_filled(manifest.splits, {case: patients[case] for case in usable}):
        return [Finding(WHOLE, why, EXPECTED_OF_SPLITS, action, severity="note")]
    return []


def _why_not_filled(splits: Splits, patients: dict[str, str]) -> str | None:
    try:
        fill(splits, patients)
    except ConfigError as error:
        return str(error).splitlines()[0]
    return None


def _places(usable: Sequence[CheckedCase], manifest: Manifest) -> dict[str, str]:
    """Labelled case to its split; of none where the manifest's lists divide a patient."""
    patients = {case.files.case_id: case.files.patient for case in usable if case.convention}
    try:
        placed = assign(manifest.splits, patients)
    except ConfigError:  # which is a finding already
        return {}
    return {case: name for name in placed for case in placed[name]}
