"""The quality report as one HTML page, without other files."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.images import shown_channel
from common.report import page
from common.report.charts import Svg, decades_of, lost
from common.report.page import as_base64
from common.splits import SPLITS
from common.task import in_words, title
from preprocess.quality import charts
from preprocess.quality.measure import NORMALISED_EDGES, ORIGINAL_EDGES
from preprocess.quality.rules import FLAGS, Case, Cohort

CURVE_STEPS = 255
"""Levels of a case's own curve, which is stored as one byte per bin."""
REGION_COLUMNS = 3
"""Regions with a column of the table; a case's details show all."""

DECIDED = {
    "values": "label values",
    "names": "file names",
    "layout": "the files' layout",
    "manifest": "the manifest",
    "task": "the task",
}
"""What decided a case's label convention."""

SEVERITIES = {"error": "error", "check": "to check", "note": "for information"}
"""Severities as the page names them, most serious first."""


def _page_data(cohort: Cohort) -> dict[str, Any]:
    """What the page's script reads."""
    task = cohort.store.task
    curves = _cohort_curves(cohort)
    tops = {name: max(*curve["high"], *curve["mean"]) for name, curve in curves.items()}
    return {
        "flags": {key: asdict(flag) for key, flag in FLAGS.items()},
        "names": {name: title(name) for name in task.modalities},
        "regions": task.region_names,
        "columns": task.region_names[:REGION_COLUMNS],
        "shown": title(task.modalities[shown_channel(task.modalities)]),
        "edges": [float(NORMALISED_EDGES[0]), float(NORMALISED_EDGES[-1])],
        "curves": curves,
        # A case's curve may be higher than the cohort's; it is cut at twice the height.
        "tops": {name: 2 * top for name, top in tops.items()},
        "cases": [_case_data(case, cohort, tops) for case in cohort.cases],
    }


def _measured_curves(cases: list[Case], name: str, kind: str) -> NDArray[np.floating]:
    """Shares of voxels of one modality (cases, bins); `kind` is `normalised` or `original`."""
    curves = [
        getattr(case.measures.modalities[name], kind)
        for case in cases
        if case.measures and case.measures.modalities
    ]
    return np.stack(curves) if curves else np.empty((0, 0))


def _cohort_curves(cohort: Cohort) -> dict[str, dict[str, list[float]]]:
    found = {}
    for name in cohort.store.task.modalities:
        curves = _measured_curves(cohort.cases, name, "normalised")
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


def _case_data(case: Case, cohort: Cohort, tops: dict[str, float]) -> dict[str, Any]:
    record, voxels = case.record, case.record.tumour_voxels
    return {
        "id": record.case_id,
        "patient": cohort.store.manifest.patient_of(record.case_id),
        "split": case.split,
        "labelled": record.has_label,
        "convention": record.convention,
        "decided": DECIDED[record.convention_from],
        "ml": case.tumour_ml,
        "lost": None if voxels is None else round(voxels.lost("crop"), 5),
        "centred": None if voxels is None else round(voxels.lost("centred_crop"), 5),
        "grid": list(record.geometry.shape),
        "spacing": [round(mm, 4) for mm in record.geometry.spacing_mm],
        "stored": list(record.box.shape),
        "flags": [[flag.key, flag.detail] for flag in cohort.flags[record.case_id]],
        "statistics": {
            name: [round(record.mean[name], 2), round(record.std[name], 2)] for name in record.mean
        },
        "curves": _own_curves(case, tops),
        "sources": [
            [source.role, source.file, source.size_bytes, source.sha256]
            for source in record.sources
        ],
        "warnings": [[note.file, note.found, note.action] for note in record.warnings],
    }


def _own_curves(case: Case, tops: dict[str, float]) -> dict[str, str]:
    """Each modality's normalised intensities, one byte per bin, in base64."""
    if case.measures is None:
        return {}
    return {
        name: as_base64(np.round(steps.clip(0, CURVE_STEPS)).astype(np.uint8).tobytes())
        for name, image in case.measures.modalities.items()
        for steps in [image.normalised * (CURVE_STEPS / (2 * tops[name]))]
    }


def render(cohort: Cohort) -> str:
    """The whole page."""
    task = cohort.store.task
    pictures = [as_base64(c.measures.thumbnail) if c.measures else None for c in cohort.cases]
    columns = task.region_names[:REGION_COLUMNS]
    return page.render(
        "preprocess.quality",
        task,
        blocks={"data": _page_data(cohort), "pictures": pictures},
        values={
            "name": cohort.store.manifest.name,
            "store": cohort.store,
            "manifest": cohort.store.manifest.to_yaml(),
            "counts": _counts(cohort),
            "found": _found(cohort),
            "not_found": [flag for key, flag in FLAGS.items() if not _having(cohort, key)],
            "failures": cohort.failures,
            "missing": cohort.missing,
            "splits": _splits(cohort),
            "conventions": _conventions(cohort),
            "canonical": ", ".join(f"{v} {in_words(name)}" for name, v in task.labels.items()),
            "volumes": _volume_charts(cohort),
            "lost": _lost_chart(cohort.cases),
            "before": _intensity_charts(cohort, "original", ORIGINAL_EDGES, "before normalisation"),
            "after": _intensity_charts(
                cohort, "normalised", NORMALISED_EDGES, "after normalisation"
            ),
            "regions": task.region_names,
            "columns": columns,
            "region_titles": ", ".join(f"{r.upper()}: {title(r)}" for r in task.region_names),
            "shown": title(task.modalities[shown_channel(task.modalities)]),
            "severities": SEVERITIES,
        },
        root_style=f"--regions:{len(columns)}",
    )


