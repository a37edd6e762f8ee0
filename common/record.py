"""What the store knows of one case: the record whose presence is the commit."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from common.geometry import Geometry
from common.manifest import Manifest
from common.task import REGIONS
from common.volume import Box, Triple

DecidedBy = Literal["values", "names", "layout", "manifest", "task"]

PREPROCESSING_VERSION = 2
"""Raised when the same sources and manifest would give other arrays."""


class Source(BaseModel):
    """A file that a case was made from.

    `file` is its name without its folder. Size and time of change let a rerun pass over files
    that were not touched without reading them; where either differs, the checksum decides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: str
    file: str
    sha256: str
    size_bytes: int
    modified_ns: int


class TumourVoxels(BaseModel):
    """Voxels per region: in the whole 1 mm grid, the stored box, the crop, and a centred crop.

    The centred crop is the one that would be taken without looking at the label; it is kept to
    show what that would cost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    native: dict[str, int]
    box: dict[str, int]
    crop: dict[str, int]
    centred_crop: dict[str, int]

    @property
    def missed(self) -> dict[str, int]:
        """Tumour outside the stored box per region, which every whole-volume score counts."""
        return {region: self.native[region] - self.box[region] for region in REGIONS}

    def lost(self, window: Literal["box", "crop", "centred_crop"]) -> float:
        """Fraction of the whole tumour outside a window; 0 where there is no tumour."""
        kept: dict[str, int] = getattr(self, window)
        return 1 - kept["wt"] / self.native["wt"] if self.native["wt"] else 0.0


class Note(BaseModel):
    """Something odd about a file that does not keep its case out, as `check` says it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    found: str
    action: str


class CaseRecord(BaseModel):
    """Everything needed to use, check, and undo the preprocessing of one case.

    Attributes:
        case_id: the case.
        patient: whose case it is.
        row: index into the store's `crops`; None while the case is in no store.
        has_label: an expert label was there.
        has_volume: the whole volume is stored.
        convention: how the label file is written, and how predictions for it are.
        convention_from: what decided that.
        sources: the files, with checksums.
        geometry: the files' own grid.
        grid_shape: (D, H, W) of the LPS grid of 1 mm, in which box and crop count.
        box: the stored whole volume.
        crop: the window that training streams.
        mean: per modality, over its non-zero voxels in its own grid.
        std: likewise.
        tumour_voxels: None without a label.
        checksums: array to CRC-32 of its bytes, filled in when stored.
        parameter_hash: what the arrays depend on beside the sources.
        software: versions that made them.
        notes: what was odd about the files; stores from before there were notes have none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case_id: str
    patient: str
    row: int | None = None
    has_label: bool
    has_volume: bool = False
    convention: str
    convention_from: DecidedBy
    sources: tuple[Source, ...]
    geometry: Geometry
    grid_shape: Triple
    box: Box
    crop: Box
    mean: dict[str, float]
    std: dict[str, float]
    tumour_voxels: TumourVoxels | None
    checksums: dict[str, str] = {}
    parameter_hash: str
    software: dict[str, str]
    notes: tuple[Note, ...] = ()


class CaseFailure(BaseModel):
    """Why a case is not in the store.

    Attributes:
        case_id: the case.
        stage: what was being done: read, prepare or store.
        reason: the error's own words.
        peak_memory_mb: the most that the worker held while at it; None if no worker came to it, or
            if it died.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case_id: str
    stage: str
    reason: str
    peak_memory_mb: float | None


def parameters(manifest: Manifest) -> dict[str, object]:
    """What the arrays of a case depend on beside its files; splits are no part of it."""
    return {
        "preprocessing_version": PREPROCESSING_VERSION,
        "crop": list(manifest.crop),
        "dtype": manifest.dtype,
        "margin": manifest.margin,
        "label_convention": str(manifest.label_convention),
        "channels": list(manifest.stacked.channels),
        "spacing_mm": 1.0,
        "orientation": "LPS",
    }


def hash_of(value: object) -> str:
    """A short stable hash of a JSON-like value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
