"""Reading and writing NIfTI, with headers checked before the voxels are read.

Only here axes are in the order of the file, (x, y, z): arrays are (D, H, W) = (z, y, x).
"""

import hashlib
import itertools
import math
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the library's own habit
from isal import isal_zlib
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from common import gunzip
from common.errors import Finding, InputError
from common.files import open_regular, write_parts
from common.geometry import Geometry, HeaderFields, Vector, format_vector
from common.volume import Triple, triple

sitk.ProcessObject.SetGlobalWarningDisplay(False)

LFS_POINTER = b"version https://git-lfs"

MOST_BYTES = 1 << 31
"""Largest size of a case's images in memory: four float32 modalities of 512³."""

MOST_START = 1 << 26
"""Largest first byte of the voxels: extensions of some tools are a few megabytes."""

TRAILING_BYTES = 1 << 12
"""Most bytes after the voxels: some tools pad their files."""

HEADER_BYTES, HEADER_BYTES_OF_NIFTI_2 = 348, 540

HEADER_READ = 1 << 16
"""Bytes read for the header alone; compressed, it has a few hundred."""

FORMS = {
    "sform": ("srow_x", "srow_y", "srow_z"),
    "qform": ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
}
"""Fields of each form."""

PLACE_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *(name for names in FORMS.values() for name in names),
)
"""Fields of a header that tell where its voxels are."""

WRITTEN_START = 352
"""First byte of the voxels that `write` writes: the header, and four bytes for "no extension"."""

GZIP_LEVEL = 1
"""ISA-L's: as small as zlib's usual one for images, in a tenth of the time."""

MOST_IN_FORM = 1e9
"""Largest number of a form: ITK may compute for ever with larger ones, and with infinity."""

FORMS_MM = 0.1
"""An sform and a qform that differ by more are of different places."""


class _Header(NamedTuple):
    block: bytes
    """The 348 bytes."""
    shape: tuple[int, ...]
    """(…, D, H, W)."""
    voxel_type: np.dtype[np.generic]
    start: int
    """First byte of the voxels."""
    scaling: tuple[float, float] | None
    """Slope and intercept."""

    @property
    def stop(self) -> int:
        """The byte after the last voxel."""
        return self.start + math.prod(self.shape) * self.voxel_type.itemsize

    @property
    def memory_bytes(self) -> int:
        """What its voxels take when they are scaled, which makes them float64."""
        return math.prod(self.shape) * (8 if self.scaling else self.voxel_type.itemsize)


def _read_content(path: Path, most: int = -1) -> tuple[bytes, os.stat_result]:
    """A file's first `most` bytes (all for -1), and its state before they were read.

    The state is that of the opened file, since another file may replace it.
    """
    try:
        with open_regular(path) as file:
            state = os.fstat(file.fileno())
            if state.st_size > MOST_BYTES + TRAILING_BYTES:
                raise _too_large(path, state.st_size)
            content = file.read(most)
    except OSError as error:
        raise _damaged(path, f"unreadable: {error.strerror}") from error
    if not content:
        raise _damaged(path, "an empty file")
    if content.startswith(LFS_POINTER):
        raise _damaged(path, "a git-LFS pointer, the image was not fetched")
    return content, state


def _nifti_fields(path: Path, content: bytes) -> Nifti1Header:
    try:
        # Only the start, because the decompressor copies what it does not use.
        block = gunzip.beginning(content[:HEADER_READ], HEADER_BYTES)
    except gunzip.GunzipError as error:
        raise _damaged(path, f"damaged: {error}") from error
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    if HEADER_BYTES_OF_NIFTI_2 in sizes:
        found, expected = "a NIfTI-2 file", "NIfTI-1, which all tools read"
        raise InputError(Finding(str(path), found, expected, "convert it to NIfTI-1"))
    if HEADER_BYTES not in sizes:
        raise _damaged(path, f"no NIfTI header, it begins with {block[:12]!r}")
    if len(block) < HEADER_BYTES:
        raise _damaged(path, f"damaged: {len(block)} bytes, fewer than a header has")
    header = Nifti1Header(block, check=False)
    if header["magic"].item() != b"n+1":
        found = f"a header with the magic {header['magic'].item()!r}"
        expected = "b'n+1', a NIfTI-1 file that contains its voxels"
        raise InputError(Finding(str(path), found, expected, "fetch it again or convert it"))
    return header


