"""`python -m preprocess phantom`: a cohort in BraTS format, made from nothing but a seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from common import nifti
from common.errors import ConfigError
from common.geometry import Geometry
from common.manifest import DEFAULT_NAME, Manifest
from common.splits import ListSplits
from common.task import MODALITIES, Convention, from_canonical
from common.volume import Triple
from preprocess.phantom.image import TUMOUR_FREE, synthesise
from preprocess.pool import available_cores, map_in_processes

Release = Literal["2021", "2023"]

ENDINGS: dict[Release, tuple[str, ...]] = {
    "2021": ("_flair", "_t1", "_t1ce", "_t2", "_seg"),
    "2023": ("-t2f", "-t1n", "-t1c", "-t2w", "-seg"),
}
"""How file names end, in the order of MODALITIES, then the label's."""

LEAST_CASES = 3
LEAST_SIDE = 32
LARGEST_CROP = 128

INTRODUCTION = """\
# Phantoms of the {release} release's habits: `python -m preprocess phantom` with --seed {seed}
# --cases {cases} --size {size}. What is not said here is as in the packaged manifest.
"""


def make_cohort(  # noqa: PLR0913 - the command has as many options
    directory: Path,
    *,
    cases: int,
    seed: int,
    size: Triple,
    release: Release,
    on_case: Callable[[], None] = lambda: None,
) -> Path:
    """Write a cohort of phantoms and the manifest that describes it, one process a core.

    A case depends on its index, `seed` and `size` alone, so a larger cohort begins with the cases
    of a smaller one; the case of index `TUMOUR_FREE` has no tumour.

    Args:
        directory: a new or empty folder.
        cases: how many, at least 3: one for each split.
        seed: of all randomness.
        size: (D, H, W) in voxels of 1 mm; one head fills it, so a smaller volume is a smaller head.
        release: whose file names and label values.
        on_case: called after each case.

    Returns:
        The folder.

    Raises:
        ConfigError: the folder holds something, or there are too few cases or voxels.
    """
    _check_arguments(directory, cases, size)
    directory.mkdir(parents=True, exist_ok=True)
    plan = _Plan(directory, release, seed, size)
    for _ in map_in_processes(_write_case, plan, range(cases), available_cores()):
        on_case()
    described = describe([case_name(release, index) for index in range(cases)], size)
    introduction = INTRODUCTION.format(
        release=release, seed=seed, cases=cases, size=",".join(map(str, size))
    )
    content = yaml.safe_dump(described.model_dump(mode="json", exclude_unset=True), sort_keys=False)
    (directory / DEFAULT_NAME).write_text(introduction + content, "utf-8")
    return directory


def describe(case_ids: list[str], size: Triple) -> Manifest:
    """The manifest of a cohort: its crop, and its splits as lists of cases.

    An eighth of the cases is val and a quarter test, so that 16 cases have 4 to be scored on. The
    tumour-free one trains: where nothing is to be found, a single wrong voxel scores Dice 0,
    which would drown what so few test cases have to say.
    """
    val, test = max(1, len(case_ids) // 8), max(1, len(case_ids) // 4)
    order = sorted(case_ids, key=lambda case_id: case_ids.index(case_id) != TUMOUR_FREE)
    train = len(case_ids) - val - test
    lists = {"train": order[:train], "val": order[train : train + val], "test": order[-test:]}
    return Manifest.model_validate(
        {
            "name": "phantoms",
            "crop": [min(LARGEST_CROP, 1 << (side.bit_length() - 1)) for side in size],
            "splits": ListSplits.model_validate(
                {"kind": "lists"} | {name: sorted(members) for name, members in lists.items()}
            ),
        }
    )


def case_name(release: Release, index: int) -> str:
    """A case id of the release's form, which no patient's has."""
    return (
        f"BraTS2021_PHANTOM{index:03d}" if release == "2021" else f"BraTS-PHANTOM-{index:05d}-000"
    )


def _check_arguments(directory: Path, cases: int, size: Triple) -> None:
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise ConfigError(f"{directory}: not empty; name a new folder, or empty this one")
    if cases < LEAST_CASES:
        raise ConfigError(f"{cases} case(s): at least {LEAST_CASES} are needed, one for each split")
    if min(size) < LEAST_SIDE:
        raise ConfigError(
            f"size {size}: at least {LEAST_SIDE} voxels a side are needed to show a brain"
        )


class _Plan(NamedTuple):
    """What the cases of a cohort share."""

    directory: Path
    release: Release
    seed: int
    size: Triple


def _write_case(plan: _Plan, index: int) -> None:
    directory, release, seed, size = plan
    phantom = synthesise(seed, index, size)
    case_id = case_name(release, index)
    # BraTS places its 240 rows so: voxel (0, 0, 0) at (0, -239, 0), LPS.
    geometry = Geometry(size, (1.0, 1.0, 1.0), (0.0, 1.0 - size[1], 0.0))
    convention = Convention(f"brats{release}")
    *images, label = (directory / case_id / f"{case_id}{end}.nii.gz" for end in ENDINGS[release])
    label.parent.mkdir()
    for channel in range(len(MODALITIES)):
        nifti.write(images[channel], phantom.image[channel], geometry)
    nifti.write(label, from_canonical(phantom.label, convention), geometry)
