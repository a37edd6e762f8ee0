"""The quality report as one HTML page that needs nothing else.

What comes from files (names, reasons, ids) reaches the page in two ways, and each is safe: through
Jinja, which escapes it, or as JSON in a block that no browser runs and whose script puts it on the
page as text. A content security policy forbids everything else, the network above all.
"""

import base64
import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from importlib import resources
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from common import __version__
from common.labels import REGIONS
from common.palette import REGION_COLOURS
from common.splits import SPLITS
from preprocess import report_charts as charts
from preprocess.report_cohort import Case, Cohort
from preprocess.report_data import DECIDED, measured_curves, page_data, picture
from preprocess.report_flags import FLAGS
from preprocess.report_measure import NORMALISED_EDGES, ORIGINAL_EDGES
from preprocess.report_rules import NAMES


def render(cohort: Cohort) -> str:
    """The whole page."""
    style, script = _style(), _template_text("report.js")
    environment = Environment(
        loader=PackageLoader("preprocess"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        style=Markup(style),  # noqa: S704 - the package's own
        script=Markup(script),  # noqa: S704 - the package's own
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        data=_json_block(page_data(cohort)),
        pictures=_json_block([picture(case) for case in cohort.cases]),
        name=cohort.store.manifest.name,
        store=cohort.store,
        made=f"{datetime.now().astimezone():%-d %B %Y, %H:%M %Z}",
        version=__version__,
        manifest=cohort.store.manifest.to_yaml(),
        counts=_counts(cohort),
        found=_found(cohort),
        not_found=[flag for key, flag in FLAGS.items() if not _having(cohort, key)],
        failures=cohort.failures,
        missing=cohort.missing,
        splits=_splits(cohort),
        conventions=_conventions(cohort.cases),
        volumes=_volume_charts(cohort.cases),
        lost=_lost_chart(cohort.cases),
        intensities=_intensity_charts(cohort.cases),
        regions=REGIONS,
    )


def _style() -> str:
    colours = "".join(f"--{region}:{colour};" for region, colour in REGION_COLOURS.items())
    return f":root{{{colours}}}\n{_template_text('report.css')}"


def _template_text(name: str) -> str:
    return (resources.files("preprocess") / "templates" / name).read_text("utf-8")


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _json_block(value: object) -> Markup:
    """JSON that can end no script block and start no comment, whatever its strings hold."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - nothing that HTML reads is left


def _counts(cohort: Cohort) -> list[tuple[str, int]]:
    labelled = sum(case.record.has_label for case in cohort.cases)
    return [
        ("done", len(cohort.cases)),
        ("failed", len(cohort.failures)),
        ("missing", len(cohort.missing)),
        ("labelled", labelled),
        ("unlabelled", len(cohort.cases) - labelled),
        ("patients", _patients(cohort.cases)),
        ("to check", len(cohort.to_check)),
    ]


def _having(cohort: Cohort, key: str) -> int:
    return sum(any(flag.key == key for flag in flags) for flags in cohort.flags.values())


def _found(cohort: Cohort) -> list[dict[str, Any]]:
    """The flags that some case has, the graver and the more frequent first."""
    grades = ("error", "check", "note")
    found = [{"key": k, "flag": f, "cases": _having(cohort, k)} for k, f in FLAGS.items()]
    found = [entry for entry in found if entry["cases"]]
    return sorted(found, key=lambda e: (grades.index(e["flag"].severity), -e["cases"]))


def _patients(cases: Iterable[Case]) -> int:
    return len({case.record.patient for case in cases})


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
            "patients": _patients(members),
            "medians": _medians(members),
        }
        for name, members in groups.items()
        if members or name in SPLITS
        if cohort.cases
    ]


def _medians(cases: list[Case]) -> list[str]:
    """Median volume of each region in ml."""
    volumes = [case.tumour_ml for case in cases if case.tumour_ml is not None]
    if not volumes:
        return ["–"] * len(REGIONS)
    return [f"{statistics.median(ml[region] for ml in volumes):.1f}" for region in REGIONS]


def _conventions(cases: list[Case]) -> list[dict[str, Any]]:
    counts = Counter(
        (case.record.convention, case.record.convention_from)
        for case in cases
        if case.record.has_label
    )
    return [
        {
            "name": convention.value,
            "enhancing": convention.enhancing,
            "decided": DECIDED[decided],
            "cases": count,
        }
        for (convention, decided), count in counts.most_common()
    ]


def _volume_charts(cases: list[Case]) -> list[dict[str, Any]]:
    volumes = [case.tumour_ml for case in cases if case.tumour_ml is not None]
    if not volumes:
        return []
    decades = charts.decades_of([ml for volume in volumes for ml in volume.values()])
    return [
        {
            "region": region,
            "chart": charts.volumes([ml[region] for ml in volumes], region, decades),
        }
        for region in REGIONS
    ]


def _lost_chart(cases: list[Case]) -> dict[str, Any] | None:
    voxels = [c.record.tumour_voxels for c in cases if c.record.tumour_voxels is not None]
    if not voxels:
        return None
    crop = [counts.lost("crop") for counts in voxels]
    centred = [counts.lost("centred_crop") for counts in voxels]
    return {
        "chart": charts.lost(crop, centred),
        "crop": f"{statistics.fmean(crop):.2%} on average, {max(crop):.1%} at most",
        "centred": f"{statistics.fmean(centred):.2%} on average, {max(centred):.1%} at most",
    }


def _intensity_charts(cases: list[Case]) -> dict[str, list[tuple[str, Markup]]]:
    """Charts before and after normalisation, each with its modality's name."""
    return {
        "before": _row(cases, "original", ORIGINAL_EDGES, "before normalisation"),
        "after": _row(cases, "normalised", NORMALISED_EDGES, "after normalisation"),
    }


def _row(
    cases: list[Case], kind: str, edges: NDArray[np.floating], title: str
) -> list[tuple[str, Markup]]:
    curves = {name: measured_curves(cases, name, kind) for name in NAMES}
    if not all(drawn.size for drawn in curves.values()):
        return []
    shown = charts.span(list(curves.values()))
    edges = edges[shown.start : None if shown.stop is None else shown.stop + 1]
    return [
        (
            NAMES[name],
            charts.intensities(
                drawn[:, shown], edges, f"{NAMES[name]} {title}", logarithmic=kind == "original"
            ),
        )
        for name, drawn in curves.items()
    ]
