"""A trained model as one file: a zip of weights, description and model card, without code.

Its members are stored as they are, in a fixed order, so equal models are equal files. Nothing is
unpacked to the disk, and no size in the file is believed before it is compared with its bound.
"""

import hashlib
import json
import stat
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_as_bytes
from torch import Tensor

from common.errors import ModelFileError
from common.files import kind_fault, replacing
from common.manifest import Manifest
from common.names import show
from common.record import PREPROCESSING_VERSION
from common.settings import Settings, parse
from train.checkpoint import Which, weights_of
from train.config import TrainConfig
from train.postprocess import PostprocessConfig

ENDING = ".fmnet"
FORMAT = 1

MODEL, WEIGHTS, CARD, CARD_TEXT, SUMS = (
    *("model.json", "weights.safetensors", "card.json", "card.md"),
    "SHA256SUMS",
)
MEMBERS = (MODEL, WEIGHTS, CARD, CARD_TEXT, SUMS)

MOST_BYTES = 1 << 31
"""Of a file, and so of its weights: ten times FM-Net's."""
MOST_TEXT = 1 << 20
"""Bytes of every other member, and of the list of members."""
MOST_MEMBERS = 64
"""A zip with more is not listed to find which of them is odd."""

WRITTEN = (1980, 1, 1, 0, 0, 0)
"""The time of every member, so that a file depends on the model alone."""

_END = struct.Struct("<4s16x 4s4xHHLL2x")
"""The last 42 bytes of a zip without a comment, whose locator of a 64-bit end is not wanted."""


class Training(Settings):
    """Where the weights are from."""

    checkpoint: Which
    epochs: int = Field(ge=0)
    store_fingerprint: str
    cases: dict[str, int]
    """Split to how many; their names stay with the run."""
    split: str
    """A hash of the splits' lists of cases: who has the same store knows the lists again."""
    compute: str
    """Device and precision."""
    versions: dict[str, str]
    init: str | None = None
    """SHA-256 of the weights that training began with."""


class Description(Settings):
    """`model.json`: all that predictions depend on, and where the weights are from."""

    format: Literal[1] = 1
    preprocessing_version: int = PREPROCESSING_VERSION
    normalisation: Literal["z-score of each image's non-zero voxels"] = (
        "z-score of each image's non-zero voxels"
    )
    config: TrainConfig
    manifest: Manifest
    postprocess: PostprocessConfig
    """What `tune` picked: thresholds and smallest volumes, on top of the configuration's."""
    training: Training


@dataclass(frozen=True)
class Model:
    """What a model file holds for predictions."""

    description: Description
    weights: dict[str, Tensor]


def write(
    path: Path, description: Description, weights: Mapping[str, Tensor], card: Mapping[str, str]
) -> None:
    """Write a model file; `card` has the text of both cards by member."""
    text = description.model_dump_json(indent=2) + "\n"
    content = {MODEL: text.encode(), WEIGHTS: tensors_as_bytes(dict(weights))}
    content |= {name: card[name].encode() for name in (CARD, CARD_TEXT)}
    sums = [f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in MEMBERS[:-1]]
    content[SUMS] = "".join(sums).encode()
    with replacing(path, sync=True) as beside, zipfile.ZipFile(beside, "x") as archive:
        for name in MEMBERS:
            member = zipfile.ZipInfo(name, WRITTEN)
            member.create_system, member.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, content[name])


def is_named(path: Path) -> bool:
    """Whether a path names a model file, which may not be there, and no run's folder."""
    return path.is_file() or (path.suffix.lower() == ENDING and not path.is_dir())


def read(path: Path) -> Model:
    """Read and verify a model file.

    Raises:
        ModelFileError: it is damaged, of another format, or no model file.
        ConfigError: its description is not one of this version.
    """
    with _Archive(path) as archive:
        sums = archive.sums()
        description = archive.description(sums)
        expected = _expected(description)
        least = 4 * sum(shape.numel() for shape in expected.values())
        if archive.size(WEIGHTS) > least + MOST_TEXT:
            raise archive.damaged(
                f"{WEIGHTS} has {archive.size(WEIGHTS):,} bytes, its network {least:,}"
            )
        content = archive.member(WEIGHTS, sums)
    try:
        weights = load_tensors(content)
    except SafetensorError as error:
        raise archive.damaged(f"{WEIGHTS}: {error}") from error
    _check_weights(archive, weights, expected)
    return Model(description, weights)


def describe(path: Path) -> Description:
    """The description of a model file alone.

    Raises:
        ModelFileError, ConfigError: as `read`.
    """
    with _Archive(path) as archive:
        return archive.description(archive.sums())


