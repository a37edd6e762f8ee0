"""Who is in which split: seeded hashes of patients, explicit lists, or folds.

A patient's cases always stay together, and a patient's place depends on nothing but the seed
and the patient, so adding cases moves nobody.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from common.errors import ConfigError
from common.settings import kind_of

SPLITS = ("train", "val", "test")
SplitName = Literal["train", "val", "test"]

Fraction = Annotated[float, Field(ge=0, le=1)]


class FractionSplits(BaseModel):
    """Each patient falls by a seeded hash into a split of about this share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["fractions"] = "fractions"
    train: Fraction = 0.8
    val: Fraction = 0.1
    test: Fraction = 0.1
    seed: int = 0

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

    @property
    def requested(self) -> tuple[str, ...]:
        """Splits that should hold somebody."""
        return tuple(name for name in SPLITS if getattr(self, name) > 0)


class FoldSplits(BaseModel):
    """k folds by a seeded hash: fold `fold` is val, a share of all patients is test first."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["folds"]
    folds: int = Field(default=5, ge=2)
    fold: int = Field(default=0, ge=0)
    test: Fraction = 0.0
    seed: int = 0

    @model_validator(mode="after")
    def _fold(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold must be below folds ({self.folds})")
        return self

    def place(self, patient: str) -> SplitName:
        """The split of one patient."""
        if uniform(self.seed, f"test/{patient}") < self.test:
            return "test"
        fold = int(uniform(self.seed, patient) * self.folds)
        return "val" if fold == self.fold else "train"

    @property
    def requested(self) -> tuple[str, ...]:
        """Splits that should hold somebody."""
        return ("train", "val", "test") if self.test > 0 else ("train", "val")


class ListSplits(BaseModel):
    """Case ids by name; a case in no list is in no split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["lists"]
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        counts = Counter((*self.train, *self.val, *self.test))
        doubled = sorted(case for case, count in counts.items() if count > 1)
        if doubled:
            raise ValueError(f"cases listed twice: {', '.join(doubled[:5])}")
        return self

    @property
    def requested(self) -> tuple[str, ...]:
        """Splits that should hold somebody."""
        return tuple(name for name in SPLITS if getattr(self, name))


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


def assign(splits: Splits, patients: Mapping[str, str]) -> dict[str, list[str]]:
    """Case ids by split, sorted.

    Args:
        splits: the manifest's rule.
        patients: case id to patient, of the cases to divide.

    Raises:
        ConfigError: explicit lists put cases of one patient into two splits.
    """
    if isinstance(splits, ListSplits):
        placed = {name: sorted(set(getattr(splits, name)) & set(patients)) for name in SPLITS}
        _check_undivided(placed, patients)
        return placed
    placed = {name: list[str]() for name in SPLITS}
    for case_id in sorted(patients):
        placed[splits.place(patients[case_id])].append(case_id)
    return placed


def fill(splits: Splits, patients: Mapping[str, str]) -> dict[str, list[str]]:
    """As `assign`, with somebody in every split that the rule asks for, if there is anybody.

    Raises:
        ConfigError: one would be empty, or a patient is in two.
    """
    placed = assign(splits, patients)
    for name in splits.requested if patients else ():
        require(name, placed, patients)
    return placed


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


def shared(
    placed: Mapping[str, Iterable[str]], images: Mapping[str, Iterable[str]]
) -> list[tuple[str, str]]:
    """Cases that have an image in common and are in different splits, as `case (split)` pairs.

    Args:
        placed: case ids by split.
        images: case id to the sha256 of its image files.
    """
    first: dict[str, tuple[str, str]] = {}
    pairs = dict[tuple[str, str], None]()
    for name, cases in placed.items():
        for case_id in cases:
            for image in images[case_id]:
                split, other = first.setdefault(image, (name, case_id))
                if split != name:
                    pairs[f"{other} ({split})", f"{case_id} ({name})"] = None
    return list(pairs)


def require(name: str, placed: Mapping[str, list[str]], patients: Mapping[str, str]) -> list[str]:
    """The cases of one split.

    Raises:
        ConfigError: nobody is in it; the message holds lists to paste into the manifest.
    """
    if name not in SPLITS:
        raise ConfigError(f"no split is called {name!r}; there are {', '.join(SPLITS)}")
    if placed[name]:
        return placed[name]
    raise ConfigError(
        f"split '{name}' is empty: {len(patients)} labelled case(s), of which "
        + ", ".join(f"{len(placed[other])} in {other}" for other in SPLITS)
        + ".\n"
        + _suggestion(patients)
    )


def _suggestion(patients: Mapping[str, str]) -> str:
    """Explicit lists for the manifest in which every split holds a patient, if there are 3."""
    groups: dict[str, list[str]] = {}
    for case_id in sorted(patients):
        groups.setdefault(patients[case_id], []).append(case_id)
    if len(groups) < 3:
        return (
            f"There are {len(groups)} labelled patient(s); train, val and test need one each. "
            "To store them all the same: splits: {kind: fractions, train: 1, val: 0, test: 0}"
        )
    order = sorted(groups.values(), key=lambda cases: uniform(0, cases[0]))
    held = max(1, len(order) // 10)
    lists = {
        "train": order[2 * held :],
        "val": order[:held],
        "test": order[held : 2 * held],
    }
    lines = [
        f"  {name}: [{', '.join(case for cases in chosen for case in cases)}]"
        for name, chosen in lists.items()
    ]
    return "Lists to paste into the manifest:\nsplits:\n  kind: lists\n" + "\n".join(lines)
