"""Findings about files that belong to no case."""

from pathlib import Path

from common.errors import Finding, InputError
from common.files import open_regular, reason_of
from common.grouping import stem_of
from common.nifti import LFS_POINTER, check_header

IMAGE_SUFFIXES = (".nii", ".gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".dcm", ".img", ".hdr", ".mgz")

CONVERTERS = {
    ".dcm": "dcm2niix, all files of a series together",
    ".mgz": "FreeSurfer: mri_convert x.mgz x.nii.gz",
    ".gz": "unpack it and see what it is",
}
"""What converts files that SimpleITK does not read, or not one by one."""


def stray_volume(path: Path, shown: str, case_id: str) -> Finding:
    """A volume whose name tells no modality; if it is damaged too, that is said first.

    `shown` is its path in the message, `case_id` its case, or `-`.
    """
    found = f"name ends in '{_ending(path)}', which the manifest does not list"
    expected = "an ending under modalities, label or companions"
    action = "rename it, add the ending to the manifest, or move it away"
    try:
        check_header(path)
    except InputError as error:
        damage = error.findings[0]
        found, expected = f"{damage.found}; also, {found}", f"{damage.expected}, with {expected}"
        action = damage.action
    return Finding(shown, found, expected, action, case_id)


def _ending(path: Path) -> str:
    """What follows the case's name if that is its folder's; else the last word."""
    stem, case_id = (stem_of(path.name) or "").lower(), path.parent.name.lower()
    rest = stem[len(case_id) + 1 :] if stem.startswith((case_id + "_", case_id + "-")) else ""
    return rest if rest[:1].isalpha() else stem.replace("-", "_").rpartition("_")[2]


def other_format(path: Path) -> tuple[str, str] | None:
    """What a file is that looks like an image and is no volume, and what to do; else None."""
    try:
        with open_regular(path) as file:
            start = file.read(64)
    except (InputError, OSError) as error:
        return f"unreadable file ({reason_of(error)})", "make it readable, or move it away"
    if start.startswith(LFS_POINTER):
        return "git-LFS pointer, the image was not fetched", "`git lfs pull`, or move it away"
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return None
    suffix = path.suffix.lower()
    tool = f"SimpleITK: WriteImage(ReadImage('x{suffix}'), 'x.nii.gz')"
    tool = CONVERTERS.get(suffix, tool)
    action = f"convert it to .nii.gz ({tool})"
    return f"file of type '{path.suffix}'", f"{action}, or move it away"
