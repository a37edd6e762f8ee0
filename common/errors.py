"""Errors that a user can mend; the command lines print them without a traceback."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.names import show


class FMNetError(Exception):
    """An error that a user can mend: the message says what was found and what to do."""


class StoreError(FMNetError):
    """The store is missing, incomplete, corrupt, or held by another run."""


class UnsafeError(StoreError):
    """A part of a store is a link, or has a name that leads elsewhere: it is left alone."""


class LoaderError(FMNetError):
    """The processes that read training's samples died or were stuck."""


class DivergedError(FMNetError):
    """The loss or its gradients stayed non-finite."""


class OutOfMemoryError(FMNetError):
    """The network and its batch do not fit into the device's memory."""


class CheckpointError(FMNetError):
    """A checkpoint is missing, damaged, or belongs to another network."""


class ModelFileError(FMNetError):
    """A model file is damaged, foreign, or of another version."""


class InferenceError(FMNetError):
    """A network's output cannot be used."""


class PredictionError(FMNetError):
    """Some cases have no mask."""


class RunError(FMNetError):
    """There is no run folder."""


class ConfigError(FMNetError, ValueError):
    """A wrong manifest, preset or `--set` override."""


def lacked_memory(error: BaseException) -> bool:
    """Whether an error is that of no memory; an import has the words of the system's loader."""
    return isinstance(error, MemoryError) or "failed to map segment" in str(error)


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one file: a line of `check`."""

    file: str
    found: str
    expected: str
    action: str
    case: str = "-"
    """Case id; `-` if the file belongs to none."""
    severity: Literal["error", "warning"] = "error"
    """An error excludes the case or the cohort; a warning does not."""

    def __str__(self) -> str:
        return show(f"{self.file}: {self.found}; expected {self.expected}: {self.action}")


def warning(path: Path, found: str, expected: str, action: str) -> Finding:
    """A finding that does not exclude its case."""
    return Finding(str(path), found, expected, action, severity="warning")


WHOLE = "(the cohort)"
"""In place of a file, in findings about several cases."""


def cohort_warning(found: str, expected: str, action: str) -> Finding:
    """A warning about several cases."""
    return Finding(WHOLE, found, expected, action, severity="warning")


class InputError(FMNetError, ValueError):
    """Files that cannot be used, with a finding for everything that is wrong with them."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(*findings)
        self.findings = findings

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)
