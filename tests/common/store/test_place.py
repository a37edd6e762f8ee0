"""What is at a path where no store is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import zarr

from common.errors import StoreError
from common.store import Store

THINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "no store is there; make one with `make preprocess DATA="),
    "a file": (lambda path: path.write_text("x"), "no store is there, but a file; name"),
    "a folder": (
        lambda path: [(path / name).mkdir(parents=True) for name in "dbac"],
        "no store is there, but a folder with a, b, c, …; name a store with STORE=",
    ),
    "other Zarr data": (
        lambda path: zarr.open_group(path, mode="w").create_group("plate"),
        "no store is there, but other Zarr data; name",
    ),
}


@pytest.mark.parametrize("name", THINGS)
def test_what_is_there_instead_is_said(name: str, tmp_path: Path) -> None:
    make, text = THINGS[name]
    path = tmp_path / "s.zarr"
    make(path)
    with pytest.raises(StoreError) as refused:
        Store.open(path)
    assert str(refused.value).startswith(f"{path}: {text}")
