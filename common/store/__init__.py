"""The Zarr store that both stages meet in: create, write one case, commit, read, verify.

Layout and rules are in docs/store.md. In short: training crops lie in two arrays with one shard
a case, whole volumes in a group a case, and a case exists when that group has its `record`,
which is written last. Everything before it is invisible to readers.
"""

from common.store.copy import local_copy
from common.store.format import is_remote
from common.store.reader import Store
from common.store.writer import StoreWriter, is_current

__all__ = ["Store", "StoreWriter", "is_current", "is_remote", "local_copy"]
