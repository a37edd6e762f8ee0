"""`data_manifest.yaml`: what a cohort is, as a typed value.

File naming, label convention, crop, splits and the store's place are data here, so that a new
release's habits need a line of YAML and no code.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.errors import ConfigError
from common.settings import parse, read_yaml
from common.splits import FractionSplits, Splits
from common.task import GLIOMA, MODALITIES, Convention, TaskField

DEFAULT_NAME = "data_manifest.yaml"

Side = Annotated[int, Field(ge=8)]


class ClusterSection(BaseModel):
    """How `--cluster slurm` asks for its workers; no part of what the store depends on.

    Attributes:
        queue: partition; None is the site's default.
        account: whom the time is charged to.
        cores: cores of a job; one worker process on each.
        memory: of a job, for all its workers together.
        walltime: of a job, as HH:MM:SS.
        jobs: how many jobs to submit.
        adapt: instead of `jobs`, the least and the most that are kept as the work demands.
        directives: further lines for `#SBATCH`.
        interface: network interface on which scheduler and workers meet, such as ib0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: str | None = None
    account: str | None = None
    cores: int = Field(default=8, ge=1)
    memory: str = "16GB"
    walltime: str = Field(default="04:00:00", pattern=r"^(\d+-)?\d+:\d{2}:\d{2}$")
    jobs: int = Field(default=2, ge=1)
    adapt: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    directives: tuple[str, ...] = ()
    interface: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.adapt and self.adapt[0] > self.adapt[1]:
            raise ValueError("adapt must be [least, most]")
        return self


class StackedSection(BaseModel):
    """Cases whose four images are one 4-D file, as in the Medical Segmentation Decathlon.

    A case is `imagesTr/<case>.nii.gz`, its label `labelsTr/<case>.nii.gz`. Label values are the
    Decathlon's, unless `label_convention` says otherwise.

    Attributes:
        images: names of the folders that hold the images.
        labels: names of the folders beside them that hold the labels.
        channels: the modalities, in the order in which a file has them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[str, ...] = ("imagesTr", "imagesTs")
    labels: tuple[str, ...] = ("labelsTr", "labelsTs")
    channels: tuple[str, ...] = MODALITIES

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sorted(self.channels) != sorted(MODALITIES):
            raise ValueError(f"channels must name each of {', '.join(MODALITIES)} once")
        if doubled := {*self.images} & {*self.labels}:
            raise ValueError(f"folders of images and of labels: {', '.join(sorted(doubled))}")
        return self


class Manifest(BaseModel):
    """A cohort's description; every field has the default that suits BraTS.

    Attributes:
        name: the cohort's name, for reports.
        task: modalities, labels, regions and conventions; a packaged task's name, or all of it.
        modalities: modality to the name endings that files of it carry, lower case, no suffix.
        label: name endings of expert label files.
        companions: name endings of files that may lie beside a case and are not used.
        stacked: how cases of one 4-D file are laid out.
        label_convention: `auto` detects it for each case: from its layout where that is `stacked`,
            else from its values, else from its names.
        patient_pattern: regular expression with a group `patient`; the visits of one patient
            share what it matches, a case id that it does not match is a patient of its own.
        crop: (D, H, W) of the window that training streams, in voxels of 1 mm.
        dtype: type of stored images.
        volumes: whole volumes are kept for every case, or for the cases of these splits.
        margin: voxels kept around the brain in whole volumes.
        splits: how cases are divided; see `common.splits`.
        store: where preprocessing writes and training reads when nothing else is said.
        cluster: how SLURM is asked for workers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    name: str = "brats"
    task: TaskField = GLIOMA
    modalities: dict[str, tuple[str, ...]] = Field(
        default={
            "flair": ("flair", "t2f"),
            "t1": ("t1", "t1n"),
            "t1ce": ("t1ce", "t1gd", "t1c"),
            "t2": ("t2", "t2w"),
        }
    )
    label: tuple[str, ...] = ("seg",)
    companions: tuple[str, ...] = ("mask",)
    stacked: StackedSection = StackedSection()
    label_convention: Literal["auto"] | Convention = "auto"
    patient_pattern: str = r"^(?P<patient>BraTS-[A-Za-z]+-\d+)-\d+$"
    crop: tuple[Side, Side, Side] = (128, 128, 128)
    dtype: Literal["float16", "float32"] = "float16"
    volumes: Literal["all"] | tuple[Literal["train", "val", "test"], ...] = "all"
    margin: int = Field(default=2, ge=0)
    splits: Splits = FractionSplits()
    store: str = "brats.zarr"
    cluster: ClusterSection = ClusterSection()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.modalities) != set(MODALITIES):
            raise ValueError(f"modalities must name exactly {', '.join(MODALITIES)}")
        endings = [e for group in self.modalities.values() for e in group]
        endings += [*self.label, *self.companions]
        doubled = sorted({e for e in endings if endings.count(e) > 1})
        if doubled:
            raise ValueError(f"name endings used twice: {', '.join(doubled)}")
        try:
            groups = re.compile(self.patient_pattern).groupindex
        except re.error as error:
            raise ValueError(f"patient_pattern is no regular expression: {error}") from error
        if "patient" not in groups:
            raise ValueError("patient_pattern has no group (?P<patient>…)")
        return self

    def patient_of(self, case_id: str) -> str:
        """The patient that a case id belongs to."""
        match = re.match(self.patient_pattern, case_id)
        return match["patient"] if match else case_id

    def to_yaml(self) -> str:
        """The manifest as YAML that `load_manifest` reads back to an equal value."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def manifest_path(path: Path | None, data: Path) -> Path | None:
    """The manifest to use: the one given, else one beside the data, else one here, else None."""
    if path is not None:
        return path
    candidates = (data / DEFAULT_NAME, Path(DEFAULT_NAME))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def load_manifest(path: Path | None = None, overrides: Sequence[str] = ()) -> Manifest:
    """Read a manifest, with `key=value` overrides on top; no path means the defaults.

    Raises:
        ConfigError: the file is missing, no YAML, or has a key or value that is not known.
    """
    if path is None:
        return parse(Manifest, {}, "the default manifest", overrides)
    if not path.is_file():
        raise ConfigError(f"{path}: no such manifest; name a YAML file, or leave --manifest out")
    return parse(Manifest, read_yaml(path.read_text("utf-8"), str(path)), str(path), overrides)
