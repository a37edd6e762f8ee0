"""`data_manifest.yaml` as a typed value: a cohort's files, task, crop, splits and store.

A release with other file names or labels needs another manifest and no code.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from common.errors import ConfigError
from common.expressions import check_pattern
from common.intensities import BackgroundRule
from common.layouts import BY_NAMES, IMAGE_ENDINGS, patient_of
from common.settings import parse, read_yaml_file
from common.splits import FractionSplits, Splits
from common.task import GLIOMA, Name, Task, TaskField

DEFAULT_NAME = "data_manifest.yaml"
BACKGROUND = "background"
"""In `label_map`, for values that are no label."""

Side = Annotated[int, Field(ge=8)]
OneLine = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]
"""Text of a job script's line, which a control character could end."""


class Section(BaseModel):
    """Part of a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ClusterSection(Section):
    """What `--cluster slurm` asks for; the store does not depend on it."""

    queue: OneLine | None = None
    """Partition; null is the site's default."""
    account: OneLine | None = None
    """The account to charge."""
    cores: int = Field(default=8, ge=1)
    """Cores of a job, each with one worker process."""
    memory: OneLine = "16GB"
    """Memory of a job, shared by its workers."""
    walltime: str = Field(default="04:00:00", pattern=r"^(\d+-)?\d+:\d{2}:\d{2}$")
    """Time limit of a job, HH:MM:SS."""
    jobs: int = Field(default=2, ge=1)
    """Jobs to submit."""
    adapt: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """Fewest and most jobs, by the work that is left, instead of `jobs`."""
    directives: tuple[OneLine, ...] = ()
    """Further `#SBATCH` lines."""
    interface: OneLine | None = None
    """Network interface between scheduler and workers, such as ib0."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.adapt and self.adapt[0] > self.adapt[1]:
            raise ValueError("adapt must be [least, most]")
        return self


class StackedSection(Section):
    """Cases whose images are one 4-D file, as in the Medical Segmentation Decathlon.

    A case is `imagesTr/<case>.nii.gz`, its label `labelsTr/<case>.nii.gz`. Label values are those
    of the convention `msd` where the task has it, unless `label_convention` names another.
    """

    images: tuple[str, ...] = ("imagesTr", "imagesTs")
    """Folders of images."""
    labels: tuple[str, ...] = ("labelsTr", "labelsTs")
    """Folders of labels, beside those of the images."""
    channels: tuple[str, ...] = ()
    """The images in the order of the file, the task's modalities among them; if empty, those."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if doubled := {*self.images} & {*self.labels}:
            raise ValueError(f"folders of images and of labels: {', '.join(sorted(doubled))}")
        return self


