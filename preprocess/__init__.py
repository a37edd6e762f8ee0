"""Stage one: a BraTS folder becomes a store, one Dask task per case."""
