import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from common.errors import CheckpointError
from train.checkpoint import (
    Checkpoint,
    capture,
    checkpoint_path,
    load,
    load_weights,
    restore,
    save,
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv3d(2, 3, 3), nn.InstanceNorm3d(3, affine=True), nn.Conv3d(3, 1, 1))
    return model.to(memory_format=torch.channels_last_3d)


def nadam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.NAdam(model.parameters(), lr=0.01)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(1, 2, 6, 6, 6)).square().mean().backward()
    optimizer.step()


def some_checkpoint(value: float = 1.0) -> Checkpoint:
    tensors = {"model.w": torch.full((2, 3), value), "rng.cpu": torch.arange(5, dtype=torch.uint8)}
    return Checkpoint(tensors, {"epoch": 3, "loss_sum": 0.1 + 0.2})


def assert_equal(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.state == expected.state
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(found.tensors[name], tensor)


class Twice(nn.Module):
    """A network with one module under two names, as those of other libraries have."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv3d(2, 1, 3)
        self.all_blocks = nn.ModuleList([self.block])


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_who_may_read_a_checkpoint_is_decided_as_for_any_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        for _ in range(2):
            save(tmp_path, some_checkpoint(), best=True)
        (tmp_path / "any").touch()
    finally:
        os.umask(before)
    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert files.keys() > {"best.safetensors", "last.safetensors", "previous.safetensors"}
    assert set(files.values()) == {0o666 & ~umask}


def test_a_module_of_two_names_is_stored_once(tmp_path: Path) -> None:
    model, other = Twice(), Twice()
    save(tmp_path, Checkpoint(capture(model, nadam(model)), {}), best=False)
    weights = load(tmp_path, "last").weights
    assert weights.keys() == {"block.weight", "block.bias"}
    load_weights(other, weights)
    assert torch.equal(other.all_blocks[0].weight, model.block.weight)


def test_a_restored_optimiser_goes_on_bit_for_bit(tmp_path: Path) -> None:
    model = network()
    optimizer = nadam(model)
    for _ in range(3):
        step(model, optimizer)
    save(tmp_path, Checkpoint(capture(model, optimizer), {}), best=False)
    for _ in range(3):
        step(model, optimizer)

    other = network(seed=9)
    other_optimizer = nadam(other)
    step(other, other_optimizer)
    restore(load(tmp_path, "last").tensors, other, other_optimizer)
    for _ in range(3):
        step(other, other_optimizer)

    straight, resumed = capture(model, optimizer), capture(other, other_optimizer)
    assert straight.keys() == resumed.keys()
    assert any(key.endswith("mu_product") for key in straight)
    for key in straight:
        assert torch.equal(straight[key], resumed[key]), key
        assert straight[key].stride() == resumed[key].stride(), key


def test_a_checkpoint_before_the_first_step_restores_a_fresh_optimiser(tmp_path: Path) -> None:
    model = network()
    tensors = capture(model, nadam(model))
    optimizer = nadam(model)
    restore(tensors, model, optimizer)
    step(model, optimizer)
    assert all(state["step"] == 1 for state in optimizer.state.values())


def test_state_and_tensors_come_back_exactly(tmp_path: Path) -> None:
    save(tmp_path, some_checkpoint(), best=False)
    loaded = load(tmp_path, "last")
    assert loaded.state == {"epoch": 3, "loss_sum": 0.1 + 0.2}
    assert torch.equal(loaded.tensors["model.w"], torch.full((2, 3), 1.0))
    assert loaded.tensors["rng.cpu"].dtype == torch.uint8
    assert not checkpoint_path(tmp_path, "best").exists()


def test_the_best_stays_when_the_last_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, some_checkpoint(1.0), best=True)
    save(tmp_path, some_checkpoint(2.0), best=False)
    assert load(tmp_path, "best").tensors["model.w"][0, 0] == 1.0
    assert load(tmp_path, "last").tensors["model.w"][0, 0] == 2.0
    names = {f"{which}.safetensors" for which in ("best", "last", "previous")}
    names |= {"best.json", "last.json"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_best_is_copied_where_the_file_system_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path, some_checkpoint(), best=True)
    assert load(tmp_path, "best").state == load(tmp_path, "last").state


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_goes_unnoticed(tmp_path: Path, data: st.DataObject) -> None:
    save(tmp_path, some_checkpoint(), best=False)
    path = checkpoint_path(tmp_path, "last")
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    try:
        found = load(tmp_path, "last")
    except CheckpointError as error:
        assert "last.safetensors" in str(error)  # noqa: PT017 - a space that became a tab is none
    else:
        assert_equal(found, some_checkpoint())


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_last_offers_the_one_before_else_the_best(tmp_path: Path, length: int) -> None:
    save(tmp_path, some_checkpoint(1.0), best=True)
    save(tmp_path, some_checkpoint(2.0), best=False)
    save(tmp_path, some_checkpoint(3.0), best=False)
    path, previous = (checkpoint_path(tmp_path, which) for which in ("last", "previous"))
    path.write_bytes(path.read_bytes()[:length])
    damage = r"last\.safetensors: damaged.*"
    with pytest.raises(CheckpointError, match=rf"{damage}previous\.safetensors is whole: move"):
        load(tmp_path, "last")
    assert load(tmp_path, "previous").tensors["model.w"][0, 0] == 2.0
    previous.write_bytes(previous.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=rf"{damage}best\.safetensors is whole: move"):
        load(tmp_path, "last")


def test_a_damaged_best_offers_the_last(tmp_path: Path) -> None:
    save(tmp_path, some_checkpoint(), best=True)
    save(tmp_path, some_checkpoint(), best=False)
    checkpoint_path(tmp_path, "best").write_bytes(b"")
    with pytest.raises(CheckpointError, match="use it with --checkpoint last"):
        load(tmp_path, "best")


def test_nothing_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no such checkpoint; .*no usable previous.* and no best"
    ):
        load(tmp_path, "last")


def test_a_pipe_in_a_checkpoints_place_is_no_checkpoint(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.safetensors")
    with pytest.raises(CheckpointError, match=r"last\.safetensors: a named pipe"):
        load(tmp_path, "last")


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, checkpoint_path(tmp_path, "last"))
    with pytest.raises(CheckpointError, match="no checkpoint of this project"):
        load(tmp_path, "last")


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(CheckpointError, match="does not fit the configured model"):
        load_weights(nn.Linear(2, 2), network().state_dict())


@pytest.mark.parametrize("header", ["[]", "3", "{}", '{"format": 2, "state": "[]", "digest": 0}'])
def test_a_file_made_by_hand_is_refused(tmp_path: Path, header: str) -> None:
    save_file({"model.w": torch.zeros(2)}, tmp_path / "last.safetensors", {"fm_net": header})
    with pytest.raises(CheckpointError, match=r"last\.safetensors: damaged"):
        load(tmp_path, "last")


@pytest.mark.parametrize("name", ["rng.cpu", "optimizer.0.weight.exp_avg"])
def test_a_state_that_does_not_fit_is_refused(name: str) -> None:
    model = network()
    optimizer = nadam(model)
    step(model, optimizer)
    tensors = capture(model, optimizer)
    tensors[name] = torch.zeros(3, 1)
    with pytest.raises(CheckpointError, match="another network"):
        restore(tensors, network(), nadam(network()))
