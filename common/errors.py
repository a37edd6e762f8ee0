"""What a user can cause. The command lines print these without a traceback."""

from dataclasses import dataclass
from typing import Literal


class FMNetError(Exception):
    """Anything a user can cause and mend: the message says what was found and what to do."""


class StoreError(FMNetError):
    """The store is missing, incomplete, corrupt, or held by another run."""


class LoaderError(FMNetError):
    """The processes that read training's samples died, or were ended since they were stuck."""


class DivergedError(FMNetError):
    """The loss or its gradients stayed non-finite."""


class OutOfMemoryError(FMNetError):
    """The network and its batch do not fit into the device's memory."""


class CheckpointError(FMNetError):
    """A checkpoint is missing, damaged, or belongs to another network."""


class InferenceError(FMNetError):
    """A network's output cannot be used."""


class RunError(FMNetError):
    """A run folder is missing, or not one."""


class ConfigError(FMNetError, ValueError):
    """A manifest, a preset or a `--set` override does not say what it must."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one file: a line of `check`."""

    file: str
    found: str
    expected: str
    action: str
    """What to do about it."""
    case: str = "-"
    """Case id; `-` if the file belongs to none."""
    severity: Literal["error", "warning"] = "error"
    """An error keeps the case out, or makes the cohort unusable; a warning does neither."""

    def __str__(self) -> str:
        return f"{self.file}: {self.found}; expected {self.expected}: {self.action}"


class InputError(FMNetError, ValueError):
    """Files that cannot be used; `findings` has everything that is wrong with them."""

    def __init__(self, *findings: Finding) -> None:
        super().__init__(*findings)
        self.findings = findings

    def __str__(self) -> str:
        return "\n".join(str(finding) for finding in self.findings)
