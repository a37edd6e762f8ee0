"""torch.compile: the same numbers, checkpoints that fit both ways, and a run without it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from runs import begun

from common.store import Store
from train import trainer
from train.checkpoint import capture
from train.data.feed import Batch
from train.precision import Compiled
from train.run import reopen
from train.session import Session, restore, save

SMALL = [
    "model.widths=[2,4]",
    "model.attention=false",
    "model.heads=0",
    "model.bottleneck=0",
    "device=cpu",
    "precision=fp32",
]

LEARN = """
import sys
from pathlib import Path
import torch
from common.store import Store
from train import trainer
from train.data.feed import Batch
from train.run import begin

session = begin("unet", sys.argv[3:], Store.open(sys.argv[1]), Path(sys.argv[2]))
label = torch.ones(1, 8, 8, 8, dtype=torch.uint8)
batch = Batch(torch.ones(1, 4, 8, 8, 8), label, ("a",), 1, last=False)
print(*(trainer.step(session, batch)[0] for _ in range(2)))
print(session.compute.note)
"""


def batch() -> Batch:
    image = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(image, (image[:, 0] > 0.5).to(torch.uint8) * 3, ("a",), 1, last=False)


def losses(session: Session) -> list[float]:
    return [trainer.step(session, batch())[0] for _ in range(4)]


def learn(store: Store, folder: Path, settings: Sequence[str], cxx: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LEARN, store.path, str(folder), *settings],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env=os.environ | {"CXX": cxx, "TORCHINDUCTOR_CACHE_DIR": str(folder.parent / "cache")},
    )
    assert done.stderr.count("torch.compile failed") == (settings[-1] == "compile=true")
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_its_checkpoints_fit(
    store: Store, tmp_path: Path
) -> None:
    plain, compiled = (
        begun(store, tmp_path / name, *SMALL, f"compile={name}") for name in ("false", "true")
    )
    expected = losses(plain)
    assert losses(compiled) == pytest.approx(expected, rel=1e-4)
    assert compiled.at.largest_activation == pytest.approx(plain.at.largest_activation, rel=1e-3)
    assert isinstance(compiled.forward, Compiled)
    assert not compiled.forward.failed
    assert compiled.compute.note == ""
    assert capture(compiled.model, compiled.optimizer).keys() == (
        capture(plain.model, plain.optimizer).keys()
    )
    for session in (plain, compiled):
        save(session)
    plain.run_dir, compiled.run_dir = compiled.run_dir, plain.run_dir
    for session in (plain, compiled):
        restore(session)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)


@pytest.mark.slow
def test_a_broken_compiler_costs_no_run(store: Store, tmp_path: Path) -> None:
    plain = learn(store, tmp_path / "plain", [*SMALL, "compile=false"], "c++")
    broken = learn(store, tmp_path / "broken", [*SMALL, "compile=true"], "/bin/false")
    assert broken[0] == plain[0]
    assert "torch.compile failed, training continues without it" in broken[1]
    assert "/bin/false" in broken[1]
    assert "torch.compile" not in plain[1]


def test_a_run_may_go_on_compiled(store: Store, tmp_path: Path) -> None:
    begun(store, tmp_path / "run", *SMALL)
    resumed = reopen(None, ["compile=true"], store, tmp_path / "run")
    assert isinstance(resumed.forward, Compiled)
    again = reopen(None, ["compile=false"], store, tmp_path / "run")
    assert again.forward is again.model
