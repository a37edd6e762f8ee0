import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from cli import invoke
from runs import validated
from safetensors.torch import load as load_tensors
from safetensors.torch import save as tensors_as_bytes

from common import nifti
from common.errors import CheckpointError, ConfigError, FMNetError, ModelFileError, RunError
from common.splits import FractionSplits
from common.store import Store
from train.cli import app
from train.export import export_model
from train.loaded_run import load_run, split_cases, store_warnings, used_cases
from train.postprocess import PostprocessConfig
from train.run_folder import write_tuned

MakeStore = Callable[..., Store]
Change = Callable[[dict[str, bytes]], None]


def run_of(store: Store, folder: Path, *overrides: str) -> Path:
    return validated(store, folder, *overrides).run_dir


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(store, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def model(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.fmnet"
    export_model(run, path)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_model_file_predicts_and_scores_as_its_run_does(
    run: Path, store: Store, tmp_path: Path
) -> None:
    own, copy = tmp_path / "run", tmp_path / "elsewhere" / "model.fmnet"
    shutil.copytree(run, own)
    copy.parent.mkdir()
    assert invoke(app, "evaluate", own).returncode == 0
    invoke(app, "predict", own, store.path, "--out", tmp_path / "by-run")
    done = invoke(app, "export", own, copy)
    assert done.returncode == 0, done.stderr
    scores = json.loads((own / "evaluation-test.json").read_text())
    shutil.rmtree(own)

    done = invoke(app, "predict", copy, store.path, "--out", tmp_path / "by-file")
    assert done.returncode == 0, done.stderr
    masks = sorted((tmp_path / "by-run").glob("*.nii.gz"))
    assert len(masks) == 6
    for mask in masks:
        assert mask.read_bytes() == (tmp_path / "by-file" / mask.name).read_bytes()
        assert len(np.unique(nifti.read(mask).voxels)) > 1
    assert "a model file does not say" in invoke(app, "evaluate", copy).stderr
    done = invoke(app, "evaluate", copy, "--store", store.path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    again = json.loads((copy.parent / "model-evaluation-test.json").read_text())
    assert [case["dice"] for case in again["cases"]] == [case["dice"] for case in scores["cases"]]
    assert (copy.parent / "model-evaluation-test.png").is_file()


def test_the_same_model_is_the_same_file_and_names_no_case_and_no_path(
    run: Path, model: Path, store: Store, tmp_path: Path
) -> None:
    export_model(run, tmp_path / "again.fmnet")
    content = (tmp_path / "again.fmnet").read_bytes()
    assert content == model.read_bytes()
    for name in (*store.contents().records, "BraTS2021", str(Path(store.path).parent), str(run)):
        assert name.encode() not in content
    listed = dict(
        reversed(line.split()) for line in members(model)["SHA256SUMS"].decode().splitlines()
    )
    for name, content in members(model).items():
        assert name == "SHA256SUMS" or listed[name] == hashlib.sha256(content).hexdigest()


def test_what_was_tuned_is_in_the_file(run: Path, store: Store, tmp_path: Path) -> None:
    own, path = tmp_path / "run", tmp_path / "tuned.fmnet"
    shutil.copytree(run, own)
    write_tuned(own, PostprocessConfig(threshold={"wt": 0.3}, minimum_ml={"et": 0.002}), "Picked.")
    assert invoke(app, "evaluate", own).returncode == 0
    export_model(own, path)
    ours, theirs = load_run(path), load_run(own)
    assert ours.config.inference == theirs.config.inference
    assert ours.changes == theirs.changes
    assert ours.is_tuned
    assert theirs.is_tuned
    assert not load_run(path, overrides=["inference.postprocess.threshold.wt=0.5"]).is_tuned
    assert (
        "wt above 0.3"
        in invoke(app, "predict", path, store.path, "--out", tmp_path / "masks").stdout
    )
    assert json.loads(members(path)["card.json"])["scores"]


def test_the_card_tells_data_scores_and_limits(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    export_model(own, tmp_path / "before.fmnet")
    assert json.loads(members(tmp_path / "before.fmnet")["card.json"])["scores"] == []
    assert "no scores" in invoke(app, "export", own, tmp_path / "before.fmnet").stdout
    invoke(app, "evaluate", own)
    export_model(own, tmp_path / "after.fmnet")
    card = json.loads(members(tmp_path / "after.fmnet")["card.json"])
    (split,) = card["scores"]
    evaluation = json.loads((own / "evaluation-test.json").read_text())
    assert card["cases"] == {"train": 4, "val": 1, "test": 1}
    assert (split["split"], split["cases"]) == ("test", 1)
    for region, found in split["regions"].items():
        mean = evaluation["mean"]["dice"][region]
        assert found["dice"] == pytest.approx({"mean": mean, "low": None, "high": None})
    text = members(tmp_path / "after.fmnet")["card.md"].decode()
    assert "no medical device" in text
    assert f"{evaluation['mean']['dice']['wt']:.3f}" in text
    assert split["used"] == []
    invoke(app, "evaluate", own, "--split", "val")
    export_model(own, tmp_path / "val.fmnet")
    assert "* val: the best checkpoint" in members(tmp_path / "val.fmnet")["card.md"].decode()


def test_whose_cases_a_file_was_trained_on_is_known_where_its_rule_gives_them_again(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(splits=FractionSplits(train=0.5, val=0.25, test=0.25))
    run = run_of(store, tmp_path / "run")
    export_model(run, tmp_path / "m.fmnet")
    loaded, contents = load_run(tmp_path / "m.fmnet"), store.contents()
    cases = split_cases(loaded, contents, "test")
    assert cases == split_cases(load_run(run), contents, "test")
    assert store_warnings(loaded, store, contents, cases) == []
    validated = split_cases(loaded, contents, "val")
    for one, uses in ((cases, 0), (validated, 1)):
        assert len(used_cases(loaded, contents, one)) == uses

    run = run_of(store, tmp_path / "folds", "folds=3", "fold=1")
    export_model(run, tmp_path / "fold.fmnet")
    loaded = load_run(tmp_path / "fold.fmnet")
    assert split_cases(loaded, contents, "val") == split_cases(load_run(run), contents, "val")

    lists = "splits={kind: lists, train: [BraTS2021_00003], val: [BraTS2021_00004]}"
    export_model(run_of(store, tmp_path / "lists", lists), tmp_path / "lists.fmnet")
    loaded = load_run(tmp_path / "lists.fmnet")
    (warning,) = store_warnings(loaded, store, contents, split_cases(loaded, contents, "test"))
    assert "lists.fmnet" in warning


def test_one_checkpoint_is_in_a_file(run: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.fmnet.*best"):
        load_run(model, "last")
    export_model(run, tmp_path / "last.fmnet", "last")
    assert load_run(tmp_path / "last.fmnet").which == "last"


@pytest.mark.parametrize("name", ["model.zip", "folder.fmnet", "file/model.fmnet"])
def test_what_is_no_new_model_file_is_not_written(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.fmnet").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=name):
        export_model(run, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.fmnet"]


def test_what_is_in_a_model_files_place_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.fmnet"
    makers = {
        "No such file": lambda: None,
        "a named pipe": lambda: os.mkfifo(path),
        "a link to nothing": lambda: path.symlink_to("nowhere.fmnet"),
        "a device": lambda: path.symlink_to("/dev/zero"),
        "symbolic links": lambda: path.symlink_to(path),
    }
    for found, make in makers.items():
        make()
        with pytest.raises(ModelFileError, match=rf"model\.fmnet: .*{found}.*; name a model file"):
            load_run(path)
        path.unlink(missing_ok=True)


def test_a_model_file_is_not_exported_again(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"model\.fmnet"):
        export_model(model, tmp_path / "copy.fmnet")


def written(path: Path, content: dict[str, bytes], **changes: int) -> Path:
    """A file of these members; `changes` are of the attributes of each."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            for attribute, value in changes.items():
                setattr(member, attribute, value)
            archive.writestr(member, data)
    return path


def summed(content: dict[str, bytes]) -> dict[str, bytes]:
    """The members with sums that fit."""
    rest = {name: data for name, data in content.items() if name != "SHA256SUMS"}
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in rest.items())
    return rest | {"SHA256SUMS": sums.encode()}


def described(**changes: object) -> Change:
    """A change of `model.json`; `config.model.widths` is written `config__model__widths`."""

    def change(content: dict[str, bytes]) -> None:
        values = json.loads(content["model.json"])
        for key, value in changes.items():
            *groups, name = key.split("__")
            inner = values
            for group in groups:
                inner = inner[group]
            inner[name] = value
        content["model.json"] = json.dumps(values).encode()

    return change


def weighted(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def changed(content: dict[str, bytes]) -> None:
        weights = load_tensors(content["weights.safetensors"])
        change(weights)
        content["weights.safetensors"] = tensors_as_bytes(weights)

    return changed


HEAD = "main_head.weight"
CHANGES: dict[str, tuple[Change, str]] = {
    "a newer format": (described(format=2), "format 2"),
    "no description": (lambda c: c.update({"model.json": b"[1]"}), "model.json"),
    "deep nesting": (lambda c: c.update({"model.json": b"[" * 100_000}), "model.json"),
    "an unknown key": (described(config__magic=1), "magic"),
    "other preprocessing": (described(preprocessing_version=1), "version 1"),
    "another region": (described(postprocess__threshold={"tc": 0.5, "xy": 0.5}), "xy"),
    "absurd widths": (described(config__model__widths=[10**9, 10**9]), "widths"),
    "endless blocks": (described(config__model__bottleneck=10**9), "bottleneck"),
    "a wider network": (described(config__model__widths=[4, 9]), "expected float32"),
    "a huge network": (described(config__model__widths=[4096, 4096]), "expected float32"),
    "a lost weight": (weighted(lambda w: w.pop(HEAD)), HEAD),
    "another shape": (weighted(lambda w: w.update({HEAD: w[HEAD][:2]})), HEAD),
    "another type": (weighted(lambda w: w.update({HEAD: w[HEAD].half()})), HEAD),
    "no weights": (lambda c: c.update({"weights.safetensors": b"pickle"}), "weights.safetensors"),
    "a path outside": (lambda c: c.update({"../../victim": b""}), "../../victim"),
    "an absolute path": (lambda c: c.update({"/etc/victim": b""}), "/etc/victim"),
    "a terminal's codes": (lambda c: c.update({"\x1b[31m": b""}), "x1b"),
    "a lost member": (lambda c: c.update({"x": c.pop("card.md")}), "holds x"),
    "a huge card": (lambda c: c.update({"card.md": bytes(2 << 20)}), "card.md"),
}


def refused(path: Path) -> str:
    """What a command says of a file, in one line."""
    done = invoke(app, "predict", path, path.parent, "--out", path.with_suffix(""))
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert path.name in line
    return line


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_file_is_refused_in_one_line(model: Path, tmp_path: Path, kind: str) -> None:
    change, expected = CHANGES[kind]
    content = members(model)
    change(content)
    assert expected in refused(written(tmp_path / "changed.fmnet", summed(content)))


def test_changed_bytes_are_noticed(model: Path, tmp_path: Path) -> None:
    content = members(model)
    content["weights.safetensors"] = bytes(len(content["weights.safetensors"]))
    assert "SHA-256" in refused(written(tmp_path / "sums.fmnet", content))
    original, random = model.read_bytes(), np.random.default_rng(0)
    before = load_run(model)
    for place in random.integers(len(original), size=60):
        changed = bytearray(original)
        changed[place] ^= 1 << int(random.integers(8))
        path = tmp_path / "flipped.fmnet"
        path.write_bytes(changed)
        after = None
        with suppress(ModelFileError, ConfigError):
            after = load_run(path)
        if after:  # a time or an attribute of a member
            assert after.config == before.config
            for one, other in zip(after.model.parameters(), before.model.parameters(), strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("kept", [0, 10, 100, 0.5, -1])
def test_a_cut_file_is_refused(model: Path, tmp_path: Path, kept: float) -> None:
    content = model.read_bytes()
    stop = int(kept * len(content)) if 0 < kept < 1 else int(kept)
    (tmp_path / "cut.fmnet").write_bytes(content[:stop])
    refused(tmp_path / "cut.fmnet")


@pytest.mark.parametrize(
    "changes",
    [
        {"compress_type": zipfile.ZIP_DEFLATED},
        {"external_attr": (stat.S_IFLNK | 0o777) << 16},
        {"external_attr": (stat.S_IFDIR | 0o777) << 16},
    ],
    ids=["compressed", "links", "folders"],
)
def test_other_kinds_of_members_are_refused(
    model: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    refused(written(tmp_path / "odd.fmnet", members(model), **changes))


def test_encrypted_doubled_and_foreign_files_are_refused(model: Path, tmp_path: Path) -> None:
    content = bytearray(model.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flags of every member
        place = content.find(signature)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(signature, place + 4)
    (tmp_path / "encrypted.fmnet").write_bytes(content)
    assert "encrypted" in refused(tmp_path / "encrypted.fmnet")
    refused(written(tmp_path / "foreign.fmnet", {"a.txt": b"a"}))
    (tmp_path / "text.fmnet").write_text("a model\n" * 20)
    refused(tmp_path / "text.fmnet")
    doubled = members(model)
    doubled["twice.json"] = doubled.pop("card.json")
    path = written(tmp_path / "doubled.fmnet", doubled)
    path.write_bytes(path.read_bytes().replace(b"twice.json", b"model.json"))
    refused(path)


def test_a_size_is_not_believed(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "vast.fmnet"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FMNetError, match=r"vast\.fmnet"):
        load_run(path)