def _checked_header(path: Path, content: bytes, size_bytes: int, others_bytes: int = 0) -> _Header:
    """The header of a file of this size, which begins with `content`.

    One with more voxels than such a file can hold is refused, or than fit beside the case's others:
    they would fill the memory.
    """
    fields = _nifti_fields(path, content)
    shape = _shape_of(path, fields)
    kind = fields.get_value_label("datatype")
    if not re.fullmatch(r"(u?int|float)\d+", kind):
        found, action = f"voxels of type {kind}", "export it as grey values"
        raise InputError(Finding(str(path), found, "one number a voxel", action))
    try:
        slope, intercept = fields.get_slope_inter()
    except HeaderDataError as error:
        raise _damaged(path, f"damaged: {error}") from error
    start = float(fields["vox_offset"])
    if not HEADER_BYTES <= start <= MOST_START:
        raise _damaged(path, f"damaged: its voxels begin at byte {start:.10g} (vox_offset)")
    is_scaled = slope is not None and (slope, intercept) != (1, 0)
    scaling = (float(slope), float(intercept)) if is_scaled else None
    header = _Header(fields.binaryblock, shape, fields.get_data_dtype(), int(start), scaling)
    possible = size_bytes * (gunzip.MOST_COMPRESSED if gunzip.is_gzip(content) else 1)
    if max(header.stop, others_bytes + header.memory_bytes) > MOST_BYTES:
        beside = f", beside {others_bytes / 1e9:,.1f} GB of other images" if others_bytes else ""
        raise _too_large(path, header.memory_bytes, f" for {shape} voxels{beside}")
    if header.stop > possible:
        raise _damaged(path, f"damaged: {size_bytes} bytes for {shape} voxels")
    return header


def _shape_of(path: Path, fields: Nifti1Header) -> tuple[int, ...]:
    """(…, D, H, W), without further axes of one voxel."""
    axes, *sizes = (int(size) for size in fields["dim"])
    shape = sizes[: max(axes, 0)]
    if not 1 <= axes <= 7 or min(shape) < 1:
        raise _damaged(path, f"damaged: {axes} axes of {tuple(sizes)}")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    shape.reverse()
    if len(shape) < 3:
        found = f"{len(shape)} axes of {tuple(shape)}"
        raise InputError(Finding(str(path), found, "a 3-D volume", "export the whole volume"))
    return tuple(shape)


def _damaged(path: Path, found: str) -> InputError:
    return InputError(Finding(str(path), found, "a whole NIfTI volume", "fetch or export it again"))


def _too_large(path: Path, size: int, what: str = "") -> InputError:
    found = f"{size / 1e9:,.1f} GB{what}"
    expected = f"{MOST_BYTES / 1e9:.1f} GB at most, in memory, for all images of a case"
    return InputError(Finding(str(path), found, expected, "correct its header, or crop it"))


class ReadFile(NamedTuple):
    """Checksum and state of a file when it was read."""

    sha256: str
    size_bytes: int
    modified_ns: int


class Volume(NamedTuple):
    """A file's voxels and their geometry."""

    voxels: NDArray[np.generic]
    """(D, H, W), of the file's own type; read-only."""
    geometry: Geometry
    orientation_warning: str | None
    """In words, why the header does not clearly place the volume."""
    file: ReadFile


def read(path: Path, others_bytes: int = 0) -> Volume:
    """Read a whole volume and check every byte of it.

    `others_bytes` is what the case's other images take in memory: `MOST_BYTES` is for all of them.

    The file is decompressed here, because ITK fills the missing part of a truncated gzip stream
    with zeros without an error. The geometry is ITK's reading of the header.

    Raises:
        InputError: the file is missing, damaged, or not one scalar 3-D volume.
    """
    content, state = _read_content(path)
    header = _header_of_3d(path, content, len(content), others_bytes)
    return _volume(path, content, state, header)


def check_header(path: Path) -> None:
    """Check the first and last bytes of a file that `read` would read.

    Its voxels are decompressed only if its size does not fit its header.

    Raises:
        InputError: as `read`.
    """
    content, state = _read_content(path, HEADER_READ)
    size = state.st_size
    header = _header_of_3d(path, content, size)
    if gunzip.is_gzip(content):
        with open_regular(path) as file:
            file.seek(-gunzip.SIZE_BYTES, os.SEEK_END)
            size = gunzip.size_at_end(file.read())
    if header.stop <= size <= header.stop + TRAILING_BYTES:
        _geometry(path, content, header)
    else:
        read(path)


def _header_of_3d(path: Path, content: bytes, size_bytes: int, others_bytes: int = 0) -> _Header:
    header = _checked_header(path, content, size_bytes, others_bytes)
    if len(header.shape) != 3:
        found = f"{len(header.shape)} axes of {header.shape}"
        action = "split it into one file a modality, or name it imagesTr/<case>.nii.gz"
        raise InputError(Finding(str(path), found, "one 3-D volume a file", action))
    return header


