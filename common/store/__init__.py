"""The Zarr store that preprocessing writes and training reads.

Layout and rules are in docs/store.md. In short: training crops lie in two arrays with one shard
a case, whole volumes in a group a case, and a case exists when that group has its `record`,
which is written last.
"""

from common.store.copy import local_copy
from common.store.format import is_remote
from common.store.reader import Store
from common.store.writer import StoreWriter, is_current

__all__ = ["Store", "StoreWriter", "is_current", "is_remote", "local_copy"]
