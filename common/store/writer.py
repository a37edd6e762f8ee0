"""Writing a store: rows, cases and their commits."""

from collections import deque
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Self

import zarr
from numpy.typing import NDArray
from zarr.core.group import GroupMetadata

from common.case import PreparedCase
from common.errors import StoreError
from common.manifest import Manifest
from common.record import CaseFailure, CaseRecord, hash_of, parameters
from common.splits import assign
from common.store.format import NODE_FILE, checksum, create_arrays, described, volume_metadata
from common.store.paths import ROW_ARRAYS, is_taken, translate_io_errors
from common.store.reader import SCHEMA_VERSION, Store
from common.store.shard import write_shard

RECENT = 4
"""Cases whose shards a writer lets go of again and again, until a disk has them."""


class StoreWriter(Store):
    """A store that cases are written to: zarr makes it, a case's files are written as they are.

    Each of these is there whole or not at all. zarrs, which reads, would leave torn shards.
    """

    @classmethod
    def create(cls, path: str | Path, manifest: Manifest, expected: tuple[str, ...] = ()) -> Self:
        """Open a store for writing, making it if there is none; it takes this manifest.

        Args:
            path: where; a folder or an fsspec URL.
            manifest: the cohort's description.
            expected: ids of the cases that are to be stored.

        Raises:
            StoreError: something else is there, or a store with another crop or type.
        """
        attributes: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "manifest": manifest.model_dump(mode="json", exclude={"cluster", "store"}),
            "parameters": parameters(manifest),
            "parameter_hash": hash_of(parameters(manifest)),
            "expected": list(expected),
        }
        with translate_io_errors(str(path), "written"):
            if is_taken(str(path)):
                check_same_arrays(cls(path), manifest)
            else:
                create_arrays(str(path), manifest)
            zarr.open_group(str(path), mode="r+").attrs.put(attributes)  # in one write
            return cls(path)

    def allocate(self, count: int) -> list[int]:
        """Append rows to the crops and return their numbers; a row is never given out twice."""
        with translate_io_errors(self.path, "written"):
            arrays = [self._writer[name] for name in ROW_ARRAYS]
            first = max(array.shape[0] for array in arrays)
            for array in arrays:
                array.resize((first + count, *array.shape[1:]))
        return list(range(first, first + count))

    def write(self, case: PreparedCase, row: int) -> CaseRecord:
        """Store one case in a row that was allocated for it; the record, the commit, comes last."""
        case_id = case.record.case_id
        self.remove(case_id)
        self.free(row)  # a worker that was killed over this case may have begun it
        arrays: dict[str, NDArray[Any]] = {"crops/image": case.crop_image}
        if case.crop_label is not None:
            arrays["crops/label"] = case.crop_label
        shards = [
            write_shard(self.files, name, self._crop_metadata[name], row, crop)
            for name, crop in arrays.items()
        ]
        has_volume = _keeps_volume(case.record, self.manifest)
        if has_volume:
            volumes: dict[str, NDArray[Any]] = {"image": case.image}
            if case.label is not None:
                volumes["label"] = case.label
            shards += [
                self._write_volume(f"cases/{case_id}/{name}", volume)
                for name, volume in volumes.items()
            ]
            arrays |= volumes
        record = case.record.model_copy(
            update={
                "row": row,
                "has_volume": has_volume,
                "checksums": {name: checksum(array) for name, array in arrays.items()},
            }
        )
        self._recent.append(shards)
        self.files.let_go(chain(*self._recent))
        self._put(case_id, {"record": record.model_dump(mode="json")})
        return record

    def remove(self, case_id: str) -> None:
        """Take a case out, whatever state it is in: first its record, then its arrays and row."""
        try:
            row = self.record(case_id).row
        except StoreError:  # no record, or none that can be read; `verify` finds its row
            row = None
        self.files.remove_case(case_id)
        if row is not None:
            self.free(row)

    def free(self, row: int) -> None:
        """Take away whatever was written to a row that no record names."""
        for name in self.files.of_row(row):
            self.files.remove(name)

    def set_aside(self, failure: CaseFailure, row: int | None = None) -> None:
        """Keep why a case is not in the store, where `failures` finds it.

        Args:
            failure: the case's.
            row: the one that it may have been writing.
        """
        self.remove(failure.case_id)
        if row is not None:
            self.free(row)
        self._put(failure.case_id, {"failure": failure.model_dump(mode="json")})

    def _write_volume(self, name: str, volume: NDArray[Any]) -> str:
        """An array where there is nothing yet, and its one shard, whose name is returned."""
        metadata = volume_metadata(volume)
        self.files.write(f"{name}/{NODE_FILE}", [described(metadata)])
        return write_shard(self.files, name, metadata, 0, volume)

    def _put(self, case_id: str, attributes: dict[str, Any]) -> None:
        """Make a case's group with its attributes, in one write."""
        content = described(GroupMetadata(attributes=attributes))
        self.files.write(f"cases/{case_id}/{NODE_FILE}", [content])

    @cached_property
    def _recent(self) -> deque[list[str]]:
        """The shards of the last cases, which may not have been on the disk a moment ago."""
        return deque(maxlen=RECENT)

    @cached_property
    def _crop_metadata(self) -> dict[str, Any]:
        """Of the arrays of the crops, by name; all but their length, which `allocate` changes."""
        return {name: self._writer[name].metadata for name in ROW_ARRAYS}

    @cached_property
    def _writer(self) -> Any:  # noqa: ANN401 - zarr's indexing yields a union that says nothing
        return zarr.open_group(self.path, mode="r+")


def is_current(record: CaseRecord, hashes: dict[str, str], manifest: Manifest) -> bool:
    """Whether a stored case is what preprocessing these sources would store again.

    Args:
        record: the stored case's.
        hashes: role to sha256 of the files as they are now.
        manifest: what would describe them.
    """
    return (
        record.parameter_hash == hash_of(parameters(manifest))
        and record.patient == manifest.patient_of(record.case_id)
        and {source.role: source.sha256 for source in record.sources} == hashes
        and (record.has_volume or not _keeps_volume(record, manifest))
    )


def _keeps_volume(record: CaseRecord, manifest: Manifest) -> bool:
    if manifest.volumes == "all":
        return True
    placed = assign(manifest.splits, {record.case_id: record.patient})
    return any(record.case_id in placed[name] for name in manifest.volumes)


def check_same_arrays(store: Store, manifest: Manifest) -> None:
    """A store's arrays have one crop and one type.

    Raises:
        StoreError: the manifest asks for another.
    """
    for name in ("crop", "dtype"):
        old, new = getattr(store.manifest, name), getattr(manifest, name)
        if old != new:
            raise StoreError(
                f"{store.path}: holds cases of {name} {old}, the manifest says {new}; "
                "preprocess into a new store with --store"
            )
