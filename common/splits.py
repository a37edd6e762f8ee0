"""Training, validation and test cases: by seeded hashes of patients, in folds, or as lists.

All cases of a patient are in one split.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from common import hints
from common.errors import ConfigError
from common.settings import kind_of

SPLITS = ("train", "val", "test")
SplitName = Literal["train", "val", "test"]

Fraction = Annotated[float, Field(ge=0, le=1)]


class Rule(BaseModel):
    """How cases are divided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def requested(self) -> tuple[str, ...]:
        """Splits that need a patient: those whose share or list is not empty."""
        return tuple(name for name in SPLITS if getattr(self, name))


class FractionSplits(Rule):
    """Each patient falls into a split of about this share, by a seeded hash.

    A patient's split depends on the seed and the patient alone, so adding patients moves no other,
    except out of a split that was filled because it would have been empty (`resolve`).
    """

    kind: Literal["fractions"] = "fractions"
    """`folds` and `lists` have other keys."""
    train: Fraction = 0.8
    """Share of patients to train on."""
    val: Fraction = 0.1
    """Share of patients to validate on."""
    test: Fraction = 0.1
    """Share of patients that no training sees."""
    seed: int = 0
    """Another one divides the patients otherwise."""

    @model_validator(mode="after")
    def _sum(self) -> Self:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train + val + test must be 1")
        return self

    def place(self, patient: str) -> SplitName:
        """The split of one patient."""
        u = uniform(self.seed, patient)
        if u < self.train:
            return "train"
        return "val" if u < self.train + self.val else "test"

    def distance(self, patient: str, name: str) -> float:
        """How far a patient's hash is from the range of a split."""
        below = {"train": 0.0, "val": self.train, "test": self.train + self.val}[name]
        u = uniform(self.seed, patient)
        return max(below - u, u - below - float(getattr(self, name)), 0.0)


class FoldSplits(Rule):
    """k-fold cross-validation: a share of patients is test, and of the others fold `fold` is val.

    Patients in the order of a seeded hash are cut into k groups whose sizes differ by at most one.
    So one patient more can move patients near a group's border, and only to the neighbouring fold.
    """

    kind: Literal["folds"]
    """`fractions` and `lists` have other keys."""
    folds: int = Field(default=5, ge=2)
    """How many folds there are."""
    fold: int = Field(default=0, ge=0)
    """The fold to validate on, counted from 0; the others train."""
    test: Fraction = 0.0
    """Share of patients that are in no fold and no training sees."""
    seed: int = 0
    """Another one divides the patients otherwise."""

    @model_validator(mode="after")
    def _fold(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds})")
        return self

    @property
    def requested(self) -> tuple[str, ...]:
        """Splits that need a patient."""
        return ("train", "val", "test") if self.test > 0 else ("train", "val")


class ListSplits(Rule):
    """Case ids by split; a case in no list is in no split."""

    kind: Literal["lists"]
    """`fractions` and `folds` have other keys."""
    train: tuple[str, ...] = ()
    """Ids of the cases to train on."""
    val: tuple[str, ...] = ()
    """Ids of the cases to validate on."""
    test: tuple[str, ...] = ()
    """Ids of the cases that no training sees."""

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        counts = Counter((*self.train, *self.val, *self.test))
        doubled = sorted(case for case, count in counts.items() if count > 1)
        if doubled:
            raise ValueError(f"cases listed twice: {', '.join(doubled[:5])}")
        return self


Splits = Annotated[
    Annotated[FractionSplits, Tag("fractions")]
    | Annotated[FoldSplits, Tag("folds")]
    | Annotated[ListSplits, Tag("lists")],
    Discriminator(
        kind_of("fractions"),
        custom_error_type="kind",
        custom_error_message="expected kind: fractions, folds or lists",
    ),
]


