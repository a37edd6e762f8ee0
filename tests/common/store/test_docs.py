"""docs/store.md says what the code does."""

import re
from pathlib import Path

import pytest
import zarr
from pydantic import BaseModel

from common.geometry import Geometry
from common.lock import STALE_SECONDS
from common.manifest import Manifest
from common.record import CaseFailure, CaseRecord, CaseWarning, Source, TumourVoxels
from common.store import StoreWriter
from common.store.format import (
    IMAGE_CODECS,
    LABEL_CODECS,
    PLANES,
    SCHEMA_VERSION,
    UNWRITTEN_LABEL,
)

PAGE = (Path(__file__).parents[3] / "docs" / "store.md").read_text("utf-8")


@pytest.mark.parametrize("model", [CaseRecord, Source, TumourVoxels, CaseFailure, CaseWarning])
def test_every_field_of_a_record_is_described(model: type[BaseModel]) -> None:
    missing = [name for name in model.model_fields if f"`{name}`" not in PAGE]
    assert not missing


def test_every_field_of_the_geometry_is_described() -> None:
    assert not [name for name in Geometry.__dataclass_fields__ if f"`{name}`" not in PAGE]


def test_the_table_of_the_record_has_no_other_field() -> None:
    table = PAGE[PAGE.index("| field of `record`") : PAGE.index("A case that failed has")]
    firsts = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for first in firsts for name in re.findall(r"`(\w+)`", first)}
    assert named == set(CaseRecord.model_fields)


def test_the_root_has_the_attributes_that_are_listed(tmp_path: Path) -> None:
    store = StoreWriter.create(tmp_path / "s.zarr", Manifest())
    listed = re.search(r"attributes: (.*)", PAGE)
    assert listed is not None
    assert set(listed[1].split(", ")) == set(zarr.open_group(store.path, mode="r").attrs)


def test_codecs_fill_values_and_numbers() -> None:
    image, label = IMAGE_CODECS[0], LABEL_CODECS[0]
    assert f"blosc {image.cname.value} level {image.clevel} with {image.shuffle.value}" in PAGE
    assert f"blosc {label.cname.value} level {label.clevel}, crc32c" in PAGE
    assert label.shuffle.value == "noshuffle"
    assert f"| {UNWRITTEN_LABEL} |" in PAGE
    assert f"(1, 1, {PLANES}, H, W)" in PAGE
    assert f"version {SCHEMA_VERSION}." in PAGE
    assert f"silent for {STALE_SECONDS:.0f} seconds" in PAGE
