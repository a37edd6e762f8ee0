"""What is odd about a cohort, which no case shows alone."""

from collections import Counter
from collections.abc import Sequence

from common.errors import ConfigError, Finding
from common.manifest import Manifest
from common.splits import assign, require
from preprocess.check import CheckedCase

WHOLE = "(the cohort)"


def cohort_findings(cases: Sequence[CheckedCase], manifest: Manifest) -> list[Finding]:
    """Images that several cases share, label conventions, and splits without a case."""
    usable = [case for case in cases if case.is_usable]
    findings = _conventions(usable) + _stacked(usable, manifest)
    splits, empty = _splits(usable, manifest)
    return findings + empty + _shared_images(usable, splits)


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


def _splits(
    cases: Sequence[CheckedCase], manifest: Manifest
) -> tuple[dict[str, str], list[Finding]]:
    """Labelled case to its split; and why there cannot be all that the manifest asks for."""
    patients = {c.files.case_id: c.files.patient for c in cases if c.convention}
    placed, empty = dict[str, list[str]](), list[Finding]()
    try:
        placed = assign(manifest.splits, patients)
        for name in manifest.splits.requested if patients else ():
            require(name, placed, patients)
    except ConfigError as error:
        found = str(error).splitlines()[0]
        action = "set splits in the manifest; `run` refuses this too, with lists to paste"
        expected = "a labelled patient in every split, and in one alone"
        empty.append(Finding(WHOLE, found, expected, action))
    return {case: name for name in placed for case in placed[name]}, empty
