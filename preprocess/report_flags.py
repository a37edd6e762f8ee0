"""What the quality report can say of a case: every flag with its meaning, limits and remedy.

The rules that raise them are in `report_rules`; the thresholds are there too, and are named here
so that the page says what it looked for.
"""

from dataclasses import dataclass
from enum import StrEnum


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
        "`make verify STORE=… REPAIR=1` drops it, with all that is damaged; then preprocess again.",
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
