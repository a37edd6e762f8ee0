"""`show-augment`: a sheet of augmented samples."""

from pathlib import Path

import numpy as np
from cli import invoke

from common.store import Store
from train.cli import app
from train.data.augment import AUGMENTATIONS, AugmentConfig
from train.figures.augmentations import augmentation_rows


def test_a_sheet_has_a_row_of_each_augmentation(store: Store) -> None:
    case_id = store.contents().split("train")[1]
    rows = augmentation_rows(store, case_id, AugmentConfig(), 0)
    assert tuple(row.name for row in rows) == AUGMENTATIONS
    stored = store.read_crop(case_id)[0]
    for row in rows:
        original, *draws = row.samples
        assert (original.image == stored).all()
        assert any((draw.image != stored).any() for draw in draws), row.name
        assert len({np.asarray(draw.image).tobytes() for draw in draws}) > 1, row.name


def test_the_sheet_is_written_where_it_should_be(store: Store, tmp_path: Path) -> None:
    picture = tmp_path / "sheet.png"
    invoke(app, "show-augment", "--store", store.path, "--out", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
