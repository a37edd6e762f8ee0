"""The store's record of one case. A case is in the store when its record is."""

import hashlib
import json
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from common.duplicates import identity
from common.errors import Finding
from common.geometry import Geometry, ToLPS
from common.manifest import Manifest
from common.volume import Box, T, Triple, place_back

DecidedBy = Literal["values", "names", "layout", "manifest", "task"]

PREPROCESSING_VERSION = 2
"""Raised when the same sources and manifest would give other arrays."""


class Record(BaseModel):
    """Part of a store's JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(Record):
    """A file that a case was made from; a rerun reads it again if size or time of change differ."""

    role: str
    """A modality, or `label`."""
    file: str
    """Its name without its folder."""
    sha256: str
    size_bytes: int
    modified_ns: int

    @property
    def image(self) -> str:
        """Its checksum, which differs between the images of a 4-D file."""
        return f"{self.sha256} {self.role}"


class TumourVoxels(Record):
    """Voxels of each label; `Task.region_voxels` gives those of each region."""

    native: dict[str, int]
    """In the whole stored grid, before it is cut to the box."""
    box: dict[str, int]
    """In the stored volume."""
    crop: dict[str, int]
    """In the training crop."""
    centred_crop: dict[str, int]
    """In the crop that would be taken without looking at the label, for comparison."""

    @property
    def missed(self) -> dict[str, int]:
        """Voxels of each label outside the stored volume, which every score counts as missed."""
        return {label: count - self.box[label] for label, count in self.native.items()}

    def lost(self, window: Literal["box", "crop", "centred_crop"]) -> float:
        """Share of all labelled voxels outside a window; 0 where there are none."""
        kept: dict[str, int] = getattr(self, window)
        total = sum(self.native.values())
        return 1 - sum(kept.values()) / total if total else 0.0


class CaseWarning(Record):
    """Something unusual in a file that does not exclude its case; `check` shows it too."""

    file: str
    found: str
    action: str

    def of(self, case_id: str) -> Finding:
        """As a finding about its case."""
        return Finding(self.file, self.found, "", self.action, case_id, "warning")


class CaseRecord(Record):
    """Everything needed to use, check and undo the preprocessing of one case."""

    case_id: str
    row: int | None = None
    """Index into the store's crops; None while the case is in no store."""
    has_label: bool
    convention: str
    """Of the task's: how the label file is written, and how predictions are."""
    convention_from: DecidedBy
    """What decided the convention."""
    sources: tuple[Source, ...]
    geometry: Geometry
    """The files' own grid."""
    spacing_mm: float
    """Of the stored grid, along every axis."""
    grid_shape: Triple
    """(D, H, W) of the whole stored grid, LPS, in which box and crop count."""
    box: Box
    """The stored volume."""
    crop: Box
    """The window that training streams."""
    mean: dict[str, float]
    """By modality, over its non-zero voxels in its own grid."""
    std: dict[str, float]
    tumour_voxels: TumourVoxels | None
    """None without a label."""
    checksums: dict[str, str] = {}
    """Array to CRC-32 of its bytes; set when the case is stored."""
    parameter_hash: str
    """Of what the arrays depend on beside the sources."""
    software: dict[str, str]
    """Package to the version that made the case."""
    warnings: tuple[CaseWarning, ...] = ()

    @property
    def to_lps(self) -> ToLPS:
        """From the files' own grid to the stored one."""
        return ToLPS.of(self.geometry, self.spacing_mm)

    @property
    def stores_reference(self) -> bool:
        """Whether the label in the files' own grid is stored: the box's label does not give it."""
        counts = self.tumour_voxels
        return counts is not None and (self.to_lps.resamples or counts.native != counts.box)

    def to_file_grid(self, voxels: NDArray[T], outside: float = 0) -> NDArray[T]:
        """Voxels of the box (*box.shape) in the files' own grid (*geometry.shape).

        Where the files have another spacing, they are interpolated: floating-point numbers such as
        logits, from which labels are made there.

        Raises:
            TypeError: they would have to be, and are integers.
        """
        to_lps = self.to_lps
        whole = place_back(voxels, self.box, to_lps.shape, outside)
        if to_lps.resamples:
            if not np.issubdtype(voxels.dtype, np.floating):
                raise TypeError(f"{self.case_id}: {voxels.dtype} cannot be interpolated")
            whole = to_lps.unresample(whole).astype(voxels.dtype, copy=False)
        return np.ascontiguousarray(to_lps.unorient(whole))

    @property
    def images(self) -> dict[str, str]:
        """Modality to what identifies its image, however its file is written."""
        return {
            source.role: identity(self.mean[source.role], self.std[source.role], source.image)
            for source in self.sources
            if source.role in self.mean
        }


class CaseFailure(Record):
    """Why a case is not in the store."""

    case_id: str
    stage: str
    """`read`, `prepare` or `store`; `worker` if its process died."""
    reason: str
    """The error's message."""
    peak_memory_mb: float | None
    """Of the worker; None if no worker had the case, or if it died."""


def parameters(manifest: Manifest) -> dict[str, object]:
    """What the arrays of a case depend on beside its files."""
    task = manifest.task
    return {
        "preprocessing_version": PREPROCESSING_VERSION,
        "crop": list(manifest.crop),
        "dtype": manifest.dtype,
        "margin": manifest.margin,
        "modalities": list(task.modalities),
        "labels": task.labels,
        "conventions": task.conventions,
        "by_values": list(task.by_values),
        "label_convention": manifest.label_convention,
        "label_map": manifest.label_map,
        "channels": list(manifest.stacked.channels),
        "spacing_mm": manifest.spacing_mm,
        "background": manifest.background,
        "orientation": "LPS",
    }


def differences(old: Manifest, new: Manifest) -> dict[str, tuple[object, object]]:
    """The parameters that two manifests have otherwise: name to both values."""
    before, after = parameters(old), parameters(new)
    return {n: (before[n], after[n]) for n in after if before[n] != after[n]}


def hash_of(value: object) -> str:
    """A short stable hash of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