class Manifest(Section):
    """A cohort's description; every field has the default that suits BraTS."""

    model_config = ConfigDict(validate_default=True)

    schema_version: Literal[1] = 1
    """Version of this format."""
    name: str = "brats"
    """Name of the cohort, for reports."""
    layout: str = "auto"
    """How files are named and placed: a layout of `docs/data.md`, or `auto`, which tries all."""
    modalities: dict[Name, tuple[str, ...]] = {}
    """Images of a case where they are not the task's, or are named otherwise: modality to endings
    of file names, without suffix. `[]` stands for the layout's own."""
    task: TaskField = GLIOMA
    """Name of a packaged task, or a description of one."""
    label: tuple[str, ...] = ()
    """Endings of reference labels' file names; if empty, the layout's own."""
    companions: tuple[str, ...] = ("mask",)
    """Endings of files that may lie beside a case and are not used; `label` goes first."""
    stacked: StackedSection = StackedSection()
    """Layout of cases whose images are one 4-D file."""
    label_convention: str = "auto"
    """A convention of the task, or `auto`: by layout, case id, file names and label values."""
    label_map: dict[int, str] = {}
    """Values of label files that mean something else: a label of the task, or `background`."""
    patient_pattern: str = "auto"
    """Finds the patient in a case id, as group `patient`; an id that does not match is a patient.
    `auto` knows the ids of the releases and of sessions."""
    spacing_mm: float = Field(default=1.0, ge=0.5, le=8)
    """Of the grid that is stored and trained on, along every axis; masks are the files' own."""
    crop: tuple[Side, Side, Side] = (128, 128, 128)
    """(D, H, W) of the window that training streams, in voxels of `spacing_mm`."""
    background: BackgroundRule = "zero"
    """What is not brain: voxels of 0; by `auto` also the value that plainly surrounds it."""
    dtype: Literal["float16", "float32"] = "float16"
    """Type of stored images."""
    margin: int = Field(default=2, ge=0)
    """Voxels of `spacing_mm` kept around the brain in whole volumes."""
    splits: Splits = FractionSplits()
    """How cases are divided, unless a training names other splits."""
    store: str = "brats.zarr"
    """Where preprocessing writes and training reads, unless a command names another store."""
    cluster: ClusterSection = ClusterSection()

    @field_validator("layout")
    @classmethod
    def _check_layout(cls, layout: str) -> str:
        if layout not in ("auto", *BY_NAMES):
            raise ValueError(f"must be auto or one of {', '.join(BY_NAMES)}")
        return layout

    @field_validator("task")
    @classmethod
    def _take_modalities(cls, task: Task, info: ValidationInfo) -> Task:
        """The task with the images that the manifest lists, in the task's order."""
        listed: dict[str, tuple[str, ...]] = info.data.get("modalities", {})
        images = [m for m in task.modalities if m in listed or not listed]
        images += [m for m in listed if m not in images]
        return task if images == [*task.modalities] else task.with_modalities(tuple(images))

    @field_validator("stacked")
    @classmethod
    def _check_channels(cls, stacked: StackedSection, info: ValidationInfo) -> StackedSection:
        if (task := _task(info)) is None:
            return stacked
        channels = stacked.channels or task.modalities
        if not {*task.modalities} <= {*channels} or len({*channels}) < len(channels):
            raise ValueError(f"channels must name each of {', '.join(task.modalities)} once")
        return stacked.model_copy(update={"channels": channels})

    @field_validator("label_convention")
    @classmethod
    def _check_convention(cls, convention: str, info: ValidationInfo) -> str:
        task = _task(info)
        if convention != "auto" and task and convention not in task.conventions:
            raise ValueError(f"must be auto or one of {', '.join(task.conventions)}")
        return convention

    @field_validator("label_map")
    @classmethod
    def _check_label_map(cls, names: dict[int, str], info: ValidationInfo) -> dict[int, str]:
        allowed = [BACKGROUND, *(task.labels if (task := _task(info)) else ())]
        for value, name in names.items():
            if value == 0:
                raise ValueError("0 is the background in every file; leave it out")
            if name not in allowed and len(allowed) > 1:
                raise ValueError(f"{value}: must be one of {', '.join(allowed)}, found {name!r}")
        return names

    @field_validator("patient_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str) -> str:
        if pattern != "auto":
            check_pattern(pattern, "patient")
        return pattern

    @model_validator(mode="after")
    def _check(self) -> Self:
        images = self.task.modalities
        known = {m: self.modalities.get(m) or tuple(IMAGE_ENDINGS.get(m, ())) for m in images}
        if unknown := [modality for modality, endings in known.items() if not endings]:
            raise ValueError(
                f"the task {self.task.name} has {', '.join(unknown)}, whose file name endings are "
                f"not known: list the endings of {', '.join(images)} under modalities"
            )
        endings = [ending for group in (*known.values(), self.label) for ending in group]
        if doubled := sorted(e for e, count in Counter(endings).items() if count > 1):
            raise ValueError(f"name endings used twice: {', '.join(doubled)}")
        if any(self.modalities.values()) and self.layout != "auto":
            raise ValueError("layout: modalities lists endings of its own; leave one of both out")
        return self

    def patient_of(self, case_id: str) -> str:
        """The patient that a case id belongs to."""
        if self.patient_pattern == "auto":
            return patient_of(case_id) or case_id
        match = re.match(self.patient_pattern, case_id)
        return (match and match["patient"]) or case_id

    def with_modalities(self, modalities: tuple[str, ...]) -> Self:
        """The same cohort, of whose images these are used, in this order; others may be there."""
        listed = self.modalities.items()
        others = [ending for m, group in listed if m not in modalities for ending in group]
        changes = {
            "task": self.task.with_modalities(modalities),
            "modalities": {m: group for m, group in listed if m in modalities},
            "companions": (*self.companions, *others),
        }
        return self.model_copy(update=changes)

    def to_yaml(self) -> str:
        """The manifest as YAML that `load_manifest` reads back to an equal value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _task(info: ValidationInfo) -> Task | None:
    """The task, which is validated first; None if it is wrong."""
    task: Task | None = info.data.get("task")
    return task


def manifest_path(path: Path | None, data: Path) -> Path | None:
    """The manifest to use: `path`, else that in `data`, else that in this folder, else None."""
    return path or manifest_in(data, Path())


def manifest_in(*folders: Path) -> Path | None:
    """The manifest of the first folder that has one, or a link or another thing in its place."""
    candidates = [folder / DEFAULT_NAME for folder in folders]
    return next((candidate for candidate in candidates if os.path.lexists(candidate)), None)


def load_manifest(path: Path | None = None, overrides: Sequence[str] = ()) -> Manifest:
    """Read a manifest, with `key=value` overrides on top; without a path, the defaults.

    Raises:
        ConfigError: the file is missing or not YAML, or has an unknown key or a wrong value.
    """
    if path is None:
        return parse(Manifest, {}, "the default manifest", overrides)
    if not os.path.lexists(path):
        raise ConfigError(f"{path}: no such manifest; name a YAML file, or leave --manifest out")
    return parse(Manifest, read_yaml_file(path), str(path), overrides)
