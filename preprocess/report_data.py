"""What the report's table and case view are made of, as JSON-like values."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.labels import MODALITIES
from preprocess.report_cohort import Case, Cohort
from preprocess.report_flags import FLAGS
from preprocess.report_measure import NORMALISED_EDGES
from preprocess.report_rules import NAMES

CURVE_STEPS = 255
"""Levels of a case's own curve, which the page holds as a byte a bin."""

DECIDED = {
    "values": "label values",
    "names": "file names",
    "layout": "the files' layout",
    "manifest": "the manifest",
}
"""What can decide a case's label convention, in words."""


def page_data(cohort: Cohort) -> dict[str, Any]:
    """Flags, the cohort's normalised intensities, and every case."""
    curves = _cohort_curves(cohort.cases)
    tops = {name: max(*curve["high"], *curve["mean"]) for name, curve in curves.items()}
    return {
        "flags": {
            key: {
                "severity": flag.severity.value,
                "title": flag.title,
                "meaning": flag.meaning,
                "action": flag.action,
            }
            for key, flag in FLAGS.items()
        },
        "names": NAMES,
        "edges": [float(NORMALISED_EDGES[0]), float(NORMALISED_EDGES[-1])],
        "curves": curves,
        # A case's curve may rise above the cohort's; twice as high is where it is cut.
        "tops": {name: 2 * top for name, top in tops.items()},
        "cases": [_case(case, cohort, tops) for case in cohort.cases],
    }


def picture(case: Case) -> str | None:
    """The case's thumbnail in base64."""
    return base64.b64encode(case.measures.thumbnail).decode() if case.measures else None


def measured_curves(cases: list[Case], name: str, kind: str) -> NDArray[np.floating]:
    """(cases, bins) shares of voxels of one modality; `kind` is `normalised` or `original`."""
    curves = [
        getattr(case.measures.modalities[name], kind)
        for case in cases
        if case.measures and case.measures.modalities
    ]
    return np.stack(curves) if curves else np.empty((0, 0))


def _cohort_curves(cases: list[Case]) -> dict[str, dict[str, list[float]]]:
    found = {}
    for name in MODALITIES:
        curves = measured_curves(cases, name, "normalised")
        if curves.size:
            low, high = np.percentile(curves, (5, 95), axis=0)
            found[name] = {
                "low": _rounded(low),
                "mean": _rounded(curves.mean(axis=0)),
                "high": _rounded(high),
            }
    return found


def _rounded(values: NDArray[np.floating]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _case(case: Case, cohort: Cohort, tops: dict[str, float]) -> dict[str, Any]:
    record, voxels = case.record, case.record.tumour_voxels
    stored = record.box if record.has_volume else record.crop
    return {
        "id": record.case_id,
        "patient": record.patient,
        "split": case.split,
        "labelled": record.has_label,
        "convention": record.convention.value,
        "decided": DECIDED[record.convention_from],
        "ml": case.tumour_ml,
        "lost": None if voxels is None else round(voxels.lost("crop"), 5),
        "centred": None if voxels is None else round(voxels.lost("centred_crop"), 5),
        "grid": list(record.geometry.shape),
        "spacing": [round(mm, 4) for mm in record.geometry.spacing_mm],
        "stored": list(stored.shape),
        "whole": record.has_volume,
        "flags": [[flag.key, flag.detail] for flag in cohort.flags[record.case_id]],
        "statistics": {
            name: [round(record.mean[name], 2), round(record.std[name], 2)] for name in MODALITIES
        },
        "curves": _own_curves(case, tops),
        "sources": [
            [source.role, source.file, source.size_bytes, source.sha256]
            for source in record.sources
        ],
        "notes": [[note.file, note.found, note.action] for note in record.notes],
    }


def _own_curves(case: Case, tops: dict[str, float]) -> dict[str, str]:
    """Each modality's normalised intensities, a byte a bin, in base64."""
    if case.measures is None:
        return {}
    return {
        name: base64.b64encode(
            np.clip(image.normalised * (CURVE_STEPS / (2 * tops[name])), 0, CURVE_STEPS)
            .round()
            .astype(np.uint8)
            .tobytes()
        ).decode()
        for name, image in case.measures.modalities.items()
    }
