"""`predictions.json` beside masks: from what each was made, so that none is made twice."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from common import __version__
from common.errors import RunError
from common.files import read_text, sha256, write_text
from common.record import CaseWarning, DecidedBy, hash_of, parameters

if TYPE_CHECKING:  # reading the file needs no torch, which takes seconds to import
    from torch import nn

    from train.ensemble import Predictor
    from train.loaded_run import LoadedRun

PREDICTIONS = "predictions.json"


class PredictedCase(BaseModel):
    """One case's files, what they were made from, and what is to be said about them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str
    """Hash of the case's images and of all that decides how they are read."""
    settings: str
    """Key of `PredictionsFile.settings`."""
    picked: str = ""
    """How a budget made it predict, in words."""
    files: dict[str, str]
    """Name of each file to its SHA-256; the mask's first."""
    convention: str
    """Of the mask's values."""
    convention_from: DecidedBy
    warnings: tuple[CaseWarning, ...]
    """About its images."""

    def is_of(self, input_hash: str, settings: str, paths: Iterable[Path]) -> bool:
        """Whether the files at `paths` are there, as they were made from this."""
        return (self.input, self.settings) == (input_hash, settings) and all(
            path.is_file() and sha256(path) == self.files.get(path.name) for path in paths
        )


class PredictionsFile(BaseModel):
    """All that was predicted into one folder."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, dict[str, Any]] = {}
    """Hash of runs and settings to what they are, for people."""
    cases: dict[str, PredictedCase] = {}

    @classmethod
    def read(cls, folder: Path) -> "PredictionsFile":
        """The file of a folder; empty if there is none.

        Raises:
            RunError: it cannot be read.
        """
        path = folder / PREDICTIONS
        if not os.path.lexists(path):
            return cls()
        try:
            return cls.model_validate_json(read_text(path))
        except (OSError, ValidationError) as error:
            raise RunError(
                f"{path}: not written by this version of predict, or damaged: move it away, and "
                "all cases are predicted again, or name another folder"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the file of a folder, whole or not at all."""
        used = {case.settings for case in self.cases.values()}
        self.settings = {key: value for key, value in self.settings.items() if key in used}
        write_text(folder / PREDICTIONS, self.model_dump_json(indent=2) + "\n")


def key_of(settings: Mapping[str, Any]) -> str:
    """Hash of what `settings_of` gives; a run that was moved is the same run."""
    members = [{**member, "run": ""} for member in settings["members"]]
    return hash_of({**settings, "members": members})


def settings_of(predictor: "Predictor", budget_seconds: float | None) -> dict[str, Any]:
    """All that predictions depend on beside their input."""
    return {
        "software": __version__,
        "members": [_member(each) for each in predictor.members],
        "budget_seconds": budget_seconds,
    }


def _member(loaded: "LoadedRun") -> dict[str, Any]:
    return {
        "run": str(loaded.run_dir),
        "checkpoint": loaded.which,
        "epochs": loaded.epochs,
        "weights": loaded.config.weights_used,
        "weights_sha256": _weights_sha256(loaded.model),
        "modalities": list(loaded.needed),
        "regions": loaded.task.regions,
        "inference": loaded.config.inference.model_dump(mode="json"),
        "precision": loaded.compute.precision,
        "preprocessing": hash_of(parameters(loaded.manifest)),
    }


def _weights_sha256(model: "nn.Module") -> str:
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
