"""NIfTI in and out, and every way in which a file can be unfit."""

import gzip
import hashlib
import json
import resource
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the library's own habit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from common import nifti
from common.errors import InputError
from common.geometry import Geometry

SHAPE = (9, 10, 11)
GEOMETRY = Geometry(SHAPE, (1.0, 0.8, 0.9), (10.0, -20.0, 30.0))


def voxels(dtype: type[np.generic] = np.int16) -> NDArray[np.generic]:
    return (np.arange(990).reshape(SHAPE) % 251).astype(dtype)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.nii.gz"
    nifti.write(path, voxels(), GEOMETRY)
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_a_volume_comes_back(dtype: type[np.generic], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"volume{suffix}"
    nifti.write(path, voxels(dtype), GEOMETRY)
    volume = nifti.read(path)
    assert volume.voxels.dtype == dtype
    assert np.array_equal(volume.voxels, voxels(dtype))
    assert volume.geometry.matches(GEOMETRY)
    assert volume.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    signs=st.tuples(*[st.sampled_from([1.0, -1.0])] * 3),
    axes=st.permutations(range(3)),
    origin=st.tuples(*[st.floats(-200, 200)] * 3),
    spacing=st.tuples(*[st.floats(0.9, 5)] * 3),
)
def test_any_geometry_comes_back(
    signs: tuple[float, float, float],
    axes: list[int],
    origin: tuple[float, float, float],
    spacing: tuple[float, float, float],
    tmp_path: Path,
) -> None:
    direction = tuple((np.diag(signs) @ np.eye(3)[axes]).ravel().tolist())
    geometry = Geometry(SHAPE, spacing, origin, direction)
    nifti.write(tmp_path / "volume.nii", voxels(), geometry)
    assert nifti.read(tmp_path / "volume.nii").geometry.matches(geometry)


def test_itk_and_nibabel_read_what_is_written_alike(good: Path) -> None:
    image = sitk.ReadImage(str(good))
    assert np.array_equal(sitk.GetArrayFromImage(image), voxels())
    assert image.GetSpacing() == pytest.approx((0.9, 0.8, 1.0))
    assert np.array_equal(np.asarray(nibabel.load(good).dataobj), voxels().T)


def test_a_real_releases_header_is_lps_at_its_origin(tmp_path: Path) -> None:
    brats = Geometry((155, 240, 240), (1.0, 1.0, 1.0), (0.0, -239.0, 0.0))
    nifti.write(tmp_path / "b.nii.gz", np.zeros(brats.shape, np.uint8), brats)
    affine = nibabel.load(tmp_path / "b.nii.gz").affine
    assert affine.tolist() == [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_what_is_another_grid() -> None:
    assert GEOMETRY.matches(Geometry(SHAPE, (1.0, 0.8, 0.9000001), (10.001, -20.0, 30.0)))
    assert not GEOMETRY.matches(Geometry((9, 11, 10), GEOMETRY.spacing_mm, GEOMETRY.origin_mm))
    assert not GEOMETRY.matches(Geometry(SHAPE, (1.0, 0.8, 0.95), GEOMETRY.origin_mm))
    assert not GEOMETRY.matches(Geometry(SHAPE, GEOMETRY.spacing_mm, (10.5, -20.0, 30.0)))
    turned = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert not GEOMETRY.matches(Geometry(SHAPE, GEOMETRY.spacing_mm, GEOMETRY.origin_mm, turned))


def test_a_big_endian_file_is_read_in_this_machines_order(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(voxels().T.astype(">i2"), np.eye(4), header)
    nibabel.save(image, tmp_path / "big.nii.gz")
    read = nifti.read(tmp_path / "big.nii.gz").voxels
    assert read.dtype == np.dtype("int16")
    assert read.dtype.isnative
    assert np.array_equal(read, voxels())


def test_a_headers_scaling_is_applied(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(voxels().T, np.eye(4))
    image.header.set_slope_inter(2.0, 1.0)
    nibabel.save(image, tmp_path / "scaled.nii.gz")
    stored = nifti.read(tmp_path / "scaled.nii.gz").voxels
    assert np.allclose(stored, np.asarray(nibabel.load(tmp_path / "scaled.nii.gz").dataobj).T)
    assert np.allclose(stored, 2 * voxels() + 1)


def test_a_fourth_axis_of_one_volume_is_left_out(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels().T[..., None], np.eye(4)), tmp_path / "four.nii.gz")
    assert np.array_equal(nifti.read(tmp_path / "four.nii.gz").voxels, voxels())


def test_a_gzip_file_of_several_members_is_read_whole(tmp_path: Path) -> None:
    nifti.write(tmp_path / "one.nii", voxels(), GEOMETRY)
    content = (tmp_path / "one.nii").read_bytes()
    members = tmp_path / "members.nii.gz"
    members.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    assert np.array_equal(nifti.read(members).voxels, voxels())
    members.write_bytes(gzip.compress(content[:40]) + gzip.compress(content[40:] + bytes(80)))
    assert np.array_equal(nifti.read(members).voxels, voxels())


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected its geometry's shape"):
        nifti.write(tmp_path / "x.nii.gz", voxels()[1:], GEOMETRY)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")


def no_image(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>" * 40)


def compressed_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"no image at all" * 100))


def wrong_magic(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[344:348] = b"zzzz"
    path.write_bytes(gzip.compress(bytes(content)))


def short_inside(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-30]))