def uniform(seed: int, patient: str) -> float:
    """A number in [0, 1) that depends on the seed and the patient alone."""
    digest = hashlib.sha256(f"{seed}/{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class SplitAssignment:
    """The cases of every split."""

    cases: dict[str, list[str]]
    """Split to sorted case ids; `train`, `val` and `test` are always there."""
    messages: tuple[str, ...] = ()
    """Which patients are not in the split of their hash, and why."""


def resolve(splits: Splits, patients: Mapping[str, str]) -> SplitAssignment:
    """Divide cases, with a patient in every split that the rule asks for.

    Where hashing leaves a split empty, the patient with the nearest hash fills it. `patients` has
    the patient of each labelled case.

    Raises:
        ConfigError: there are too few patients, lists name no case that is there, or cases of one
            patient are in two lists.
    """
    _check_enough(splits, len(set(patients.values())))
    found = _divide(splits, patients)
    _check_undivided(found.cases, patients)
    for name in splits.requested:
        require(name, found.cases, patients)
    return found


def assign(splits: Splits, patients: Mapping[str, str]) -> dict[str, list[str]]:
    """As `resolve`, for display: splits may be empty, and lists may divide a patient."""
    return _divide(splits, patients).cases


def _divide(splits: Splits, patients: Mapping[str, str]) -> SplitAssignment:
    if isinstance(splits, ListSplits):
        return SplitAssignment(
            {name: sorted(set(getattr(splits, name)) & set(patients)) for name in SPLITS}
        )
    everyone = set(patients.values())
    if isinstance(splits, FractionSplits):
        home, messages = _by_fractions(splits, everyone)
    else:
        home, messages = _by_folds(splits, everyone)
    placed = {name: list[str]() for name in SPLITS}
    for case_id in sorted(patients):
        placed[home[patients[case_id]]].append(case_id)
    return SplitAssignment(placed, tuple(messages))


def _by_fractions(splits: FractionSplits, patients: set[str]) -> tuple[dict[str, str], list[str]]:
    """The split of each patient, and messages."""
    home: dict[str, str] = {patient: splits.place(patient) for patient in patients}
    messages = list[str]()
    for name in splits.requested if len(patients) >= len(splits.requested) else ():
        counts = Counter(home.values())
        if not counts[name]:
            movable = [patient for patient in patients if counts[home[patient]] > 1]
            nearest = min(movable, key=lambda p: (splits.distance(p, name), p))
            messages.append(
                f"{name} would be empty by hash: patient {nearest} of {home[nearest]} fills it"
            )
            home[nearest] = name
    return home, messages


def _by_folds(splits: FoldSplits, patients: set[str]) -> tuple[dict[str, str], list[str]]:
    """The split of each patient, and messages. The highest hashes are test, as with fractions."""
    by_hash = sorted(patients, key=lambda p: (uniform(splits.seed, p), p))
    share = sum(uniform(splits.seed, patient) >= 1 - splits.test for patient in patients)
    held_out = min(max(share, int(splits.test > 0)), max(0, len(patients) - splits.folds))
    messages = []
    if held_out != share:
        messages.append(
            f"test has {held_out} patient(s) and not the {share} of its hash, so that test and "
            f"{splits.folds} folds have one each"
        )
    rest = by_hash[: len(by_hash) - held_out]
    home = dict.fromkeys(by_hash[len(rest) :], "test")
    for index, patient in enumerate(rest):
        fold = index * splits.folds // len(rest)
        home[patient] = "val" if fold == splits.fold else "train"
    return home, messages


def with_fold(splits: Splits, fold: int, folds: int | None = None) -> FoldSplits:
    """A rule with fold number `fold` as val, of `folds` if given, else of those that it has.

    Fractions become folds, 5 if not given, with the same test share.

    Raises:
        ConfigError: the rule has no such fold, or is lists.
    """
    if isinstance(splits, ListSplits):
        raise ConfigError(
            f"fold {fold}: the splits are lists of cases, which have no folds; name no fold, or "
            f"add {hints.settings('splits.kind=folds')}, which divides all patients into folds"
        )
    if isinstance(splits, FractionSplits):
        splits = FoldSplits(kind="folds", test=splits.test, seed=splits.seed)
    splits = splits.model_copy(update={"fold": 0, "folds": folds or splits.folds})
    if not 0 <= fold < splits.folds:
        raise ConfigError(f"fold: {fold} is out of range; folds are 0 to {splits.folds - 1}")
    return splits.model_copy(update={"fold": fold})


def _check_enough(splits: Splits, count: int) -> None:
    if not count:
        raise ConfigError(
            "splits: there are 0 labelled patients; `check` says which files it takes for labels"
        )
    if isinstance(splits, ListSplits):
        return
    if isinstance(splits, FoldSplits):
        other = int(splits.test > 0)
        if count < splits.folds + other:
            test = " and test" if other else ""
            least = f"set splits.folds to {count - other}" if count - other > 1 else "add cases"
            raise ConfigError(
                f"splits: {splits.folds} folds{test} need {splits.folds + other} labelled "
                f"patients, there are {count}: {least}"
            )
    elif count < len(splits.requested):
        advice = "add cases"
        if count == 2:
            advice += ", or set splits to {kind: fractions, train: 0.5, val: 0.5, test: 0}"
        raise ConfigError(
            f"splits: {', '.join(splits.requested)} need a labelled patient each, there are "
            f"{count}: {advice}"
        )


def _check_undivided(placed: Mapping[str, Iterable[str]], patients: Mapping[str, str]) -> None:
    home: dict[str, str] = {}
    for name, cases in placed.items():
        for case_id in cases:
            first = home.setdefault(patients[case_id], name)
            if first != name:
                raise ConfigError(
                    f"splits: patient {patients[case_id]} is in {first} and in {name} "
                    f"(case {case_id}); keep all cases of a patient in one split"
                )


def require(name: str, placed: Mapping[str, list[str]], patients: Mapping[str, str]) -> list[str]:
    """The cases of one split.

    Raises:
        ConfigError: it is empty, or there is none of this name.
    """
    if name not in SPLITS:
        raise ConfigError(f"no split is called {name!r}; there are {', '.join(SPLITS)}")
    if placed[name]:
        return placed[name]
    others = ", ".join(f"{len(placed[other])} in {other}" for other in SPLITS)
    raise ConfigError(
        f"split '{name}' is empty: {len(patients)} labelled case(s), of which {others}; add cases, "
        "or set splits"
    )
