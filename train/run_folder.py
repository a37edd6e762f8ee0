"""The files of a run's folder beside its checkpoints: each is what the run wrote, or an error.

They carry a checksum: a file that is torn or changed would otherwise be other settings, silently.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import ConfigDict, Field, field_validator

from common import hints
from common.errors import InputError, RunError
from common.files import (
    UNFINISHED,
    kind_fault,
    read_json,
    read_text,
    reason_of,
    write_json,
    write_text,
)
from common.manifest import Manifest
from common.names import name_fault
from common.settings import Settings, parse, read_yaml
from common.splits import SPLITS
from train.config import TrainConfig
from train.postprocess import PostprocessConfig

T = TypeVar("T")

CONFIG = "config.yaml"
MANIFEST = "manifest.yaml"
RUN_FILE = "run.json"
TUNED = "postprocessing.yaml"
"""What `tune` picked, which replaces values of the configuration."""

SEAL = "# sha256 of the lines above: "
"""Begins the last line of a YAML file."""
DIGEST = "sha256"
"""The last key of a JSON file: a checksum of the others."""


class SessionRecord(Settings):
    """One start of a run."""

    model_config = ConfigDict(strict=True)

    started: str
    """Date and time, UTC."""
    command: str
    epoch: int
    """The epoch in which it began."""
    compute: str
    """Device and precision."""
    loader: str
    workers: int
    cache: str
    versions: dict[str, str]
    """Package to version."""


class InitRecord(Settings):
    """What a run's training began with."""

    model_config = ConfigDict(strict=True)

    source: str
    """The model file, or another run's folder."""
    sha256: str
    """Of that file, or of that run's checkpoint."""
    lines: list[str]
    """What was kept and what is new."""


class RunFile(Settings):
    """What a run is, beside its configuration and its manifest."""

    model_config = ConfigDict(strict=True)

    preset: str
    seed: int
    init: InitRecord | None
    """The model that training began with; null for fresh weights."""
    store: str
    """Path or URL of the store that it is trained on."""
    store_fingerprint: str
    cases: dict[str, list[str]]
    """Split to case ids."""
    sessions: list[SessionRecord] = Field(min_length=1)

    @field_validator("cases")
    @classmethod
    def _check_cases(cls, cases: dict[str, list[str]]) -> dict[str, list[str]]:
        if {*cases} != {*SPLITS}:
            raise ValueError(f"must have {', '.join(SPLITS)}")
        for case_id in (case_id for members in cases.values() for case_id in members):
            if fault := name_fault(case_id):
                raise ValueError(f"{case_id!r} is {fault}, and no case id")
        return cases


def check_run(run_dir: Path) -> None:
    """Check that a folder is that of a run.

    Raises:
        RunError: it is not.
    """
    if os.path.lexists(run_dir) and not run_dir.is_dir():
        found = kind_fault(run_dir) or "a file"
        raise RunError(f"{run_dir}: {found}; name a run's folder, or a model file")
    if not run_dir.is_dir():
        train = hints.train(run=run_dir)
        raise RunError(f"{run_dir}: no such run; train one with `{train}`, or name another")
    absent = [name for name in (CONFIG, MANIFEST, RUN_FILE) if not os.path.lexists(run_dir / name)]
    if absent:
        raise RunError(
            f"{run_dir}: not a run folder, {' and '.join(absent)} missing; name a folder that "
            f"`{hints.train(run='RUN')}` wrote"
        )


def read_config(run_dir: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """A run's configuration, with `key=value` overrides on top.

    Raises:
        RunError: the file is missing, torn or changed.
        ConfigError: it is of another version, or an override is wrong.
    """
    path = run_dir / CONFIG
    return parse(TrainConfig, read_yaml(_unsealed(path), str(path)), str(path), overrides)


def read_manifest(run_dir: Path) -> Manifest:
    """How a run's cases were preprocessed.

    Raises:
        RunError, ConfigError: as `read_config`.
    """
    path = run_dir / MANIFEST
    return parse(Manifest, read_yaml(_unsealed(path), str(path)), str(path))


def read_run_file(run_dir: Path) -> RunFile:
    """What a run is, beside its configuration and its manifest.

    Raises:
        RunError, ConfigError: as `read_config`.
    """
    path = run_dir / RUN_FILE
    values = _read(path, read_json)
    if not isinstance(values, dict) or values.pop(DIGEST, None) != _digest(json.dumps(values)):
        raise _changed(path)
    return parse(RunFile, values, str(path))


def read_tuned(run_dir: Path) -> PostprocessConfig:
    """What `tune` picked for a run; nothing if it did not.

    Raises:
        RunError, ConfigError: as `read_config`.
    """
    path = run_dir / TUNED
    if not os.path.lexists(path):
        return PostprocessConfig()
    return parse(PostprocessConfig, read_yaml(_unsealed(path), str(path)), str(path))


def write_config(run_dir: Path, config: TrainConfig) -> None:
    """Write what `read_config` reads."""
    _write_sealed(run_dir / CONFIG, config.to_yaml())


def write_manifest(run_dir: Path, manifest: Manifest) -> None:
    """Write what `read_manifest` reads."""
    _write_sealed(run_dir / MANIFEST, manifest.to_yaml())


def write_run_file(run_dir: Path, run: RunFile) -> None:
    """Write what `read_run_file` reads."""
    values = run.model_dump(mode="json")
    write_json(run_dir / RUN_FILE, values | {DIGEST: _digest(json.dumps(values))})


def write_tuned(run_dir: Path, config: PostprocessConfig, comment: str) -> Path:
    """Write what `read_tuned` reads, with a comment above it; returns the file."""
    path, values = run_dir / TUNED, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    _write_sealed(path, f"# {comment}\n{values}")
    return path


@contextmanager
def explained(run_dir: Path) -> Iterator[None]:
    """Raise an error of the disk, while a run's folder is written, as one that says what to do.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        other = hints.option("--out", "…", variable="RUN")
        raise RunError(
            f"{run_dir}: cannot be written ({error.strerror}); make room or make it writable, and "
            f"resume with {hints.option('--resume')}, or name another folder with {other}"
        ) from error


def remove_unfinished(run_dir: Path) -> None:
    """Remove what a killed process left half written in a run's folder, whose lock is held."""
    for path in run_dir.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _write_sealed(path: Path, text: str) -> None:
    write_text(path, f"{text}{SEAL}{_digest(text)}\n")


def _unsealed(path: Path) -> str:
    text, _, digest = _read(path, read_text).rpartition(SEAL)
    if digest.strip() != _digest(text):
        raise _changed(path)
    return text


def _read(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (InputError, OSError) as error:
        raise RunError(f"{path}: {reason_of(error)}; {_restore(path)}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _changed(path: Path) -> RunError:
    return RunError(
        f"{path}: torn or changed since it was written, by its checksum; {_restore(path)}"
    )


def _restore(path: Path) -> str:
    again = "move it away and tune again" if path.name == TUNED else "train again"
    return f"restore it from a copy (values are changed with --set), or {again}"