def header_alone(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:348]))


def flipped_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def wrong_checksum(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-8:-4] = struct.pack("<I", 12345)
    path.write_bytes(bytes(content))


def one_slice(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(voxels()[0]), str(path))


def series(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9, 2), np.int16), np.eye(4)), path)


def colours(path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((9, 9, 9, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(path))


def complex_numbers(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels().T.astype(np.complex64), np.eye(4)), path)


def several_values(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((9, 9, 9, 1, 4), np.float32), np.eye(4)), path)


def second_version(path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(voxels().T, np.eye(4)), path)


def half_a_header(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:200]))


def bomb(path: Path) -> None:
    """64 MB of zeros in 65 kB, behind a small volume's header."""
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 26)))


def header_of(offset: int, *values: float, kind: str = "f") -> Callable[[Path], None]:
    """What writes other values into the header."""

    def change(path: Path) -> None:
        content = bytearray(gzip.decompress(path.read_bytes()))
        struct.pack_into(f"<{len(values)}{kind}", content, offset, *values)
        path.write_bytes(gzip.compress(bytes(content)))

    return change


AXES, SIZES, TYPE, SPACINGS, START, SCALING, QUATERN, ROWS = 40, 42, 70, 80, 108, 112, 256, 280
"""Offsets in a NIfTI-1 header: dim[0], dim[1:], datatype, pixdim[1:], vox_offset, srow."""