def read_stacked(path: Path, channels: Sequence[str]) -> dict[str, Volume]:
    """Read the images of a 4-D file, whose channels have these names in the file's order.

    Raises:
        InputError: the file is missing, damaged, or does not have exactly these channels.
    """
    content, state = _read_content(path)
    header = _checked_header(path, content, len(content))
    channel_count = header.shape[0] if len(header.shape) == 4 else 1
    if len(header.shape) > 4 or channel_count != len(channels):
        found = f"{channel_count} channel(s), {len(header.shape)} axes of {header.shape}"
        expected = f"{len(channels)} channels, {', '.join(channels)}"
        action = "export all of them into one file, in the order of stacked.channels"
        raise InputError(Finding(str(path), found, expected, action))
    stacked = _volume(path, content, state, header)
    images = stacked.voxels.reshape(channel_count, *header.shape[-3:])
    return {n: stacked._replace(voxels=image) for n, image in zip(channels, images, strict=True)}


def _volume(path: Path, content: bytes, state: os.stat_result, header: _Header) -> Volume:
    try:
        data = gunzip.whole(content, header.stop, header.stop + TRAILING_BYTES)
    except gunzip.GunzipError as error:
        raise _damaged(path, f"damaged: {error}") from error
    if len(data) < header.stop:
        raise _damaged(path, f"damaged: {len(data)} bytes for {header.shape} voxels")
    # (x, y, z) in Fortran order is (z, y, x) in C order: nothing is copied.
    stored = np.frombuffer(data, header.voxel_type, math.prod(header.shape), header.start)
    voxels = stored.reshape(header.shape)
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    if header.scaling:
        voxels = apply_read_scaling(voxels, *header.scaling)
    geometry = _geometry(path, content, header)
    file = ReadFile(hashlib.sha256(content).hexdigest(), state.st_size, state.st_mtime_ns)
    return Volume(voxels, geometry, _orientation_warning(header.block, geometry), file)


@lru_cache(maxsize=64)
def _orientation_warning(block: bytes, geometry: Geometry) -> str | None:
    """Why a header does not clearly place a volume, in words; None if it does.

    NIfTI keeps the orientation twice, as sform and as qform, each with a code that may say that it
    is not set. Where they differ, ITK takes the sform if its code is 1 and its axes are at right
    angles, and else mostly the qform; nibabel always takes the sform. `geometry` is ITK's.
    """
    header = Nifti1Header(block, check=False)
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    coded = [name for name, code in codes.items() if code > 0]
    if not coded:
        return "no orientation in its header: the codes of sform and qform are 0"
    header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # as ITK does, where nibabel raises
    try:
        with np.errstate(invalid="ignore"):
            forms = {name: getattr(header, f"get_{name}")() for name in coded}
    except (ValueError, HeaderDataError):
        return "a qform that is no rotation"
    if invalid := [name for name, form in forms.items() if not np.isfinite(form).all()]:
        return f"a {invalid[0]} with NaN or infinity in it"
    distances_mm = {name: _corner_distance_mm(form, geometry) for name, form in forms.items()}
    off = [f"its {n} is up to {mm:.3g} mm off" for n, mm in distances_mm.items() if mm > FORMS_MM]
    if not off:
        return None
    used = [name for name in coded if distances_mm[name] <= FORMS_MM] or ["spacing (pixdim)"]
    return f"placed by its {used[0]}; {' and '.join(off)}"


def _corner_distance_mm(affine: NDArray[np.floating], geometry: Geometry) -> float:
    """The largest distance of a volume's corners from where another affine places them."""
    last = [(0, n - 1) for n in reversed(geometry.shape)]
    corners = np.array([(*corner, 1) for corner in itertools.product(*last)])
    return float(np.abs((affine - geometry.affine) @ corners.T).max())


def _geometry(path: Path, content: bytes, header: _Header) -> Geometry:
    """ITK's reading of the header, for its last three axes."""
    if gunzip.is_gzip(content) and path.suffix.lower() != ".gz":
        found, expected = "gzip under a name without .gz", "a name that ends in .gz"
        raise InputError(Finding(str(path), found, expected, f"rename it to {path.name}.gz"))
    shape = triple(header.shape[-3:])
    if found := _form_fault(header.block):
        expected = "numbers that place its voxels, in mm"
        raise InputError(Finding(str(path), found, expected, "correct its header"))
    try:
        place = _as_itk_reads(header.block, shape)
    except RuntimeError as error:
        raise _itk_error(path, error) from error
    geometry = Geometry(shape, *place, _place_fields(header.block))
    numbers = (*geometry.spacing_mm, *geometry.origin_mm, *geometry.direction)
    if not np.isfinite(numbers).all() or min(geometry.spacing_mm) <= 0:
        spacing, direction = map(format_vector, (geometry.spacing_mm, geometry.direction))
        found = f"spacing {spacing} mm, direction {direction}"
        expected = "spacing above 0 and directions that are numbers"
        raise InputError(Finding(str(path), found, expected, "correct its header"))
    return geometry


