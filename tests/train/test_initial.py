import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli import invoke
from runs import SMALL

from common.errors import ConfigError
from common.splits import ListSplits
from common.store import Store
from train.checkpoint import load
from train.cli import app
from train.export import export_model
from train.run import begin, reopen
from train.session import Session

MakeStore = Callable[..., Store]
IDS = [f"BraTS2021_{index:05d}" for index in range(6)]


@pytest.fixture(scope="module")
def before(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Session:
    return begin("fm_net", [*SMALL, "seed=7"], store, tmp_path_factory.mktemp("runs") / "before")


@pytest.fixture(scope="module")
def model(before: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.fmnet"
    export_model(before.run_dir, path, "last")
    return path


def test_training_starts_with_the_weights_of_a_file_or_a_run(
    before: Session, model: Path, store: Store, tmp_path: Path
) -> None:
    for source in (model, before.run_dir):
        folder = tmp_path / source.stem
        session = begin("fm_net", [*SMALL, f"init={source}"], store, folder)
        for one, other in zip(session.model.parameters(), before.model.parameters(), strict=True):
            assert torch.equal(one, other)
        file = source if source.is_file() else source / "last.safetensors"
        noted = json.loads((folder / "run.json").read_text())["init"]
        assert noted["source"] == str(source)
        assert noted["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert session.splits.messages == ()  # the same split


def test_a_resumed_run_does_not_read_it_again(model: Path, store: Store, tmp_path: Path) -> None:
    copy, folder = tmp_path / "copy.fmnet", tmp_path / "run"
    copy.write_bytes(model.read_bytes())
    options = [
        part for setting in (*SMALL, f"init={copy}", "epochs=1") for part in ("--set", setting)
    ]
    done = invoke(app, "run", "fm_net", "--store", store.path, "--out", folder, *options)
    assert done.returncode == 0, done.stderr
    assert "copy.fmnet" in done.stdout
    trained, noted = load(folder, "last"), json.loads((folder / "run.json").read_text())["init"]
    copy.unlink()
    session = reopen(None, ["epochs=2"], store, folder)
    for name, value in session.model.state_dict().items():
        assert torch.equal(value, trained.weights[name])
    assert json.loads((folder / "run.json").read_text())["init"] == noted
    export_model(folder, tmp_path / "next.fmnet")
    content = (tmp_path / "next.fmnet").read_bytes()
    assert noted["sha256"].encode() in content
    assert b"copy.fmnet" not in content


def test_images_and_regions_are_matched_by_name(
    store: Store, make_store: MakeStore, tmp_path: Path
) -> None:
    seen, images = ["t2", "flair"], ["flair", "t1"]
    source = tmp_path / "two"
    before = begin("fm_net", [*SMALL, "modalities=[t2,flair]", "seed=7"], store, source)
    splits = ListSplits(kind="lists", train=tuple(IDS[:4]), val=(IDS[4],))
    task = {"task": "post-treatment", "label_convention": "brats2024"}
    other, settings = make_store(splits=splits, **task), [*SMALL, "modalities=[flair,t1]"]
    session = begin("fm_net", [*settings, f"init={source}"], other, tmp_path / "run")
    fresh = begin("fm_net", settings, other, tmp_path / "fresh").model.state_dict()
    old, new = before.model.state_dict(), session.model.state_dict()
    for key, axis, ours, theirs in (
        ("encoder.0.0.weight", 1, images, seen),
        ("main_head.weight", 0, list(other.task.regions), list(store.task.regions)),
        ("heads.0.bias", 0, list(other.task.regions), list(store.task.regions)),
    ):
        for index, name in enumerate(ours):
            kept = name in theirs
            expected = old[key].select(axis, theirs.index(name)) if kept else None
            expected = fresh[key].select(axis, index) if expected is None else expected
            assert torch.equal(new[key].select(axis, index), expected), (key, name)
    assert torch.equal(new["encoder.1.0.weight"], old["encoder.1.0.weight"])
    assert session.start
    lines = "\n".join(session.start.lines)
    assert "kept flair; new t1; not used t2" in lines
    assert "kept wt, tc, et; new netc, snfh, rc" in lines


def test_what_has_another_width_is_new(
    before: Session, model: Path, store: Store, tmp_path: Path
) -> None:
    settings = [*SMALL, "model.widths=[4,6,10]", f"init={model}"]
    session = begin("fm_net", settings, store, tmp_path / "run")
    old, new = before.model.state_dict(), session.model.state_dict()
    assert torch.equal(new["encoder.1.0.weight"], old["encoder.1.0.weight"])
    assert new["encoder.2.0.weight"].shape != old["encoder.2.0.weight"].shape
    assert session.start
    assert "encoder.2.0.weight" in session.start.lines[-1]
    with pytest.raises(ConfigError, match="no weight"):
        begin(
            "fm_net",
            ["model={kind: plain_conv_unet, widths: [4, 6]}", f"init={model}"],
            store,
            tmp_path / "none",
        )


def test_val_and_test_cases_that_the_model_has_seen_are_said(
    before: Session, model: Path, store: Store, tmp_path: Path
) -> None:
    lists = f"splits={{kind: lists, train: [{IDS[5]}], val: [{IDS[0]}]}}"
    session = begin("fm_net", [*SMALL, lists, f"init={before.run_dir}"], store, tmp_path / "run")
    assert any(IDS[0] in message for message in session.splits.messages)
    session = begin("fm_net", [*SMALL, lists, f"init={model}"], store, tmp_path / "file")
    assert any("model.fmnet" in message for message in session.splits.messages)


def test_a_wrong_start_leaves_no_run(store: Store, tmp_path: Path) -> None:
    (tmp_path / "bad.fmnet").write_text("bad")
    for source in ("bad.fmnet", "absent.fmnet"):
        settings = (f"init={tmp_path / source}", "device=cpu", "model.widths=[4,6,8]")
        options = [part for setting in settings for part in ("--set", setting)]
        done = invoke(app, "run", "--store", store.path, "--out", tmp_path / "run", *options)
        assert done.returncode == 2
        assert source in done.stderr
        assert not (tmp_path / "run").exists()
