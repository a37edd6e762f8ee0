"""A task as data: modalities, labels, regions, conventions and colours of a cohort.

A manifest names a packaged task or describes another; the default is BraTS glioma. The network has
an input for each modality and an output for each region.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property, reduce
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

PALETTE = ("#648fff", "#ffb000", "#dc267f", "#785ef0", "#fe6100", "#009e73", "#56b4e9", "#f0e442")
"""Default colours of regions, safe for colour blindness: IBM's five, then Okabe and Ito's."""

TITLES = {
    "wt": "Whole tumour",
    "tc": "Tumour core",
    "et": "Enhancing tumour",
    "ncr": "Necrotic core",
    "ed": "Oedema",
    "netc": "Non-enhancing core",
    "snfh": "Surrounding FLAIR hyperintensity",
    "rc": "Resection cavity",
    "cc": "Cystic component",
    "gtv": "Gross tumour volume",
    "flair": "FLAIR",
    "t1": "T1",
    "t1ce": "T1CE",
    "t2": "T2",
}
"""Titles of regions, labels and modalities; others show their names in capitals."""

ENHANCING = "et"

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]
LabelValue = Annotated[int, Field(ge=1, le=254)]
"""255 marks voxels of a store that were never written."""
FileValue = LabelValue | Annotated[tuple[LabelValue, ...], Field(min_length=1)] | Name
"""A label's value in files; several values, of which the first is written; or another label, which
files do not tell from this one."""


def title(name: str) -> str:
    """The title of a region, label or modality."""
    return TITLES.get(name, name.upper())


def in_words(label: str) -> str:
    """A label in a sentence."""
    words = TITLES.get(label, label)
    return words[0].lower() + words[1:]


class Task(BaseModel):
    """Modalities, labels and regions of a cohort, and the label values of its files.

    Raises:
        ValueError: a region or convention names an unknown label, or two labels are in the same
            regions, so that predicted regions do not decide between them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    """Name of the task, for messages and reports."""
    modalities: tuple[Name, ...] = Field(min_length=1, max_length=8)
    """The images of a case, in the channel order of every image array."""
    labels: dict[Name, LabelValue] = Field(min_length=1)
    """Label to its canonical value, as in the store."""
    regions: dict[Name, tuple[LabelValue, ...]] = Field(min_length=1)
    """Region to the canonical values in it, in the order of the network's outputs."""
    painting: tuple[Name, ...]
    """Labels in the order in which predictions are painted; a later one covers an earlier."""
    conventions: dict[str, dict[Name, FileValue]] = Field(min_length=1)
    """Convention to the value of each label in its files."""
    by_values: tuple[str, ...] = ()
    """Conventions that label values may decide for; if empty, all. Others must be named."""
    colours: dict[Name, str] = {}
    """Region to its colour as #rrggbb; others have one of `PALETTE`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        values = list(self.labels.values())
        if len(set(values)) < len(values):
            raise ValueError("labels: two have the same value")
        for region, members in self.regions.items():
            if not members or (unknown := sorted(set(members) - set(values))):
                raise ValueError(
                    f"regions.{region}: {unknown if members else 'empty'}; "
                    f"labels have the values {sorted(values)}"
                )
        if sorted(self.painting) != sorted(self.labels):
            raise ValueError(f"painting must name each of {', '.join(self.labels)} once")
        for name in self.conventions:
            self._check_convention(name)
        if unknown_names := sorted(set(self.by_values) - set(self.conventions)):
            raise ValueError(f"by_values: no convention is called {unknown_names[0]}")
        if unknown_colours := sorted(set(self.colours) - set(self.regions)):
            raise ValueError(f"colours: no region is called {unknown_colours[0]}")
        self._check_painting()
        return self

    def _check_convention(self, name: str) -> None:
        written = self.conventions[name]
        told = [label for label in self.labels if not isinstance(written.get(label), str)]
        shared = [value for value in written.values() if isinstance(value, str)]
        used = [value for label in told for value in self.file_values(name, label)]
        known = set(written) <= set(self.labels) and set(shared) <= set(told)
        if not known or len(set(used)) < len(used):
            raise ValueError(
                f"conventions.{name}: must give labels of {', '.join(self.labels)} a value each"
            )

    def _check_painting(self) -> None:
        """Check that every label can be predicted: none has the regions of a later one."""
        for index, name in enumerate(self.painting):
            own = self._regions_of(name)
            if not own:
                raise ValueError(f"labels.{name}: in no region, so it could not be predicted")
            for later in self.painting[index + 1 :]:
                others = self._regions_of(later)
                if others == own:
                    raise ValueError(f"labels {name} and {later} are in the same regions")
                if others < own:
                    raise ValueError(
                        f"painting: {later} is in fewer regions than {name}, so it must come before"
                    )

    def _regions_of(self, label: str) -> set[str]:
        value = self.labels[label]
        return {region for region, members in self.regions.items() if value in members}

    def with_modalities(self, modalities: tuple[str, ...]) -> Self:
        """The same labels and regions, seen in other images.

        Raises:
            ValueError: there are none, or too many.
        """
        return type(self).model_validate(self.model_dump() | {"modalities": modalities})

    @property
    def region_names(self) -> tuple[str, ...]:
        """In the order of the network's outputs."""
        return tuple(self.regions)

    @cached_property
    def region_colours(self) -> dict[str, str]:
        """Region to its colour as #rrggbb."""
        return {
            region: self.colours.get(region, PALETTE[index % len(PALETTE)])
            for index, region in enumerate(self.regions)
        }

    def file_values(self, convention: str, label: str) -> tuple[int, ...]:
        """The values of a label in a convention's files, that which is written first.

        A label that the convention leaves out has its canonical value.
        """
        value = self.conventions[convention].get(label, self.labels[label])
        if isinstance(value, str):
            return self.file_values(convention, value)
        return value if isinstance(value, tuple) else (value,)

    def labels_of(self, convention: str) -> dict[int, str]:
        """What each value in files of a convention means, in the order of the values."""
        written = self.conventions[convention].items()
        told = [label for label, value in written if not isinstance(value, str)]
        pairs = {value: label for label in told for value in self.file_values(convention, label)}
        return dict(sorted(pairs.items()))

    @property
    def told_by_values(self) -> tuple[str, ...]:
        """Conventions that label values may decide for: `by_values`, all if it is empty."""
        return self.by_values or tuple(self.conventions)

    def values_of(self, convention: str) -> frozenset[int]:
        """All values in files of a convention, with 0 for the background."""
        return frozenset((0, *self.labels_of(convention)))

    def legend(self, convention: str) -> str:
        """A convention's values in words: `1 necrotic core, 2 oedema, 4 enhancing tumour`."""
        values: dict[str, list[str]] = {}
        for value, label in self.labels_of(convention).items():
            values.setdefault(label, []).append(str(value))
        return ", ".join(f"{' and '.join(of)} {in_words(label)}" for label, of in values.items())

    def conventions_of(self, values: Iterable[int]) -> set[str]:
        """Conventions that have all of these values."""
        found = set(values)
        return {name for name in self.conventions if found <= self.values_of(name)}

    def to_canonical(self, values: NDArray[np.generic], convention: str) -> NDArray[np.uint8]:
        """File values of a convention to canonical labels; the shape stays."""
        pairs = {value: self.labels[name] for value, name in self.labels_of(convention).items()}
        return _renamed(values.astype(np.uint8), pairs)

    def from_canonical(self, label: NDArray[np.uint8], convention: str) -> NDArray[np.uint8]:
        """Canonical labels to the file values of a convention: inverse of `to_canonical`.

        A label that the convention has no value for keeps its canonical one.
        """
        pairs = {self.labels[name]: self.file_values(convention, name)[0] for name in self.labels}
        return _renamed(label.copy(), pairs)

    def to_regions(self, label: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Canonical labels of shape S to region masks of shape (regions, *S)."""
        # `np.isin` takes three to ten times as long.
        return np.stack(
            [reduce(np.logical_or, [label == value for value in m]) for m in self.regions.values()]
        )

    def from_regions(self, regions: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Region masks (regions, *S) to canonical labels of shape S: inverse of `to_regions`.

        Labels are painted in the task's order, each where all regions that hold it are predicted:
        in BraTS a voxel outside the whole tumour is background whatever the other regions say.
        A voxel of a region, but of no label's own regions, gets the region's first label in that
        order: where a network is sure of the tumour core alone, the core is written.
        """
        label = np.zeros(regions.shape[1:], np.uint8)
        for value, inside, covers in self.painting_steps:
            where = np.logical_and.reduce([regions[index] for index in inside])
            label[where if covers else where & (label == 0)] = value
        return label

    @cached_property
    def painting_steps(self) -> tuple[tuple[int, tuple[int, ...], bool], ...]:
        """How `from_regions` paints: a label's value, where, and whether it covers other labels.

        It is painted where all of these regions are predicted, by their place among the outputs.
        """
        steps = [(self.labels[name], {self.labels[name]}, True) for name in self.painting]
        for members in sorted(self.regions.values(), key=len):
            first = next(name for name in self.painting if self.labels[name] in members)
            steps.append((self.labels[first], {*members}, False))
        every = list(enumerate(map(set, self.regions.values())))
        return tuple(
            (value, tuple(index for index, members in every if members >= held), covers)
            for value, held, covers in steps
        )

    def label_voxels(self, label: NDArray[np.uint8]) -> dict[str, int]:
        """Voxels of each label in a canonical label array."""
        return {n: int(np.count_nonzero(label == value)) for n, value in self.labels.items()}

    def region_voxels(self, label_voxels: Mapping[str, int]) -> dict[str, int]:
        """Voxels of each region, from those of each label."""
        of_value = {value: label_voxels[name] for name, value in self.labels.items()}
        return {
            region: sum(of_value[v] for v in members) for region, members in self.regions.items()
        }


def _renamed(label: NDArray[np.uint8], pairs: Mapping[int, int]) -> NDArray[np.uint8]:
    """Replace old values by new ones in place; all are found before any is changed."""
    moved = [(label == old, new) for old, new in pairs.items() if old != new]
    for where, value in moved:
        np.copyto(label, np.uint8(value), where=where)
    return label


MODALITIES = ("flair", "t1", "t1ce", "t2")
"""The BraTS four, in the default channel order."""

GLIOMA = Task(
    name="glioma",
    modalities=MODALITIES,
    labels={"ncr": 1, "ed": 2, "et": 3},
    regions={"wt": (1, 2, 3), "tc": (1, 3), "et": (3,)},
    painting=("ed", "ncr", "et"),
    conventions={
        "brats2021": {"ncr": 1, "ed": 2, "et": 4},
        "brats2023": {"ncr": 1, "ed": 2, "et": 3},
        "brats2015": {"ncr": (1, 3), "ed": 2, "et": 4},
        "msd": {"ncr": 2, "ed": 1, "et": 3},
        "deepbratumia": {"ncr": 2, "ed": 3, "et": 1},
    },
    by_values=("brats2021", "brats2023"),
)
"""BraTS gliomas before treatment. The canonical labels are those of BraTS 2023.

From 2016 to 2021 enhancing tumour was 4; from 2012 to 2015 so too, and 3 was the core that is
neither necrotic nor enhancing. The Medical Segmentation Decathlon (Task01_BrainTumour, made of
BraTS 2016 and 2017) has 1 and 2 the other way round; its values are those of 2023, so only the
layout of its files identifies it. So it is with `deepbratumia`, the tool that made LUMIERE's masks.
"""

POST_TREATMENT = Task(
    name="post-treatment",
    modalities=MODALITIES,
    labels={"netc": 1, "snfh": 2, "et": 3, "rc": 4},
    regions={"wt": (1, 2, 3), "tc": (1, 3), "et": (3,), "netc": (1,), "snfh": (2,), "rc": (4,)},
    painting=("snfh", "netc", "et", "rc"),
    conventions={
        "brats2024": {"netc": 1, "snfh": 2, "et": 3, "rc": 4},
        "deepbratumia": {"netc": 2, "snfh": 3, "et": 1, "rc": 4},
    },
    by_values=("brats2024",),
)

METASTASES = POST_TREATMENT.model_copy(
    update={
        "name": "metastases",
        "conventions": {"brats2025": POST_TREATMENT.labels},
        "by_values": (),
    }
)

PEDIATRIC = Task(
    name="pediatric",
    modalities=MODALITIES,
    labels={"et": 1, "netc": 2, "cc": 3, "ed": 4},
    regions={
        "wt": (1, 2, 3, 4),
        "tc": (1, 2, 3),
        "et": (1,),
        "netc": (2,),
        "cc": (3,),
        "ed": (4,),
    },
    painting=("ed", "netc", "cc", "et"),
    conventions={
        "brats2024": {"et": 1, "netc": 2, "cc": 3, "ed": 4},
        "brats2023-ped": {"netc": 1, "ed": 2, "et": 3, "cc": "netc"},
    },
    by_values=("brats2024",),
)
"""In 2023 the values were those of gliomas, and cysts belonged to the non-enhancing core."""

MENINGIOMA_RT = Task(
    name="meningioma-rt",
    modalities=("t1ce",),
    labels={"gtv": 1},
    regions={"gtv": (1,)},
    painting=("gtv",),
    conventions={"brats2024": {"gtv": 1}},
)

TASKS = {task.name: task for task in (GLIOMA, POST_TREATMENT, PEDIATRIC, METASTASES, MENINGIOMA_RT)}
"""Packaged tasks by the name that a manifest gives them."""


def _packaged(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value not in TASKS:
        raise ValueError(f"no task is called {value!r}; there are {', '.join(TASKS)}")
    return TASKS[value]


TaskField = Annotated[Task, BeforeValidator(_packaged)]
"""A task in a manifest: the name of a packaged one, or all fields."""