def removed(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (truncated, "truncated"),
        (emptied, "an empty file"),
        (pointer, "a git-LFS pointer"),
        (no_image, "no NIfTI header, it begins with b'<html>"),
        (compressed_text, "no NIfTI header, it begins with b'no image"),
        (wrong_magic, "a header with the magic b'zzzz'"),
        (second_version, "a NIfTI-2 file"),
        (short_inside, "damaged: 2302 bytes for"),
        (header_alone, "damaged: 348 bytes for"),
        (half_a_header, "damaged: 200 bytes, fewer than a header"),
        (flipped_byte, "damaged"),
        (wrong_checksum, "damaged"),
        (one_slice, "2 axes"),
        (series, "4 axes"),
        (colours, "voxels of type rgb|5 axes of .3, 1, 9, 9, 9."),
        (complex_numbers, "voxels of type complex64"),
        (several_values, "5 axes of .4, 1, 9, 9, 9."),
        (header_of(SIZES, 32000, 32000, 32000, kind="h"), "65,536.0 GB for .32000, 32000, 32000"),
        (header_of(SIZES, 700, 700, 700, kind="h"), r"damaged: \d+ bytes for .700, 700, 700"),
        (header_of(SIZES, 12, 10, 9, kind="h"), "damaged: 2332 bytes for .9, 10, 12. voxels"),
        (bomb, "is longer than its header says"),
        (header_of(SIZES, -4, kind="h"), "damaged: 3 axes of .-4, "),
        (header_of(AXES, 9, kind="h"), "damaged|no NIfTI header"),
        (header_of(TYPE, 1, kind="h"), "voxels of type binary"),
        (header_of(TYPE, 999, kind="h"), "voxels of type <unknown code 999>"),
        (header_of(START, 1e9), "damaged: its voxels begin at byte 1000000000"),
        (header_of(START, float("nan")), "damaged: its voxels begin at byte nan"),
        (header_of(SPACINGS, -1, -1, -1), "spacing .* mm, direction"),
        (header_of(ROWS, *[float("nan")] * 12), "nan in its sform"),
        (header_of(ROWS, float("-inf"), 3e38), "-inf in its sform"),
        (header_of(ROWS, 3e38), r"3e\+38 in its sform"),
        (header_of(QUATERN, float("inf")), "inf in its qform"),
        (removed, "unreadable: No such file"),
        (folder, "a folder"),
    ],
)
def test_an_unfit_file_is_one_clear_finding(
    damage: Callable[[Path], None], found: str, good: Path
) -> None:
    damage(good)
    with pytest.raises(InputError, match=found) as caught:
        nifti.read(good)
    (finding,) = caught.value.findings
    assert finding.file == str(good)
    assert finding.action
    assert "\n" not in str(finding)


@pytest.mark.parametrize("damage", [bomb, header_of(SIZES, 700, 700, 700, kind="h")])
def test_no_more_is_decompressed_than_a_header_speaks_of(
    damage: Callable[[Path], None], good: Path
) -> None:
    damage(good)
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            nifti.read(good)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_gzip_under_a_plain_name_is_refused_and_the_reverse_is_read(tmp_path: Path) -> None:
    nifti.write(tmp_path / "plain.nii", voxels(), GEOMETRY)
    content = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(content)
    assert np.array_equal(nifti.read(tmp_path / "plain.nii.gz").voxels, voxels())
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(content))
    with pytest.raises(InputError, match=r"without \.gz.*: rename it to zipped\.nii\.gz"):
        nifti.read(tmp_path / "zipped.nii")


def test_a_file_larger_than_any_heads_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.nii").open("wb") as file:
        file.truncate(1 << 32)  # a hole, which takes no room
    with pytest.raises(InputError, match=r"4\.3 GB; expected 2\.1 GB at most"):
        nifti.read(tmp_path / "huge.nii")


def test_a_million_extensions_are_skipped(good: Path) -> None:
    """ITK takes hours for them."""
    content, extensions = gzip.decompress(good.read_bytes()), struct.pack("<ii8x", 16, 0) * 10**6
    good.write_bytes(
        gzip.compress(content[:348] + b"\1\0\0\0" + extensions + content[352:], compresslevel=1)
    )
    header_of(START, 352 + len(extensions))(good)
    began = time.monotonic()
    assert np.array_equal(nifti.read(good).voxels, voxels())
    assert time.monotonic() - began < 10


def test_the_size_in_memory_counts_that_of_scaled_voxels_and_of_a_cases_others(good: Path) -> None:
    """2 MB of a file may ask for 16 GB."""
    header_of(SCALING, 0.5, 1.0)(good)
    nifti.read(good, nifti.MOST_BYTES - 8 * voxels().size)
    with pytest.raises(InputError, match=r"beside 2\.1 GB of other images; expected 2\.1 GB"):
        nifti.read(good, nifti.MOST_BYTES - 8 * voxels().size + 1)


def test_what_follows_the_voxels_is_left_out(good: Path) -> None:
    good.write_bytes(gzip.compress(gzip.decompress(good.read_bytes()) + bytes(100)))
    assert np.array_equal(nifti.read(good).voxels, voxels())


