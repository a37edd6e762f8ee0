"""NIfTI in and out through SimpleITK: a volume and its geometry.

The one place that meets (x, y, z): everything that leaves it is (D, H, W) = (z, y, x).
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the library's own habit
from isal import isal_zlib
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from common.errors import Finding, InputError

sitk.ProcessObject.SetGlobalWarningDisplay(False)

GZIP_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub lacks type[]
GZIP_WINDOW = 31
"""zlib's window size of 15 bits, plus 16 for a gzip header and its checksum."""

LFS_POINTER = b"version https://git-lfs"

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

TOLERANCE_MM = 1e-2
"""Two grids that differ by less are the same: NIfTI keeps its geometry in float32."""


@dataclass(frozen=True)
class Geometry:
    """Where a volume's voxels are.

    Attributes:
        shape: (D, H, W).
        spacing_mm: (z, y, x), along the array's own axes.
        origin_mm: physical (x, y, z) of voxel (0, 0, 0), LPS.
        direction: nine cosines, row-major, columns for the file's (i, j, k) axes, LPS.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: tuple[float, ...] = IDENTITY

    def matches(self, other: "Geometry") -> bool:
        """Whether both describe one grid, to NIfTI's own precision."""
        return (
            self.shape == other.shape
            and np.allclose(self.spacing_mm, other.spacing_mm, atol=1e-3)
            and np.allclose(self.origin_mm, other.origin_mm, atol=TOLERANCE_MM)
            and np.allclose(self.direction, other.direction, atol=1e-3)
        )


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its voxels are read; sizes and spacings are (…, z, y, x).

    `geometry` is that of the first three axes.
    """

    shape: tuple[int, ...]
    components: int
    voxel_type: str
    geometry: Geometry


class Volume(NamedTuple):
    """A file's voxels (D, H, W) in the file's own type, where they are, and the file's sha256."""

    voxels: NDArray[np.generic]
    geometry: Geometry
    sha256: str


BRATS_GEOMETRY = Geometry((155, 240, 240), (1.0, 1.0, 1.0), (0.0, -239.0, 0.0))


def _reason(error: RuntimeError) -> str:
    """The last line of an ITK error: the others name its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def read_header(path: Path) -> Header:
    """Size, spacing and voxel type of an image file, without its voxels.

    Raises:
        InputError: the file is no image that ITK can read.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, f"no readable image ({_reason(error)})") from error
    size, spacing = reader.GetSize(), reader.GetSpacing()
    dimension = len(size)
    if dimension < 3:
        raise InputError(
            Finding(
                str(path),
                f"{dimension} axes of {tuple(reversed(size))}",
                "a 3-D volume",
                "export the whole volume",
            )
        )
    direction = np.asarray(reader.GetDirection()).reshape(dimension, dimension)[:3, :3]
    geometry = Geometry(
        (size[2], size[1], size[0]),
        (spacing[2], spacing[1], spacing[0]),
        tuple(reader.GetOrigin()[:3]),
        tuple(float(cosine) for cosine in direction.ravel()),
    )
    _refuse_nonsense(path, geometry)
    return Header(
        shape=tuple(reversed(size)),
        components=reader.GetNumberOfComponents(),
        voxel_type=sitk.GetPixelIDValueAsString(reader.GetPixelID()),
        geometry=geometry,
    )


def _refuse_nonsense(path: Path, geometry: Geometry) -> None:
    numbers = (*geometry.spacing_mm, *geometry.origin_mm, *geometry.direction)
    if not np.isfinite(numbers).all() or min(geometry.spacing_mm) <= 0:
        raise _damaged(path, f"spacing {geometry.spacing_mm} mm, direction {geometry.direction}")


def read(path: Path) -> Volume:
    """Read a whole volume, checking every byte of it.

    The file is decompressed here and not by ITK, because ITK fills the missing part of a
    truncated gzip stream with zeros and says nothing. The geometry is ITK's reading of the header.

    Raises:
        InputError: the file is missing, damaged, or not one scalar 3-D volume.
    """
    content = _content(path)
    try:
        data = _decompressed(content)
    except (GZIP_ERROR, EOFError) as error:
        raise _damaged(path, f"damaged: {error}") from error
    header = read_header(path)
    if len(header.shape) != 3 or header.components != 1:
        raise InputError(
            Finding(
                str(path),
                f"{len(header.shape)} axes of {header.shape}, {header.components} value(s) a voxel",
                "one scalar 3-D volume a file",
                "split it into one file a modality",
            )
        )
    if math.prod(header.shape) > len(data):
        raise _damaged(path, f"damaged: {len(data)} bytes for {header.shape} voxels")
    try:
        # (x, y, z) in Fortran order is (z, y, x) in C order: the transpose copies nothing. ITK
        # leaves out a fourth axis of size 1, nibabel does not.
        stored = np.asarray(nibabel.Nifti1Image.from_bytes(data).dataobj).T.reshape(header.shape)
    except (HeaderDataError, ValueError, OSError) as error:
        raise _damaged(path, f"damaged: {' '.join(str(error).split())}") from error
    voxels = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    return Volume(voxels, header.geometry, hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"unreadable: {error.strerror}") from error
    if not content:
        raise _damaged(path, "an empty file")
    if content.startswith(LFS_POINTER):
        raise _damaged(path, "a git-LFS pointer, the image itself was never fetched")
    return content


def _damaged(path: Path, found: str) -> InputError:
    return InputError(Finding(str(path), found, "a whole NIfTI volume", "fetch or export it again"))


def _decompressed(content: bytes) -> bytes:
    """A file's bytes without gzip, if it is gzip: some tools write it in several members."""
    members = []
    rest = content
    while _is_gzip(rest):
        member = isal_zlib.decompressobj(GZIP_WINDOW)
        members.append(member.decompress(rest))
        if not member.eof:
            raise EOFError("incomplete or truncated stream")
        rest = member.unused_data
    if not members:
        return content
    return members[0] if len(members) == 1 else b"".join(members)


def _is_gzip(content: bytes) -> bool:
    return content[:2] == b"\x1f\x8b"


def write(path: Path, array: NDArray[np.generic], geometry: Geometry) -> None:
    """Write (D, H, W) voxels as NIfTI; a `.gz` name compresses.

    Raises:
        ValueError: the array is not of the geometry's shape.
    """
    if array.shape != geometry.shape:
        raise ValueError(f"array {array.shape} is not of its geometry's shape {geometry.shape}")
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(tuple(reversed(geometry.spacing_mm)))
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    sitk.WriteImage(image, str(path), useCompression=True)
