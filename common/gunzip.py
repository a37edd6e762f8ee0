"""Decompressing gzip in memory: every byte checked, and no more of them than expected."""

from collections.abc import Iterator
from contextlib import suppress

import deflate
from isal import isal_zlib

GZIP_WINDOW = 31
"""zlib's window size of 15 bits, plus 16 for a gzip header and its checksum."""

MOST_COMPRESSED = 1032
"""How much smaller deflate can make anything (zlib's technical notes)."""

SIZE_BYTES = 4

_CORRUPT: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub lacks type[]


class GunzipError(ValueError):
    """The stream is torn, corrupt, or goes on beyond what was expected."""


def is_gzip(content: bytes) -> bool:
    """Whether it begins as gzip does."""
    return content[:2] == b"\x1f\x8b"


def size_at_end(content: bytes) -> int:
    """What the last member's end says of its size, modulo 4 GiB (RFC 1952, ISIZE)."""
    return int.from_bytes(content[-SIZE_BYTES:], "little")


def beginning(content: bytes, size: int) -> bytes:
    """The first `size` bytes, or all there are, without decompressing more.

    Raises:
        GunzipError: the stream ends or breaks before them.
    """
    return b"".join(_members(content, size, partly=True)) if is_gzip(content) else content[:size]


def whole(content: bytes, least: int, most: int) -> bytes | bytearray:
    """All bytes of a file, without gzip if it is gzip: some tools write it in several members.

    Args:
        content: the file.
        least: how many bytes are needed.
        most: how many bytes there may be. A stream that holds more is decompressed no further, so
            a small file cannot fill the memory.

    Raises:
        GunzipError: the stream is truncated, its checksum does not fit, or it holds more.
    """
    if not is_gzip(content):
        return content
    # libdeflate takes three fifths of the time for a file of one member, at whose end its size
    # stands. Of several it may see the first alone, and it says not what is wrong: then, the other.
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
            # One byte more than allowed tells a stream that ends there from one that goes on. With
            # a limit, the output is made in one piece, which takes half the time.
            data = member.decompress(rest, most + 1)
        except _CORRUPT as error:
            raise GunzipError(str(error)) from error
        if partly and len(data) >= most:
            yield data[:most]
            return
        if len(data) > most:
            raise GunzipError("it goes on beyond what its header speaks of")
        if not member.eof:
            raise GunzipError("incomplete or truncated stream")
        yield data
        most -= len(data)
        rest = member.unused_data
