"""Writing a store: rows, cases and their commits."""

from functools import cached_property
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from common.case import PreparedCase
from common.errors import StoreError
from common.manifest import Manifest
from common.record import CaseFailure, CaseRecord, hash_of, parameters
from common.store.files import StoreFiles
from common.store.format import (
    CROP_ARRAYS,
    NODE_FILE,
    SCHEMA_VERSION,
    array_metadata,
    checksum,
    crop_shape,
    described,
    described_group,
    dtype_of,
    rows_in,
)
from common.store.paths import translate_io_errors
from common.store.reader import Store
from common.store.root import find_store
from common.store.shard import write_shard


class StoreWriter(Store):
    """A store that cases are written to.

    A case's files are written without zarr or zarrs, so that none is ever incomplete.
    """

    @classmethod
    def create(cls, path: str | Path, manifest: Manifest, expected: tuple[str, ...] = ()) -> Self:
        """Open a store for writing, making it if there is none; it takes this manifest.

        `expected` are the ids of the cases that are to be stored.

        Raises:
            StoreError: something else is there, or a store with other arrays.
        """
        attributes: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "manifest": manifest.model_dump(mode="json", exclude={"cluster", "store"}),
            "parameters": parameters(manifest),
            "parameter_hash": hash_of(parameters(manifest)),
            "expected": list(expected),
        }
        with translate_io_errors(str(path), "written"):
            files = StoreFiles(str(path))
            if find_store(str(path)) is not None:
                check_same_arrays(cls(path), manifest)
            else:
                create_arrays(files, manifest)
            files.write(NODE_FILE, [described_group(attributes)])
            return cls(path)

    def allocate(self, count: int) -> list[int]:
        """Append rows to the crops and return their numbers; a row is never given out twice."""
        with translate_io_errors(self.path, "written"):
            nodes = [self.files.read(f"{array}/{NODE_FILE}") for array in CROP_ARRAYS]
            first = max(map(rows_in, nodes))
            _describe_crops(self.files, self.manifest, first + count)
        return list(range(first, first + count))

    def write(self, case: PreparedCase, row: int) -> CaseRecord:
        """Store one case in a row that was allocated for it; the record, the commit, comes last."""
        case_id = case.record.case_id
        self.remove(case_id)
        self.free(row)  # a worker that was killed over this case may have begun it
        crops = {"crops/image": case.crop_image, "crops/label": case.crop_label}
        volumes = {"image": case.image, "label": case.label, "reference": case.reference}
        checksums: dict[str, str] = {}
        for name, array in (crops | volumes).items():
            if array is None:
                continue
            if name in crops:
                write_shard(self.files, name, self._crop_metadata[name], row, array)
            else:
                self._write_volume(case_id, name, array)
            checksums[name] = checksum(array)
        record = case.record.model_copy(update={"row": row, "checksums": checksums})
        self._put(case_id, {"record": record.model_dump(mode="json")})
        return record

    def remove(self, case_id: str) -> None:
        """Remove a case, whatever state it is in: first its record, then its arrays and row."""
        row = self.row_if_known(case_id)
        self.files.remove_case(case_id)
        if row is not None:
            self.free(row)

    def free(self, row: int) -> None:
        """Remove whatever was written to a row that no record names."""
        for name in self.files.of_row(row):
            self.files.remove(name)

    def set_aside(self, failure: CaseFailure, row: int | None = None) -> None:
        """Keep why a case is not in the store, and free the row it may have been writing."""
        self.remove(failure.case_id)
        if row is not None:
            self.free(row)
        self._put(failure.case_id, {"failure": failure.model_dump(mode="json")})

    def _write_volume(self, case_id: str, name: str, volume: NDArray[Any]) -> None:
        array = f"cases/{case_id}/{name}"
        metadata = array_metadata(name, volume.shape, volume.dtype.name)
        self.files.write(f"{array}/{NODE_FILE}", [described(metadata)])
        write_shard(self.files, array, metadata, 0, volume)

    def _put(self, case_id: str, attributes: dict[str, Any]) -> None:
        """Make a case's group with its attributes, in one write."""
        self.files.write(f"cases/{case_id}/{NODE_FILE}", [described_group(attributes)])

    @cached_property
    def _crop_metadata(self) -> dict[str, Any]:
        """By array; without the present length, which `allocate` changes."""
        return _crop_metadata(self.manifest, 0)


def create_arrays(files: StoreFiles, manifest: Manifest) -> None:
    """Make an empty store, but for its attributes."""
    for group in ("", "crops/", "cases/"):
        files.write(f"{group}{NODE_FILE}", [described_group({})])
    _describe_crops(files, manifest, 0)


def _describe_crops(files: StoreFiles, manifest: Manifest, rows: int) -> None:
    for array, metadata in _crop_metadata(manifest, rows).items():
        files.write(f"{array}/{NODE_FILE}", [described(metadata)])


def _crop_metadata(manifest: Manifest, rows: int) -> dict[str, Any]:
    names = {array: array.removeprefix("crops/") for array in CROP_ARRAYS}
    return {
        array: array_metadata(name, crop_shape(name, manifest), dtype_of(name, manifest), rows)
        for array, name in names.items()
    }


def is_current(record: CaseRecord, hashes: dict[str, str], manifest: Manifest) -> bool:
    """Whether preprocessing would store the same case again; `hashes` has the SHA-256 by role."""
    return (
        record.parameter_hash == hash_of(parameters(manifest))
        and {source.role: source.sha256 for source in record.sources} == hashes
    )


def check_same_arrays(store: Store, manifest: Manifest) -> None:
    """A store has one task, and arrays of one shape and one type.

    Raises:
        StoreError: the manifest asks for another.
    """
    for name, old, new in (
        ("crop", store.crop, manifest.crop),
        ("dtype", store.manifest.dtype, manifest.dtype),
        ("task", store.task.name, manifest.task.name),
        ("modalities", store.task.modalities, manifest.task.modalities),
        ("labels", store.task.labels, manifest.task.labels),
    ):
        if old != new:
            raise StoreError(
                f"{store.path}: holds cases of {name} {old}, the manifest says {new}; "
                "preprocess into a new store"
            )