def _counts(cohort: Cohort) -> list[tuple[str, int]]:
    labelled = sum(case.record.has_label for case in cohort.cases)
    return [
        ("done", len(cohort.cases)),
        ("failed", len(cohort.failures)),
        ("missing", len(cohort.missing)),
        ("labelled", labelled),
        ("unlabelled", len(cohort.cases) - labelled),
        ("patients", _patients(cohort, cohort.cases)),
        ("to check", len(cohort.to_check)),
    ]


def _having(cohort: Cohort, key: str) -> int:
    return sum(any(flag.key == key for flag in flags) for flags in cohort.flags.values())


def _found(cohort: Cohort) -> list[dict[str, Any]]:
    """The flags that some case has, the more serious and the more frequent first."""
    severities = list(SEVERITIES)
    found = [{"key": k, "flag": f, "cases": _having(cohort, k)} for k, f in FLAGS.items()]
    found = [entry for entry in found if entry["cases"]]
    return sorted(found, key=lambda e: (severities.index(e["flag"].severity), -e["cases"]))


def _patients(cohort: Cohort, cases: Iterable[Case]) -> int:
    return len({cohort.store.manifest.patient_of(case.record.case_id) for case in cases})


def _splits(cohort: Cohort) -> list[dict[str, Any]]:
    groups = {name: [case for case in cohort.cases if case.split == name] for name in SPLITS}
    groups["labelled, in no split"] = [
        case for case in cohort.cases if not case.split and case.record.has_label
    ]
    groups["unlabelled"] = [case for case in cohort.cases if not case.record.has_label]
    return [
        {
            "name": name,
            "cases": len(members),
            "share": len(members) / len(cohort.cases),
            "patients": _patients(cohort, members),
            "medians": _medians(members, cohort.store.task.region_names),
        }
        for name, members in groups.items()
        if members or name in SPLITS
        if cohort.cases
    ]


def _medians(cases: list[Case], regions: Sequence[str]) -> list[str]:
    """Median volume of each region in ml."""
    volumes = [case.tumour_ml for case in cases if case.tumour_ml is not None]
    if not volumes:
        return ["–"] * len(regions)
    return [f"{statistics.median(ml[region] for ml in volumes):.1f}" for region in regions]


def _conventions(cohort: Cohort) -> list[dict[str, Any]]:
    counts = Counter(
        (case.record.convention, case.record.convention_from)
        for case in cohort.cases
        if case.record.has_label
    )
    return [
        {
            "name": convention,
            "labels": cohort.store.task.legend(convention),
            "decided": DECIDED[decided],
            "cases": count,
        }
        for (convention, decided), count in counts.most_common()
    ]


def _volume_charts(cohort: Cohort) -> list[dict[str, Any]]:
    volumes = [case.tumour_ml for case in cohort.cases if case.tumour_ml is not None]
    if not volumes:
        return []
    decades = decades_of([ml for volume in volumes for ml in volume.values()])
    return [
        {
            "region": region,
            "chart": charts.volumes([ml[region] for ml in volumes], region, decades),
        }
        for region in cohort.store.task.region_names
    ]


def _lost_chart(cases: list[Case]) -> dict[str, Any] | None:
    voxels = [c.record.tumour_voxels for c in cases if c.record.tumour_voxels is not None]
    if not voxels:
        return None
    crop = [counts.lost("crop") for counts in voxels]
    centred = [counts.lost("centred_crop") for counts in voxels]
    return {
        "chart": lost({"crop": crop, "centred": centred}),
        "crop": f"{statistics.fmean(crop):.2%} on average, {max(crop):.1%} at most",
        "centred": f"{statistics.fmean(centred):.2%} on average, {max(centred):.1%} at most",
    }


def _intensity_charts(
    cohort: Cohort, kind: str, edges: NDArray[np.floating], when: str
) -> list[tuple[str, Svg]]:
    """A chart for each modality, with the modality's name."""
    modalities = cohort.store.task.modalities
    curves = {name: _measured_curves(cohort.cases, name, kind) for name in modalities}
    if not all(drawn.size for drawn in curves.values()):
        return []
    shown = charts.span(list(curves.values()))
    edges = edges[shown.start : None if shown.stop is None else shown.stop + 1]
    return [
        (
            title(name),
            charts.intensities(
                drawn[:, shown], edges, f"{title(name)} {when}", logarithmic=kind == "original"
            ),
        )
        for name, drawn in curves.items()
    ]
