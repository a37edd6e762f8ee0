"""Others' scores of the seeded cases, which the tests hold ours to; and how long each takes."""

import os
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from benchmarks.mask_cases import MaskCase, disturbed, mask_cases
from benchmarks.preprocessing import install
from common.files import read_json, write_json
from common.metrics import score_case
from common.volume import Triple
from preprocess.phantom.image import synthesise

PACKAGES = (
    "surface-distance==0.1 monai==1.6.1 panoptica==2.1.7 brats-evaluation==0.0.10 "
    "SimpleITK==2.5.7 scikit-image==0.26.0 medpy==0.5.2 connected-components-3d==3.29.0 pandas==2.3.3"
)
BRATS: Triple = (155, 240, 240)
WAYS = Path(__file__).with_name("reference_ways.py")


def make(json_file: Path, published_2023: Path, published_2024: Path, cache: Path) -> None:
    """Write the scores of all cases, with the versions of what computed them."""
    cases = mask_cases()
    found = _run("score", cases, cache, published_2023, published_2024)
    for case in cases:
        found["values"][case.name]["checksum"] = checksum(case)
    write_json(json_file, found)


def checksum(case: MaskCase) -> int:
    """Of the labels: random generators may differ between versions of NumPy."""
    return zlib.crc32(case.prediction.tobytes(), zlib.crc32(case.reference.tobytes()))