def stacked(path: Path, channels: int) -> NDArray[np.int16]:
    series = np.stack([voxels() + 1000 * channel for channel in range(channels)])
    image = nibabel.Nifti1Image(series.T, np.diag([-2.0, -1.0, 3.0, 1.0]))
    nibabel.save(image, path)
    return series


def test_a_file_of_four_images_is_read_by_the_names_of_its_channels(tmp_path: Path) -> None:
    series = stacked(tmp_path / "four.nii.gz", 4)
    volumes = nifti.read_stacked(tmp_path / "four.nii.gz", ("c", "a", "d", "b"))
    assert list(volumes) == ["c", "a", "d", "b"]
    for channel, volume in enumerate(volumes.values()):
        assert np.array_equal(volume.voxels, series[channel])
        assert volume.geometry == Geometry(SHAPE, (3.0, 1.0, 2.0), (0.0, 0.0, 0.0))
        assert (
            volume.file.sha256
            == hashlib.sha256((tmp_path / "four.nii.gz").read_bytes()).hexdigest()
        )


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_another_number_of_channels_is_refused(channels: int, tmp_path: Path) -> None:
    stacked(tmp_path / "x.nii.gz", channels)
    with pytest.raises(
        InputError, match=rf"{channels} channel\(s\), . axes of .*4 channels, a, b, c, d"
    ):
        nifti.read_stacked(tmp_path / "x.nii.gz", ("a", "b", "c", "d"))


