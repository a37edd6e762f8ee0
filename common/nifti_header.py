"""What a NIfTI file says of itself, before anything in it is believed."""

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError

from common import gunzip
from common.errors import Finding, InputError

LFS_POINTER = b"version https://git-lfs"

MOST_BYTES = 1 << 31
"""What the voxels of a file may take: four float32 modalities of 512³. A larger one is no head."""

TRAILING_BYTES = 1 << 12
"""What may follow the voxels: some tools pad their files."""

HEADER_BYTES, HEADER_BYTES_OF_NIFTI_2 = 348, 540

HEADER_READ = 1 << 16
"""What is read of a file for its header alone; compressed, it takes a few hundred bytes."""


class Header(NamedTuple):
    """What a file says of its voxels: (…, D, H, W), their type, first byte, and scaling.

    `block` is the header itself.
    """

    block: bytes
    shape: tuple[int, ...]
    voxel_type: np.dtype[np.generic]
    start: int
    scaling: tuple[float, float] | None

    @property
    def stop(self) -> int:
        """The byte after the last voxel."""
        return self.start + math.prod(self.shape) * self.voxel_type.itemsize


def read_content(path: Path, most: int = -1) -> tuple[bytes, os.stat_result]:
    """A file's bytes, and its state before they were read.

    The state is that of the file that was opened: another may take its name meanwhile.

    Args:
        path: the file.
        most: how many of its first bytes are wanted; -1 for all.

    Raises:
        InputError: it cannot be read, is empty, a pointer, or too large.
    """
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_size > MOST_BYTES + TRAILING_BYTES:
                raise _too_large(path, state.st_size)
            content = file.read(most)
    except OSError as error:
        raise damaged(path, f"unreadable: {error.strerror}") from error
    if not content:
        raise damaged(path, "an empty file")
    if content.startswith(LFS_POINTER):
        raise damaged(path, "a git-LFS pointer, the image itself was never fetched")
    return content, state


def nifti_fields(path: Path, content: bytes) -> Nifti1Header:
    """The header's fields as they are.

    Raises:
        InputError: the file does not begin as a NIfTI-1 file.
    """
    try:
        # All of it would be copied, as what is left.
        block = gunzip.beginning(content[:HEADER_READ], HEADER_BYTES)
    except gunzip.GunzipError as error:
        raise damaged(path, f"damaged: {error}") from error
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    if HEADER_BYTES_OF_NIFTI_2 in sizes:
        found, expected = "a NIfTI-2 file", "NIfTI-1, which all tools read"
        raise InputError(Finding(str(path), found, expected, "convert it to NIfTI-1"))
    if HEADER_BYTES not in sizes:
        raise damaged(path, f"no NIfTI header, it begins with {block[:12]!r}")
    if len(block) < HEADER_BYTES:
        raise damaged(path, f"damaged: {len(block)} bytes, less than a header has")
    header = Nifti1Header(block, check=False)
    if header["magic"].item() != b"n+1":
        found = f"a header with the magic {header['magic'].item()!r}"
        expected = "b'n+1', a NIfTI-1 file with its voxels in it"
        raise InputError(Finding(str(path), found, expected, "fetch it again or convert it"))
    return header


def header_of(path: Path, content: bytes, size: int) -> Header:
    """What is needed to find the voxels.

    Args:
        path: the file.
        content: its bytes, or its first ones.
        size: how many bytes it has.

    Raises:
        InputError: it is no header of a volume of numbers, or claims more than a file of this size
            can hold. A small file that does would fill the memory.
    """
    fields = nifti_fields(path, content)
    shape = _shape_of(path, fields)
    kind = fields.get_value_label("datatype")
    if not re.fullmatch(r"(u?int|float)\d+", kind):
        found, action = f"voxels of type {kind}", "export it as grey values"
        raise InputError(Finding(str(path), found, "one number a voxel", action))
    try:
        slope, intercept = fields.get_slope_inter()
    except HeaderDataError as error:
        raise damaged(path, f"damaged: {error}") from error
    start = float(fields["vox_offset"])
    if not HEADER_BYTES <= start <= MOST_BYTES:
        raise damaged(path, f"damaged: its voxels are said to begin at byte {start:g}")
    is_scaled = slope is not None and (slope, intercept) != (1, 0)
    scaling = (float(slope), float(intercept)) if is_scaled else None
    header = Header(fields.binaryblock, shape, fields.get_data_dtype(), int(start), scaling)
    possible = size * (gunzip.MOST_COMPRESSED if gunzip.is_gzip(content) else 1)
    if header.stop > MOST_BYTES:
        raise _too_large(path, header.stop, f" for {header.shape} voxels")
    if header.stop > possible:
        raise damaged(path, f"damaged: {size} bytes for {header.shape} voxels")
    return header


def _shape_of(path: Path, fields: Nifti1Header) -> tuple[int, ...]:
    """(…, D, H, W), without further axes of one voxel."""
    axes, *sizes = (int(size) for size in fields["dim"])
    shape = sizes[: max(axes, 0)]
    if not 1 <= axes <= 7 or min(shape) < 1:
        raise damaged(path, f"damaged: {axes} axes of {tuple(sizes)}")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    shape.reverse()
    if len(shape) < 3:
        found = f"{len(shape)} axes of {tuple(shape)}"
        raise InputError(Finding(str(path), found, "a 3-D volume", "export the whole volume"))
    return tuple(shape)


def damaged(path: Path, found: str) -> InputError:
    """The error of a file that is not what its name says."""
    return InputError(Finding(str(path), found, "a whole NIfTI volume", "fetch or export it again"))


def _too_large(path: Path, size: int, what: str = "") -> InputError:
    found, expected = f"{size / 1e9:,.1f} GB{what}", f"a head: {MOST_BYTES / 1e9:.1f} GB at most"
    return InputError(Finding(str(path), found, expected, "mend its header, or crop it"))
