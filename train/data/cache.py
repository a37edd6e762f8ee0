"""Decoded crops kept in memory: one copy that all workers share, and what memory is free."""

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

CacheKind = Literal["none", "ram", "device"]
"""Where decoded crops are kept: nowhere, in memory that the workers share, or on the device."""

ALIGNMENT_BYTES = 64
GROUPS = Path("/proc/self/cgroup")
"""The control groups of this process (Linux, cgroups(7))."""


@dataclass(frozen=True)
class SharedCrops:
    """Some cases' crops in shared memory, each put there by its first reader; picklable.

    The memory has no name in any folder: it is gone with the processes that use it, however they
    end. The size of /dev/shm does not limit it.
    """

    store: Store
    case_ids: tuple[str, ...]
    owner: int
    """Id of the process that allocated the memory."""
    descriptor: int
    """Of the memory in that process."""
    inode: int
    """Of the memory; a descriptor is used again once it is closed."""

    @property
    def bytes(self) -> int:
        """Size of all crops, and of a byte for each that is 1 once it is stored."""
        return len(self.case_ids) * (self._slot_bytes + 1)

    def read_crop(self, case_id: str) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
        """As `Store.read_crop`; the arrays must not be changed."""
        file, memory = _opened(f"/proc/{self.owner}/fd/{self.descriptor}", self.inode)
        row = self._rows[case_id]
        image, label = self._slot(memory, row)
        filled = len(self.case_ids) * self._slot_bytes + row
        # System calls order the writes to memory on every processor.
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
        return image.reshape(len(self.store.task.modalities), *crop), label.reshape(crop)

    @property
    def _image_bytes(self) -> int:
        itemsize = np.dtype(self.store.manifest.dtype).itemsize
        return len(self.store.task.modalities) * math.prod(self.store.crop) * itemsize

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
    """Shared memory for the crops of these cases.

    Raises:
        ConfigError: there is too little memory.
    """
    descriptor = os.memfd_create("fmnet-crops")
    try:
        inode = os.fstat(descriptor).st_ino
        crops = SharedCrops(store, case_ids, os.getpid(), descriptor, inode)
        check_memory("ram", crops.bytes, free_memory(), "memory")
        os.ftruncate(descriptor, crops.bytes)
        yield crops
    finally:
        os.close(descriptor)


def free_memory() -> int:
    """Memory in bytes that this process can still use.

    Containers and batch systems limit it by control groups, which psutil does not know of.
    """
    free = [psutil.virtual_memory().available]
    for line in GROUPS.read_text("utf-8").splitlines() if GROUPS.is_file() else ():
        number, kinds, group = line.split(":", 2)
        if number == "0":
            free += _free_in_group(Path("/sys/fs/cgroup"), group, "memory.max", "memory.current")
        elif "memory" in kinds.split(","):
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            free += _free_in_group(Path("/sys/fs/cgroup/memory"), group, *files)
    return max(0, min(free))


def _free_in_group(root: Path, group: str, limit: str, used: str) -> Iterator[int]:
    """What is free in a group and in each group around it that this process can see."""
    inner = root / group.strip("/")
    for folder in (inner, *inner.parents):
        if not folder.is_relative_to(root):
            return
        if (folder / limit).is_file() and (most := (folder / limit).read_text().strip()) != "max":
            cached = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), re.M)
            reclaimable = int(cached[1]) if cached else 0
            yield int(most) - int((folder / used).read_text()) + reclaimable


def check_memory(kind: CacheKind, needed: int, free: int, where: str) -> None:
    """Print how much memory a cache takes, before it does.

    Raises:
        ConfigError: more than is free.
    """
    amounts = f"cache={kind} takes {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB of {where} free"
    if needed > free:
        raise ConfigError(f"{amounts}: take cache=none, which reads crops from the store")
    out.print(amounts)
