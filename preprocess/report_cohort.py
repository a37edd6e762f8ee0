"""A store as the quality report sees it: its cases, what was measured of them, and the rest."""

from dataclasses import dataclass

from common.record import CaseFailure, CaseRecord
from common.store import Store
from preprocess.report_flags import FLAGS, Severity
from preprocess.report_measure import Measures


@dataclass(frozen=True)
class Case:
    """A stored case with what was measured of it.

    Attributes:
        record: its record.
        split: the split it is in; empty if in none.
        measures: None if its voxels could not be read.
        problem: why they could not be.
    """

    record: CaseRecord
    split: str
    measures: Measures | None
    problem: str = ""

    @property
    def tumour_ml(self) -> dict[str, float] | None:
        """Volume of each region, of the whole tumour; None without a label."""
        voxels = self.record.tumour_voxels
        # Voxels are counted in the 1 mm grid: a thousand of them are a millilitre.
        return None if voxels is None else {r: n / 1000 for r, n in voxels.native.items()}


@dataclass(frozen=True)
class Raised:
    """A flag on a case, with what was found there."""

    key: str
    detail: str


@dataclass(frozen=True)
class Cohort:
    """What the report is made of.

    Attributes:
        store: where it comes from.
        cases: the stored cases, by id.
        flags: case id to its flags.
        failures: the cases that preprocessing set aside.
        missing: ids of cases that were found and not tried yet.
    """

    store: Store
    cases: list[Case]
    flags: dict[str, list[Raised]]
    failures: list[CaseFailure]
    missing: list[str]

    @property
    def to_check(self) -> list[str]:
        """Ids of the cases that have more than notes."""
        return [
            case_id
            for case_id, flags in self.flags.items()
            if any(FLAGS[flag.key].severity is not Severity.NOTE for flag in flags)
        ]
