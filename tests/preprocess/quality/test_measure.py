"""What the quality report measures of a case's voxels, and its picture."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import nifti
from common.splits import ListSplits
from common.store import StoreWriter
from common.task import MODALITIES, TASKS
from preprocess.quality.measure import ORIGINAL_EDGES, Measures, measure
from preprocess.quality.rules import Cohort
from preprocess.quality.thumbnail import TILE, thumbnail


def measured(cohort: Cohort, case_id: str) -> Measures:
    case = next(case for case in cohort.cases if case.record.case_id == case_id)
    assert case.measures is not None
    return case.measures


def test_intensities_before_are_those_of_the_files(cohort: Cohort, data: Path) -> None:
    measures = measured(cohort, "plain-02")
    for name in MODALITIES:
        voxels = nifti.read(data / f"plain-02/plain-02_{name}.nii.gz").voxels
        expected = np.histogram(voxels[voxels != 0], ORIGINAL_EDGES)[0] / np.count_nonzero(voxels)
        found = measures.modalities[name].original
        # Half precision moves a value by less than a thousandth of the range of a bin.
        assert np.abs(found - expected).sum() < 0.02
        assert found.sum() == pytest.approx(1, abs=1e-4)
        assert measures.modalities[name].normalised.sum() == pytest.approx(1, abs=1e-4)


def test_the_picture_is_head_up_with_the_patients_right_on_the_left() -> None:
    flair = np.zeros((40, 48, 44), np.float16)
    flair[4:36, 4:44, 4:40] = 1
    label = np.zeros(flair.shape, np.uint8)
    label[26:32, 8:14, 8:14] = 1  # high, in front, on the patient's right
    encoded = thumbnail(flair[np.newaxis], label, TASKS["meningioma-rt"])
    picture = Image.open(io.BytesIO(encoded))
    assert picture.format == "WEBP"
    assert picture.size == (3 * TILE, TILE)
    pixels = np.asarray(picture.convert("RGB"), np.int32)
    coloured = np.ptp(pixels, axis=2) > 50
    for plane in np.split(coloured, 3, axis=1):
        rows, columns = np.nonzero(plane)
        assert rows.size > 50
        assert rows.mean() < TILE / 2
        assert columns.mean() < TILE / 2


@pytest.mark.parametrize("array", ["crops/image", "crops/label"])
def test_a_crop_that_is_gone_is_told_though_the_volume_is_whole(
    array: str, data: Path, tmp_path: Path, make_store: Callable[..., StoreWriter]
) -> None:
    chosen = tmp_path / "data"
    shutil.copytree(data / "plain-00", chosen / "plain-00")
    splits = ListSplits(kind="lists", train=("plain-00",))
    store = make_store(chosen, tmp_path / "s.zarr", splits=splits)
    record = store.record("plain-00")
    assert isinstance(measure(store, record), Measures)
    (shard,) = (name for name in store.files.of_row(record.row) if name.startswith(array))
    store.files.remove(shard)
    assert "is gone, or was never written" in str(measure(store, record))
