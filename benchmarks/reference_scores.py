"""Others' scores of the seeded cases, which the tests hold ours to; and how long scoring takes."""

import json
import subprocess
import tempfile
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.mask_cases import MaskCase, ball, mask_cases
from benchmarks.preprocessing import install
from common.console import out
from common.files import write_text
from common.metrics import score_case
from common.volume import Triple
from preprocess.phantom.image import synthesise

PACKAGES = (
    "surface-distance==0.1 monai==1.6.1 panoptica==2.1.7 brats-evaluation==0.0.10 "
    "SimpleITK==2.5.7 scikit-image==0.26.0 medpy==0.5.2 connected-components-3d==3.29.0 "
    "pandas==2.3.3"
)
BRATS: Triple = (155, 240, 240)
WAYS = Path(__file__).with_name("reference_ways.py")


def make(json_file: Path, published_2023: Path, published_2024: Path, cache: Path) -> None:
    """Write the scores of all cases, with the versions of what computed them."""
    cases = mask_cases()
    found = _run("score", cases, cache, published_2023, published_2024)
    found["checksums"] = {case.name: checksum(case) for case in cases}
    write_text(json_file, json.dumps(found, separators=(",", ":")) + "\n")


def measure(published_2023: Path, cache: Path) -> None:
    """Print processor seconds of a case of BraTS's size, three regions, the best of three turns."""
    case = whole_case()
    ours = []
    for _ in range(3):
        began = time.process_time()
        score_case(case.reference, case.prediction, case.spacing_mm)
        ours.append(time.process_time() - began)
    published = _run("time", [case], cache, published_2023)["values"][case.name]
    out.print(
        f"{case.name}: {min(ours):.2f} s, the published code of 2023 {published:.1f} s, "
        f"{published / min(ours):.0f} ×"
    )


def checksum(case: MaskCase) -> int:
    """Of the labels: random generators may differ between versions of NumPy."""
    return zlib.crc32(case.prediction.tobytes(), zlib.crc32(case.reference.tobytes()))


def whole_case() -> MaskCase:
    """A phantom of BraTS's size; its prediction is moved and has three lesions more."""
    reference = synthesise(0, 1, BRATS).label
    prediction = np.roll(reference, (1, 2, -1), axis=(0, 1, 2))
    for place in ((40, 80, 90), (90, 150, 80), (110, 100, 150)):
        prediction[ball(BRATS, np.array(place), np.array([3.0, 4.0, 3.0]))] = 3
    return MaskCase("phantom of 155×240×240 voxels", reference, prediction, (1.0, 1.0, 1.0))


def _run(what: str, cases: Sequence[MaskCase], cache: Path, *published: Path) -> dict[str, Any]:
    arrays = {
        f"{case.name}/{part}": np.asarray(getattr(case, part))
        for case in cases
        for part in ("reference", "prediction", "spacing_mm")
    }
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "cases.npz"), Path(folder, "values.json")
        np.savez_compressed(inputs, allow_pickle=False, **arrays)
        python = install(cache, "metrics", PACKAGES)
        paths = map(str, (WAYS, what, inputs, outputs, *(path.resolve() for path in published)))
        subprocess.run([python, *paths], check=True)
        found: dict[str, Any] = json.loads(outputs.read_text())
    return found
