"""A small store of synthetic cases."""

import pytest
import torch

from benchmarks.synthetic import synthetic_store
from common.store import Store

torch.set_num_threads(1)  # on tensors as small as these, threads cost more than they give


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Crops of 16×16×16; four cases train, one validates."""
    return synthetic_store(tmp_path_factory.mktemp("synthetic"), side=16)
