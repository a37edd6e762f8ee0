"""A store's files as they lie there, below zarr: listed, and taken away."""

from collections.abc import Iterator
from contextlib import suppress

from common.store.place import filesystem_of

ROW_ARRAYS = ("crops/image", "crops/label")
RECORD_FILE = "zarr.json"
UNFINISHED = ".partial"
"""Suffix of a file that zarr, or the copying of a store, had only begun when it was killed."""


class StoreFiles:
    """The files of the store at a path; names are relative to it, with `/` between folders."""

    def __init__(self, path: str) -> None:
        self._filesystem, self._root = filesystem_of(path)

    def all(self) -> list[str]:
        """Every file, sorted."""
        start = len(self._root) + 1
        return sorted(str(file)[start:] for file in self._filesystem.find(self._root))

    def case_folders(self) -> list[str]:
        """Names of what lies in `cases`, case or not, sorted."""
        entries = self._filesystem.ls(f"{self._root}/cases", detail=True)
        folders = [entry["name"] for entry in entries if entry["type"] == "directory"]
        return sorted(str(folder).rstrip("/").rsplit("/", 1)[-1] for folder in folders)

    def has_record_file(self, case_id: str) -> bool:
        """Whether a case's folder holds the file that its record stands in."""
        return bool(self._filesystem.isfile(f"{self._root}/cases/{case_id}/{RECORD_FILE}"))

    def of_case(self, case_id: str, row: int | None) -> list[str]:
        """The files of a case: those in its folder, and those of its row in the crops."""
        folders = [f"cases/{case_id}"]
        if row is not None:
            folders += [f"{array}/c/{row}" for array in ROW_ARRAYS]
        start = len(self._root) + 1
        found = [self._filesystem.find(f"{self._root}/{folder}") for folder in folders]
        return [str(file)[start:] for files in found for file in files]

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        content: bytes = self._filesystem.cat_file(f"{self._root}/{name}")
        return content

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        with suppress(FileNotFoundError):
            self._filesystem.rm_file(f"{self._root}/{name}")

    def remove_case(self, case_id: str) -> None:
        """Take a case's folder away, whatever is in it: first the record, then the arrays."""
        folder = f"{self._root}/cases/{case_id}"
        if not self._filesystem.exists(folder):
            return
        self.remove(f"cases/{case_id}/{RECORD_FILE}")
        for file in self._filesystem.find(folder):
            self._filesystem.rm_file(file)
        if self._filesystem.isdir(folder):  # an object store has no folders
            self._filesystem.rm(folder, recursive=True)


def rows_of(files: list[str]) -> Iterator[tuple[int, str]]:
    """Row and name of each file that holds voxels of a row of the crops."""
    for name in files:
        for array in ROW_ARRAYS:
            row = name.removeprefix(f"{array}/c/").partition("/")[0]
            if name.startswith(f"{array}/c/") and row.isdigit():
                yield int(row), name
