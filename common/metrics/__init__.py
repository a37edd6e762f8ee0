"""Metrics of predicted masks against reference masks, by region and by lesion.

A metric is a value (`metric`), a challenge's rules for lesions too (`rules`); `score_case` compares
two label volumes, `score_masks` two sets of masks.
"""

from common.metrics.lesions import Lesion, LesionScores
from common.metrics.metric import DICE, HD95, METRICS, TRAINING_METRICS, Metric
from common.metrics.pair import MaskPair
from common.metrics.rules import DEFAULT_RULES, RULE_SETS, RuleSet, rules_for
from common.metrics.scores import (
    CaseScores,
    RegionScore,
    mean_over_regions,
    score_case,
    score_masks,
)
from common.metrics.surface import Mask

__all__ = [
    "DEFAULT_RULES",
    "DICE",
    "HD95",
    "METRICS",
    "RULE_SETS",
    "TRAINING_METRICS",
    "CaseScores",
    "Lesion",
    "LesionScores",
    "Mask",
    "MaskPair",
    "Metric",
    "RegionScore",
    "RuleSet",
    "mean_over_regions",
    "rules_for",
    "score_case",
    "score_masks",
]