class _Archive:
    """The members of a model file, refused if they are not exactly those that `write` writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> "_Archive":
        if found := kind_fault(self.path):
            raise ModelFileError(
                f"{self.path}: {found}; name a model file, which `fmnet-train export RUN FILE` "
                "writes"
            )
        self._check_end()
        try:
            self._zip = zipfile.ZipFile(self.path)
        except (*_ZIP_ERRORS, OSError) as error:
            raise self.damaged(f"{error}") from error
        members = self._zip.infolist()
        if names := [m.filename for m in members if m.filename not in MEMBERS]:
            raise self._foreign(f"holds {show(names[0])[:80]}")
        if [m.filename for m in members] != [*MEMBERS]:
            raise self._foreign("its members are doubled, missing or in another order")
        for member in members:
            self._check_member(member)
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def _check_end(self) -> None:
        """Look at the end of the zip before its list of members is read, which may be large."""
        size = self.path.stat().st_size
        if size > MOST_BYTES:
            raise self.damaged(f"{size / 1e9:.1f} GB; expected {MOST_BYTES / 1e9:.1f} GB at most")
        with self.path.open("rb") as file:
            file.seek(max(0, size - _END.size))
            end = file.read(_END.size)
        if len(end) < _END.size:
            raise self._foreign(f"has {size} bytes")
        locator, signature, _, count, listed, _ = _END.unpack(end)
        if signature != b"PK\5\6" or locator == b"PK\6\7":
            raise self._foreign("is no zip, or cut short")
        if count > MOST_MEMBERS or listed > MOST_TEXT:
            raise self._foreign(f"holds {count:,} files")

    def _check_member(self, member: zipfile.ZipInfo) -> None:
        kind = stat.S_IFMT(member.external_attr >> 16)
        most = MOST_BYTES if member.filename == WEIGHTS else MOST_TEXT
        faults = {
            "is encrypted": member.flag_bits & 1,
            "is compressed": member.compress_type != zipfile.ZIP_STORED,
            "is no regular file": kind != stat.S_IFREG,
            f"has {member.file_size:,} bytes": member.file_size > most,
            "has two sizes": member.file_size != member.compress_size,
        }
        if fault := next((fault for fault, has_it in faults.items() if has_it), None):
            raise self._foreign(f"its {member.filename} {fault}")

    def size(self, name: str) -> int:
        """Bytes of a member."""
        return self._zip.getinfo(name).file_size

    def sums(self) -> dict[str, str]:
        """SHA-256 of each other member."""
        text = self._content(SUMS).decode(errors="replace")
        pairs = [line.partition("  ") for line in text.splitlines()]
        sums = {name: digest for digest, _, name in pairs}
        if [*sums] != [*MEMBERS[:-1]] or len(pairs) != len(sums):
            raise self.damaged(f"{SUMS} does not list the other members")
        return sums

    def member(self, name: str, sums: Mapping[str, str]) -> bytes:
        """A member's content."""
        content = self._content(name)
        if hashlib.sha256(content).hexdigest() != sums[name]:
            raise self.damaged(f"{name} does not match its SHA-256")
        return content

    def _content(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except (*_ZIP_ERRORS, OSError) as error:
            raise self.damaged(f"{name}: {error}") from error

    def description(self, sums: Mapping[str, str]) -> Description:
        """`model.json`."""
        content = self.member(MODEL, sums)
        try:
            values = json.loads(content)
            written_as = values["format"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self.damaged(f"{MODEL} is no description of a model ({error})") from error
        if written_as != FORMAT:
            found = f"format {show(written_as)[:20]}, this version reads {FORMAT}"
            raise ModelFileError(f"{self.path}: {found}; use the version that wrote it")
        description = parse(Description, values, f"{self.path}: {MODEL}")
        if description.preprocessing_version != PREPROCESSING_VERSION:
            raise ModelFileError(
                f"{self.path}: its cases were preprocessed by version "
                f"{description.preprocessing_version}, this program has version "
                f"{PREPROCESSING_VERSION}; use the fm-net that wrote it"
            )
        return description

    def damaged(self, found: str) -> ModelFileError:
        """The error of a file that cannot be what was written."""
        return ModelFileError(f"{self.path}: damaged: {found}; copy or export it again")

    def _foreign(self, found: str) -> ModelFileError:
        return ModelFileError(
            f"{self.path}: no model file, or a damaged one: it {found}; expected what "
            "`fmnet-train export RUN FILE` writes"
        )


_ZIP_ERRORS = (
    *(zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, OverflowError),
    struct.error,
)
"""What `zipfile` raises for files that are damaged or made to harm."""


def _expected(description: Description) -> dict[str, torch.Size]:
    """Name to shape of every weight of the described network, which takes no memory."""
    config, task = description.config, description.manifest.task
    with torch.device("meta"):
        model = config.build_network(task, torch.device("meta"))
    return {name: value.shape for name, value in weights_of(model).items()}


def _check_weights(
    archive: _Archive, weights: Mapping[str, Tensor], expected: Mapping[str, torch.Size]
) -> None:
    if other := sorted(weights.keys() ^ expected.keys()):
        found = f"{len(other)} weights are missing or not its network's, such as {show(other[0])}"
        raise archive.damaged(found)
    for name, value in weights.items():
        if value.shape != expected[name] or value.dtype != torch.float32:
            raise archive.damaged(
                f"{name} is {value.dtype} {tuple(value.shape)}; expected float32 "
                f"{tuple(expected[name])}"
            )
