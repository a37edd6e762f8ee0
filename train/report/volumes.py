"""One case's volumes, packed small for the slice viewer of a page (`templates/viewer.js`).

Images lose a little (8 bits in a fixed window, then WebP), masks nothing. The viewer decodes a
payload with `createImageBitmap` and `DecompressionStream`, neither of which a content security
policy restricts, so a page with payloads inside needs no more than a hash of its script.

A case may also lie in a file beside the page, as `case_script` writes it: the page adds a
`<script>` element for it and listens for `CASE_EVENT`, whose detail has `id` and `payload`. Its
policy then needs `script-src 'self'`, which in Chromium holds for `file:` as well as for a served
page; `fetch` of a file is refused.
"""

import io
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.images import plane_with_most
from common.report.page import as_base64
from common.task import Task, title
from common.volume import Triple

WINDOW = (-3.0, 6.0)
"""Normalised intensities, in standard deviations, that an image's bytes span; others are cut."""
FIRST_CODE = 32
"""Byte of the window's lower end. Background is 0, and codec errors beside it stay below half."""
IMAGE_QUALITY = 70
PROBABILITY_QUALITY = 60
PROBABILITY_STEP = 2
"""Of probabilities every other voxel along each axis is kept: supervision heads have no more."""
CASE_EVENT = "fmnet-case"


@dataclass(frozen=True)
class CaseVolumes:
    """What the viewer shows of a case; all arrays are LPS and of one grid (D, H, W)."""

    image: NDArray[np.floating]
    """(modalities, D, H, W), normalised, background 0."""
    spacing_mm: tuple[float, float, float]
    """Along D, H and W."""
    grid: Triple
    """(D, H, W) of the whole grid, in which slices count."""
    start: Triple
    """Where the arrays begin in it."""
    reference: NDArray[np.uint8] | None = None
    """(D, H, W) canonical labels."""
    predictions: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """What each is called to its canonical labels (D, H, W), such as a run's name."""
    probabilities: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)
    """What each is called to its (regions, D, H, W) in 0 to 1, such as a supervision head's."""


def pack(volumes: CaseVolumes, task: Task) -> dict[str, Any]:
    """A payload for the viewer, ready for JSON."""
    return {
        "shape": list(volumes.image.shape[1:]),
        "spacing_mm": list(volumes.spacing_mm),
        "grid": list(volumes.grid),
        "start": list(volumes.start),
        "at": _first_position(volumes),
        "window": list(WINDOW),
        "first_code": FIRST_CODE,
        "labels": _labels(task),
        "regions": [
            {"name": name, "title": title(name), "colour": colour, "values": task.regions[name]}
            for name, colour in task.region_colours.items()
        ],
        "modalities": [
            {"title": title(name)} | _mosaic(_image_bytes(channel), IMAGE_QUALITY)
            for name, channel in zip(task.modalities, volumes.image, strict=True)
        ],
        "reference": None if volumes.reference is None else _deflated(volumes.reference),
        "predictions": [
            {"title": name, "mask": _deflated(mask)} for name, mask in volumes.predictions.items()
        ],
        "probabilities": [
            {
                "title": name,
                "step": PROBABILITY_STEP,
                "regions": [
                    _mosaic(_probability_bytes(each), PROBABILITY_QUALITY) for each in of_regions
                ],
            }
            for name, of_regions in volumes.probabilities.items()
        ],
    }


def case_script(case_id: str, payload: Mapping[str, Any]) -> str:
    """The text of a script file that hands a case's payload to the page that loads it."""
    detail = json.dumps({"id": case_id, "payload": payload}, separators=(",", ":"))
    return f'dispatchEvent(new CustomEvent("{CASE_EVENT}",{{detail:{detail}}}));\n'


def _first_position(volumes: CaseVolumes) -> list[int]:
    """The planes with the most tumour, else the most predicted, else the most brain."""
    masks = [] if volumes.reference is None else [volumes.reference > 0]
    masks += [mask > 0 for mask in volumes.predictions.values()]
    return [plane_with_most(axis, *masks, volumes.image[0] != 0) for axis in range(3)]


def _labels(task: Task) -> list[dict[str, Any]]:
    """Each label in the colour of its last region, which is painted over the others."""
    last = {v: task.region_colours[name] for name, of in task.regions.items() for v in of}
    return [
        {"value": value, "title": title(name), "colour": last[value]}
        for name, value in task.labels.items()
    ]


def _image_bytes(channel: NDArray[np.floating]) -> NDArray[np.uint8]:
    low, high = WINDOW
    steps = (channel.astype(np.float32) - low) * ((255 - FIRST_CODE) / (high - low))
    codes = np.clip(np.rint(steps + FIRST_CODE), FIRST_CODE, 255).astype(np.uint8)
    return np.where(channel != 0, codes, np.uint8(0))


def _probability_bytes(probability: NDArray[np.floating]) -> NDArray[np.uint8]:
    kept = probability[::PROBABILITY_STEP, ::PROBABILITY_STEP, ::PROBABILITY_STEP]
    return np.rint(kept.astype(np.float32) * 255).astype(np.uint8)


def _mosaic(volume: NDArray[np.uint8], quality: int) -> dict[str, Any]:
    """Axial slices (D, H, W) row by row in one picture, about as high as it is wide."""
    depth, height, width = volume.shape
    columns = min(depth, math.ceil(math.sqrt(depth * height / width)))
    rows = math.ceil(depth / columns)
    tiles = np.zeros((rows * columns, height, width), np.uint8)
    tiles[:depth] = volume
    picture = tiles.reshape(rows, columns, height, width).swapaxes(1, 2)
    encoded = io.BytesIO()
    image = Image.fromarray(picture.reshape(rows * height, columns * width))
    image.save(encoded, "WEBP", quality=quality, method=4)
    return {"columns": columns, "webp": as_base64(encoded.getvalue())}


def _deflated(mask: NDArray[np.uint8]) -> str:
    """Labels (D, H, W), losslessly."""
    return as_base64(zlib.compress(mask.tobytes(), 9))