def placed(
    path: Path, *, sform: int, qform: int, change: Callable[..., None] = lambda _: None
) -> None:
    """A file with these codes; `change` may alter the sform's rows."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(SHAPE[::-1])
    header.set_qform(np.diag([-2.0, -2.0, 3.0, 1.0]), qform)
    rows = np.diag([-2.0, -2.0, 3.0, 1.0])
    change(rows)
    header.set_sform(rows, sform)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4) + voxels().tobytes())


def turned(rows: NDArray[np.floating]) -> None:
    rows[:2] *= -1
    rows[0, 3] = 5


def moved(rows: NDArray[np.floating]) -> None:
    rows[0, 3] += 0.5


def sheared(rows: NDArray[np.floating]) -> None:
    rows[0, 1] = 0.4


def scaled(rows: NDArray[np.floating]) -> None:
    rows /= 2


@pytest.mark.parametrize(
    ("sform", "qform", "change", "orientation_warning"),
    [
        (1, 1, lambda _: None, None),
        (0, 1, turned, None),
        (2, 0, turned, None),
        (0, 0, turned, "no orientation in its header: the codes of sform and qform are 0"),
        (1, 1, turned, "placed by its sform; its qform is up to 45 mm off"),
        (2, 1, turned, "placed by its qform; its sform is up to 45 mm off"),
        (1, 1, moved, "placed by its sform; its qform is up to 0.5 mm off"),
        (2, 2, moved, "placed by its qform; its sform is up to 0.5 mm off"),
        (1, 1, sheared, "placed by its qform; its sform is up to 3.6 mm off"),
        (1, 0, scaled, "placed by its spacing (pixdim); its sform is up to 12 mm off"),
    ],
)
def test_what_a_header_leaves_open_about_its_place(
    sform: int,
    qform: int,
    change: Callable[..., None],
    orientation_warning: str | None,
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.nii"
    placed(path, sform=sform, qform=qform, change=change)
    volume = nifti.read(path)
    image = sitk.ReadImage(str(path))
    assert volume.geometry.origin_mm == image.GetOrigin()
    assert volume.geometry.direction == image.GetDirection()
    assert volume.orientation_warning == orientation_warning


@pytest.mark.parametrize("sign", [0.0, 5.0, float("nan"), -1.0])
def test_the_sign_in_a_header_is_read_as_itk_does(sign: float, good: Path) -> None:
    """NIfTI-1 calls for 1 or -1, and for 0 to be taken as 1; ITK asks whether it is negative."""
    header_of(SPACINGS - 4, sign)(good)
    assert (nifti.read(good).orientation_warning is not None) is (sign < 0)


@pytest.mark.parametrize(
    ("spacing_mm", "orientation_warning"),
    [
        (float("nan"), "a qform with NaN or infinity in it"),
        (float("inf"), "a qform with NaN or infinity in it"),
        (-float("inf"), "a qform that is no rotation"),
    ],
)
def test_a_spacing_that_itk_takes_for_1_mm_is_a_warning(
    spacing_mm: float, orientation_warning: str, good: Path
) -> None:
    header_of(SPACINGS, spacing_mm)(good)
    assert nifti.read(good).orientation_warning == orientation_warning


def test_sheared_axes_are_refused(tmp_path: Path) -> None:
    placed(tmp_path / "x.nii", sform=1, qform=0, change=sheared)
    with pytest.raises(InputError, match="sheared axes in its sform, and no qform"):
        nifti.read(tmp_path / "x.nii")


def nocodes(header: nibabel.Nifti1Header) -> None:
    header["qform_code"] = header["sform_code"] = 0


def two_places(header: nibabel.Nifti1Header) -> None:
    header.set_sform(np.diag([-0.9, -0.8, 1.0, 1.0]) + np.eye(4, k=3) * 17.3, 2)


def a_left_handed_qform(header: nibabel.Nifti1Header) -> None:
    header.set_qform(np.diag([-0.9, 0.8, 1.0, 1.0]), 4)


def in_metres_and_seconds(header: nibabel.Nifti1Header) -> None:
    header.set_xyzt_units("meter", "sec")


def not_a_number(header: nibabel.Nifti1Header) -> None:
    header["srow_x"][3] = np.nan
    header["sform_code"] = 0


@pytest.mark.parametrize(
    "change", [nocodes, two_places, a_left_handed_qform, in_metres_and_seconds, not_a_number]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_is_written_has_the_header_of_what_was_read(
    order: str, change: Callable[[nibabel.Nifti1Header], None], tmp_path: Path
) -> None:
    header = nibabel.Nifti1Header(endianness=order)
    image = nibabel.Nifti1Image(voxels(np.float32).T, None, header)
    image.header.set_qform(GEOMETRY.affine, 1)
    image.header.set_sform(GEOMETRY.affine, 1)
    image.header["magic"], image.header["vox_offset"] = b"n+1", 352
    change(image.header)
    content = image.header.binaryblock + bytes(4) + voxels(np.dtype(f"{order}f4")).tobytes()
    (tmp_path / "image.nii").write_bytes(content)
    source = nibabel.load(tmp_path / "image.nii")
    geometry = TypeAdapter(Geometry).validate_json(
        json.dumps(
            TypeAdapter(Geometry).dump_python(
                nifti.read(tmp_path / "image.nii").geometry, mode="json"
            ),
            allow_nan=False,
        )
    )
    nifti.write(tmp_path / "mask.nii.gz", voxels(np.uint8), geometry)
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(mask.dataobj), voxels(np.uint8).T)
    assert np.array_equal(mask.affine, source.affine)
    for form in ("get_sform", "get_qform"):
        theirs, ours = (getattr(one.header, form)(coded=True) for one in (source, mask))
        assert ours[1] == theirs[1]
        assert np.array_equal(ours[0], theirs[0]) or ours[0] is theirs[0] is None
    for name in ("pixdim", "xyzt_units", "srow_x", "srow_y", "srow_z", "qoffset_x", "quatern_b"):
        assert np.array_equal(mask.header[name], source.header[name], equal_nan=True), name


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            nifti.write(path, voxels(), GEOMETRY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_every_truncation_is_noticed(good: Path) -> None:
    """ITK itself fills what is missing with zeros and says nothing."""
    content = good.read_bytes()
    for length in range(0, len(content), max(1, len(content) // 60)):
        good.write_bytes(content[:length])
        with pytest.raises(InputError):
            nifti.read(good)