@lru_cache(maxsize=64)
def _form_fault(block: bytes) -> str:
    """The number of no place in a form that counts; empty if there is none."""
    header = Nifti1Header(block, check=False)
    for form, names in FORMS.items():
        numbers = np.concatenate([np.ravel(header[name]) for name in names])
        wrong = numbers[~(np.abs(numbers) < MOST_IN_FORM)]  # NaN among them
        if header[f"{form}_code"] > 0 and wrong.size:
            return f"{wrong[0]:g} in its {form}"
    return ""


@lru_cache(maxsize=64)
def _place_fields(block: bytes) -> HeaderFields:
    header = Nifti1Header(block, check=False)
    values = {name: header[name].tolist() for name in PLACE_FIELDS}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


@lru_cache(maxsize=64)  # most headers of a cohort are the same
def _as_itk_reads(block: bytes, shape: Triple) -> tuple[Vector, Vector, tuple[float, ...]]:
    """Spacing in mm (z, y, x), origin in mm (x, y, z) and direction, as ITK reads them.

    It gets a file of what tells the place and nothing else: it would read millions of a header's
    extensions, for hours, and ends the process at a path that is not UTF-8.
    """
    header, given = Nifti1Header(), Nifti1Header(block, check=False)
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape[::-1])
    for name in PLACE_FIELDS:
        header[name] = given[name]
    header["magic"], header["vox_offset"] = b"n+1", WRITTEN_START
    reader = sitk.ImageFileReader()
    with NamedTemporaryFile(suffix=".nii") as file:
        file.write(header.binaryblock.ljust(WRITTEN_START, b"\0"))
        file.flush()
        reader.SetFileName(file.name)
        reader.ReadImageInformation()
    x, y, z = reader.GetSpacing()
    cosines = tuple(float(cosine) for cosine in reader.GetDirection())
    return (z, y, x), reader.GetOrigin(), cosines


def _itk_error(path: Path, error: RuntimeError) -> InputError:
    """Why ITK refuses a header: the last line of its error; the others name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason given"
    if "orthonormal" in reason:
        found, expected = "sheared axes in its sform, and no qform", "axes at right angles"
        return InputError(Finding(str(path), found, expected, "resample it, or set its qform"))
    return _damaged(path, f"no readable image ({reason})")


def description_of(path: Path) -> str:
    """What a file's header says of itself.

    Raises:
        InputError: it is no NIfTI file, or cannot be read.
    """
    content, _ = _read_content(path, HEADER_READ)
    return bytes(_nifti_fields(path, content)["descrip"].item()).decode("latin-1")


def write(
    path: Path,
    array: NDArray[np.generic],
    geometry: Geometry,
    description: str = "",
    *,
    sync: bool = False,
) -> None:
    """Write (D, H, W) or (C, D, H, W) voxels as NIfTI, whole or not; a `.gz` name compresses.

    A geometry that was read from a file is written as that file has it: sform, qform, their codes
    and the units are the same to the bit. Not by ITK, which writes one place as both forms, and
    says nothing when the disk is full.

    Raises:
        ValueError: the array is not of the geometry's shape.
        OSError: the file could not be written whole.
    """
    if array.shape[-3:] != geometry.shape:
        raise ValueError(f"array of {array.shape}, expected its geometry's shape {geometry.shape}")
    header = Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    if not geometry.header:
        header.set_xyzt_units("mm")
        header.set_qform(geometry.affine, code=1)
        header.set_sform(geometry.affine, code=1)
    for name, value in geometry.header.items():
        header[name] = value
    header["magic"], header["vox_offset"] = b"n+1", WRITTEN_START
    header["descrip"] = description
    voxels = array.astype(array.dtype.newbyteorder("="), copy=False).tobytes()
    content = header.binaryblock.ljust(WRITTEN_START, b"\0") + voxels
    if path.suffix.lower() == ".gz":
        content = isal_zlib.compress(content, GZIP_LEVEL, gunzip.GZIP_WINDOW)
    write_parts(path, [content], sync=sync)
