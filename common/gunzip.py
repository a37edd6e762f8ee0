"""Decompression of gzip in memory, with every byte checked, up to an expected size."""

from collections.abc import Iterator
from contextlib import suppress

import deflate
from isal import isal_zlib

GZIP_WINDOW = 31
"""zlib's window size of 15 bits, plus 16 for a gzip header and its checksum."""

MOST_COMPRESSED = 1032
"""Largest compression ratio of deflate (zlib's technical notes)."""

SIZE_BYTES = 4

_CORRUPT: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub lacks type[]


class GunzipError(ValueError):
    """The stream is truncated, corrupt, or larger than expected."""


def is_gzip(content: bytes) -> bool:
    """Whether a file begins with gzip's magic number."""
    return content[:2] == b"\x1f\x8b"


def size_at_end(content: bytes) -> int:
    """Size of the last member, decompressed, modulo 4 GiB (RFC 1952, ISIZE)."""
    return int.from_bytes(content[-SIZE_BYTES:], "little")


def beginning(content: bytes, size: int) -> bytes:
    """The first `size` bytes, or all if there are fewer, without decompressing more.

    Raises:
        GunzipError: the stream is truncated or corrupt before them.
    """
    return b"".join(_members(content, size, partly=True)) if is_gzip(content) else content[:size]


def whole(content: bytes, least: int, most: int) -> bytes | bytearray:
    """All bytes of a file, decompressed if it is gzip, of any number of members.

    At least `least` bytes are needed. No more than `most` are decompressed, so that a small file
    cannot fill the memory.

    Raises:
        GunzipError: the stream is truncated, its checksum does not fit, or it has more bytes.
    """
    if not is_gzip(content):
        return content
    # libdeflate takes three fifths of the time, for a file of one member, which ends with its size.
    # It may read only the first of several, and its errors do not say what is wrong.
    if least <= size_at_end(content) <= most:
        with suppress(deflate.DeflateError):
            data = deflate.gzip_decompress(content)
            if len(data) >= least:
                return data
    members = list(_members(content, most, partly=False))
    return members[0] if len(members) == 1 else b"".join(members)


def _members(content: bytes, most: int, *, partly: bool) -> Iterator[bytes]:
    rest = content
    while is_gzip(rest):
        member = isal_zlib.decompressobj(GZIP_WINDOW)
        try:
            # One byte more than allowed, to see whether the stream goes on. With a limit the output
            # is made in one piece, which takes half the time.
            data = member.decompress(rest, most + 1)
        except _CORRUPT as error:
            raise GunzipError(str(error)) from error
        if partly and len(data) >= most:
            yield data[:most]
            return
        if len(data) > most:
            raise GunzipError("it is longer than its header says")
        if not member.eof:
            raise GunzipError("incomplete or truncated stream")
        yield data
        most -= len(data)
        rest = member.unused_data
