"""A store's crops as an xarray Dataset, for people who look into it."""

from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.store.reader import Store


def crops(path: str | Path) -> Any:  # noqa: ANN401 - a Dataset of the extra
    """The crops of a store's cases, with names of cases and modalities.

    Raises:
        ConfigError: xarray is not installed.
        StoreError: there is no such store, or it cannot be read.
    """
    try:
        import xarray
    except ImportError as error:
        raise ConfigError(
            "xarray is not installed: pip install '.[xarray]', or make setup EXTRAS=xarray"
        ) from error
    store = Store.open(path)
    records = store.contents().records
    dataset = xarray.open_zarr(store.path, group="crops", consolidated=False, chunks=None)
    rows = [record.row for record in records.values()]
    names = {"case": [*records], "modality": list(store.task.modalities)}
    return dataset.isel(case=rows).assign_coords(names)
