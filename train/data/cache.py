"""Decoded crops in memory: room for them, and one copy that all workers of a feed share."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from numpy.typing import NDArray

from common.console import out
from common.errors import ConfigError
from common.store import Store
from common.task import MODALITIES

CacheKind = Literal["none", "ram", "device"]
"""Where decoded crops are kept: nowhere, in memory that the workers share, or on the device."""

ALIGNMENT_BYTES = 64
GROUPS = Path("/proc/self/cgroup")
"""Which control groups this process is in (Linux, cgroups(7))."""


@dataclass(frozen=True)
class SharedCrops:
    """Room for some cases' crops, each filled by whichever process reads it first; picklable.

    The memory has no name in any folder: it is gone with the processes that use it, however they
    end. /dev/shm's size does not bound it.

    Attributes:
        store: where the crops come from.
        case_ids: the cases there is room for.
        holder: id of the process that made the room.
        descriptor: of the memory in that process.
        inode: of the memory; the system gives a descriptor out again when it is closed.
    """

    store: Store
    case_ids: tuple[str, ...]
    holder: int
    descriptor: int
    inode: int

    @property
    def bytes(self) -> int:
        """What all of it takes: the crops, and a byte for each that is 1 once it is there."""
        return len(self.case_ids) * (self._slot_bytes + 1)

    def read(self, case_id: str) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
        """As `Store.read_crop`; nobody may write to what is returned."""
        file, memory = _opened(f"/proc/{self.holder}/fd/{self.descriptor}", self.inode)
        row = self._rows[case_id]
        image, label = self._slot(memory, row)
        filled = len(self.case_ids) * self._slot_bytes + row
        # By system calls, before and after which memory is in order on every processor.
        if os.pread(file, 1, filled) != b"\1":
            image[...], label[...] = self.store.read_crop(case_id)
            os.pwrite(file, b"\1", filled)
        return image, label

    def _slot(
        self, memory: NDArray[np.uint8], row: int
    ) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
        crop, first = self.store.crop, row * self._slot_bytes
        middle = first + self._image_bytes
        image: NDArray[Any] = memory[first:middle].view(self.store.manifest.dtype)
        label = memory[middle : middle + math.prod(crop)]
        return image.reshape(len(MODALITIES), *crop), label.reshape(crop)

    @property
    def _image_bytes(self) -> int:
        itemsize = np.dtype(self.store.manifest.dtype).itemsize
        return len(MODALITIES) * math.prod(self.store.crop) * itemsize

    @property
    def _slot_bytes(self) -> int:
        taken = self._image_bytes + math.prod(self.store.crop)
        return -(-taken // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {case_id: row for row, case_id in enumerate(self.case_ids)}


@lru_cache(maxsize=1)
def _opened(path: str, _inode: int) -> tuple[int, NDArray[np.uint8]]:
    return os.open(path, os.O_RDWR), np.memmap(path, np.uint8, "r+")


@contextmanager
def shared_crops(store: Store, case_ids: tuple[str, ...]) -> Iterator[SharedCrops]:
    """Room in this machine's memory.

    Raises:
        ConfigError: there is too little.
    """
    descriptor = os.memfd_create("fmnet-crops")
    try:
        inode = os.fstat(descriptor).st_ino
        crops = SharedCrops(store, case_ids, os.getpid(), descriptor, inode)
        take("ram", crops.bytes, free_memory(), "memory")
        os.ftruncate(descriptor, crops.bytes)
        yield crops
    finally:
        os.close(descriptor)


def free_memory() -> int:
    """What this process may still take of the machine's memory, in bytes.

    A container or a batch system bounds it by control groups, of which psutil says nothing.
    """
    free = [psutil.virtual_memory().available]
    for line in GROUPS.read_text("utf-8").splitlines() if GROUPS.is_file() else ():
        number, kinds, group = line.split(":", 2)
        if number == "0":
            free += _left(Path("/sys/fs/cgroup"), group, "memory.max", "memory.current")
        elif "memory" in kinds.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            free += _left(Path("/sys/fs/cgroup/memory"), group, *files)
    return max(0, min(free))


def _left(root: Path, group: str, limit: str, used: str) -> Iterator[int]:
    """What is left in a group and those that it is in, as far as this process can see them."""
    inner = root / group.strip("/")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(root):
            return
        if (folder / limit).is_file() and (most := (folder / limit).read_text().strip()) != "max":
            cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
            reclaimable = int(cached[1]) if cached else 0
            yield int(most) - int((folder / used).read_text()) + reclaimable


def take(kind: CacheKind, needed: int, free: int, where: str) -> None:
    """Say what a cache takes before it does.

    Raises:
        ConfigError: more than there is.
    """
    amounts = f"cache={kind} takes {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB of {where} free"
    if needed > free:
        raise ConfigError(f"{amounts}: take cache=none, which reads crops from the store")
    out.print(amounts)
