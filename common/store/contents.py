"""What a store holds at one moment: cases, why others are not there, who is in which split."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from common.errors import ConfigError
from common.labels import MODALITIES
from common.record import CaseFailure, CaseRecord
from common.settings import explain
from common.splits import Splits, assign, require, shared
from common.store.place import damaged

M = TypeVar("M", bound=BaseModel)


class Contents:
    """A store's cases, from one reading of each case's folder; whatever changes later is not seen.

    Attributes:
        path: where the store is.
        expected: ids of every case that the last preprocessing run found usable.
    """

    def __init__(
        self,
        path: str,
        splits: Splits,
        parameter_hash: str,
        expected: tuple[str, ...],
        attributes: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.path = path
        self.expected = expected
        self._rule = splits
        self._parameter_hash = parameter_hash
        self._attributes = attributes

    @cached_property
    def records(self) -> dict[str, CaseRecord]:
        """The committed cases of the store's own parameters by id, sorted.

        Raises:
            StoreError: a record is damaged.
        """
        return {
            case_id: record
            for case_id, record in self.committed.items()
            if record.parameter_hash == self._parameter_hash
        }

    @cached_property
    def absent(self) -> list[str]:
        """Ids of the expected cases that no reader finds, whether they failed or were never tried.

        Raises:
            StoreError: a record is damaged.
        """
        return sorted(set(self.expected) - self.records.keys())

    @cached_property
    def stale(self) -> list[str]:
        """Ids of committed cases that a run with another manifest left, and none has made again.

        Their labels may mean something else, so that nobody may use them beside the others.
        """
        return sorted(self.committed.keys() - self.records.keys())

    @cached_property
    def committed(self) -> dict[str, CaseRecord]:
        """The committed cases of any parameters by id, sorted.

        Raises:
            StoreError: a record is damaged.
        """
        return {
            case_id: parsed(self.path, CaseRecord, attributes["record"], case_id)
            for case_id, attributes in self._attributes.items()
            if "record" in attributes
        }

    @cached_property
    def failures(self) -> dict[str, CaseFailure]:
        """The cases that were tried and are not in the store, by id, sorted.

        Raises:
            StoreError: what is kept of one is damaged.
        """
        return {
            case_id: parsed(self.path, CaseFailure, attributes["failure"], case_id)
            for case_id, attributes in self._attributes.items()
            if "failure" in attributes and "record" not in attributes
        }

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """Labelled cases by split, sorted.

        Raises:
            ConfigError: the manifest's lists divide a patient.
        """
        return assign(self._rule, self._patients)

    @cached_property
    def leaks(self) -> list[str]:
        """What makes a score worthless: an image that is in two splits, a line for each pair."""
        images = {
            case_id: [source.sha256 for source in record.sources if source.role in MODALITIES]
            for case_id, record in self.records.items()
            if record.has_label
        }
        return [
            f"{one} and {other} have the same image: list both in one split, or move one of the "
            "cases away and preprocess with --drop-absent"
            for one, other in shared(self.splits, images)
        ]

    def split(self, name: str) -> list[str]:
        """Ids of the labelled cases of one split, sorted.

        Raises:
            ConfigError: the split is empty, and the message holds lists to paste; or an image is
                in two splits.
        """
        if self.leaks:
            raise ConfigError(f"{self.path}: " + "\n".join(self.leaks))
        try:
            return require(name, self.splits, self._patients)
        except ConfigError as error:
            if not self.absent:
                raise
            raise ConfigError(
                f"{self.path}: {len(self.absent)} of {len(self.expected)} expected case(s) are not "
                f"stored: preprocess again first. As it is, {error}"
            ) from error

    @cached_property
    def _patients(self) -> dict[str, str]:
        """Labelled case to patient."""
        return {c: record.patient for c, record in self.records.items() if record.has_label}


def parsed(path: str, model: type[M], value: object, case_id: str) -> M:
    """A case's record or failure, as a typed value.

    Raises:
        StoreError: it does not have exactly the model's fields.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        what = f"its record is not readable: {explain(error)}"
        raise damaged(path, case_id, what) from error
