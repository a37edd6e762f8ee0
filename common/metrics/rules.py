"""Rule sets of the challenges for lesion-wise scores, as named values.

Source: the organisers' code, https://github.com/rachitsaluja/BraTS-2023-Metrics,
https://github.com/rachitsaluja/BraTS-2024-Metrics and https://github.com/BraTS/BraTS_evaluation;
`docs/scores.md` describes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from typing import Literal

from common.metrics.metric import (
    BORDER_HD95,
    BORDER_NSD_HALF,
    BORDER_NSD_ONE,
    BORDER_NSD_VOXEL,
    DICE,
    HD95,
    NSD,
    Metric,
)
from common.task import Task
from common.volume import Triple

Status = Literal["tp", "fn", "fp", "ignored"]
"""A lesion found, missed, or predicted where there is none; or too small to count."""


@dataclass(frozen=True)
class RuleSet:
    """How a challenge scored lesions in a year. Figures of two rule sets do not compare."""

    name: str
    """Year and challenge, as in brats2024-gli."""
    metrics: tuple[Metric, ...]
    """Computed for each lesion."""
    penalty_mm: float | None
    """Of a distance where one mask is empty; None: as many mm as the image's diagonal has voxels,
    whatever the spacing."""
    counted: tuple[Status, ...] = ("tp", "fn", "fp")
    """What means are over."""
    one_to_one: bool = False
    """Lesions are matched in pairs that overlap, not with every predicted lesion near them."""
    dilations: int = 0
    """How often a lesion is dilated: parts that touch then are one, and predictions are near."""
    threshold_mm3: float = 0.0
    """Reference lesions of at most this volume are ignored."""
    region_dilations: Mapping[str, int] = field(default_factory=dict)
    """Region to its own number."""
    region_threshold_mm3: Mapping[str, float] = field(default_factory=dict)
    """Region to its own volume."""
    clean_predictions: bool = False
    """Predictions are treated as references are: parts that touch once dilated are one lesion, and
    those of at most the threshold are removed."""
    joined_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Region to other tissues: its lesions that touch the same lesion of one of these are one."""

    def dilations_of(self, region: str) -> int:
        """How often lesions of this region are dilated."""
        return self.region_dilations.get(region, self.dilations)

    def threshold_mm3_of(self, region: str) -> float:
        """The volume up to which lesions of this region are ignored."""
        return self.region_threshold_mm3.get(region, self.threshold_mm3)

    def with_penalty(self, metrics: Sequence[Metric], shape: Triple) -> tuple[Metric, ...]:
        """Metrics whose distances have this rule set's value where one mask is empty.

        `shape` is the whole image's.
        """
        penalty = hypot(*shape) if self.penalty_mm is None else self.penalty_mm
        return tuple(
            replace(metric, one_empty=penalty) if metric.unit == "mm" else metric
            for metric in metrics
        )


def _brats2023(challenge: str, dilations: int, threshold_mm3: float) -> RuleSet:
    return RuleSet(
        f"brats2023-{challenge}",
        (DICE, HD95, *NSD),
        penalty_mm=374.0,
        dilations=dilations,
        threshold_mm3=threshold_mm3,
    )


_CORE = ("netc", "ncr")
"""The non-enhancing core, as tasks name it: a task has one of both."""
_2024 = RuleSet(
    "brats2024-ssa",
    (DICE, HD95, BORDER_NSD_HALF, BORDER_NSD_ONE),
    penalty_mm=374.0,
    dilations=3,
    threshold_mm3=50.0,
    clean_predictions=True,
    joined_by={"et": _CORE},
)

RULE_SETS: Mapping[str, RuleSet] = {
    rules.name: rules
    for rules in (
        _brats2023("gli", 3, 50.0),
        _brats2023("ssa", 3, 50.0),
        _brats2023("ped", 3, 50.0),
        _brats2023("men", 1, 50.0),
        _brats2023("men-rt", 1, 50.0),  # as men: there was no such challenge before 2024
        _brats2023("met", 1, 2.0),
        replace(
            _2024,
            name="brats2024-gli",
            penalty_mm=337.0,
            threshold_mm3=20.0,
            region_dilations=dict.fromkeys((*_CORE, "rc"), 5),  # not snfh, which the code misspells
            region_threshold_mm3={"et": 10.0},
            joined_by={
                **dict.fromkeys(_CORE, ("et", "rc")),
                "et": (*_CORE, "rc"),
                "rc": ("et", *_CORE),
                "snfh": ("et", "rc", *_CORE),
            },
        ),
        _2024,
        replace(_2024, name="brats2024-ped", dilations=5, threshold_mm3=10.0, joined_by={}),
        replace(
            _2024, name="brats2024-men", dilations=1, clean_predictions=False, joined_by={}
        ),
        replace(
            _2024,
            name="brats2024-men-rt",
            penalty_mm=None,
            counted=("tp", "fn"),
            dilations=1,
            joined_by={},
        ),
        replace(_2024, name="brats2024-met", penalty_mm=None, dilations=1, threshold_mm3=2.0),
        RuleSet(
            "brats2026",
            (DICE, BORDER_HD95, BORDER_NSD_VOXEL),
            penalty_mm=373.0,
            counted=("tp",),
            one_to_one=True,
        ),
    )
}  # fmt: skip

CHALLENGES: Mapping[str, str] = {
    "pediatric": "ped",
    "metastases": "met",
    "meningioma-rt": "men-rt",
}
"""Task to the challenge whose rules it has; others have those of gliomas."""

DEFAULT_RULES = "brats2023"


def rules_for(name: str, task: Task) -> RuleSet:
    """The rule set of a year for a task, or the one of this full name.

    Raises:
        ValueError: there is none.
    """
    full = f"{name}-{CHALLENGES.get(task.name, 'gli')}"
    for known in (name, full):
        if known in RULE_SETS:
            return RULE_SETS[known]
    years = sorted({each.partition("-")[0] for each in RULE_SETS})
    raise ValueError(
        f"no rule set is called {name!r}; there are {', '.join(years)}, which follow the task, and "
        f"{', '.join(sorted(RULE_SETS))}"
    )
