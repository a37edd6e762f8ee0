"""The input that is 1 where a case's images have foreground: alike wherever images are read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cli import invoke
from runs import SMALL, see_voxels
from streams import CPU, assert_same_batches, by_key, stream_of, take

from common.errors import ConfigError
from common.store import Store
from train.cli import app
from train.config import load_config
from train.data.augment import AugmentConfig
from train.data.cache import CacheKind
from train.data.loader import check_cache
from train.data.stream import Stream
from train.export import export_model
from train.initial import start_from
from train.loaded_run import load_run
from train.run import begin, execute
from train.session import save

CHANNEL = "foreground_channel=true"


def marked(stream: Stream) -> Stream:
    return replace(stream, foreground=True)


@pytest.mark.parametrize("dims", [2, 3])
def test_it_moves_as_the_label_does_and_changes_nothing_else(dims: int, store: Store) -> None:
    stream = replace(stream_of(store, 0.5), dims=dims)
    without, with_it = (
        by_key(take("torch", each, 12, workers=0)) for each in (stream, marked(stream))
    )
    assert without.keys() == with_it.keys()
    for key, (image, label) in with_it.items():
        assert torch.equal(image[:-1], without[key][0])
        assert torch.equal(label, without[key][1])
        assert set(image[-1].unique().tolist()) <= {0.0, 1.0}
    assert any(0 < float(image[-1].mean()) < 1 for image, _ in with_it.values())


def test_both_loaders_give_it_alike_under_every_augmentation(store: Store) -> None:
    stream = marked(stream_of(store, 0.5))
    found = [take("dali", stream, 12), take("torch", stream, 12, workers=0)]
    assert_same_batches(*found)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.image[:, -1], other.image[:, -1])


@pytest.mark.parametrize("window", ["crop", "random"])
def test_it_is_where_an_image_that_is_not_taken_away_is_not_zero(window: str, store: Store) -> None:
    augment = AugmentConfig.model_validate(
        {name: {"probability": 0} for name in AugmentConfig.model_fields}
        | {"flip": {"probability": 0.5}, "modality_dropout": {"probability": 0.5}}
    )
    stream = replace(marked(stream_of(store, 0)), augment=augment, window=window)
    for image, _ in by_key(take("torch", stream, 8, workers=0)).values():
        assert torch.equal(image[-1] > 0, (image[:-1] != 0).any(0))


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_cached_samples_have_it(cache: CacheKind, store: Store) -> None:
    augment = stream_of(store, 0.5).augment
    augment = augment.model_copy(
        update={"modality_dropout": augment.modality_dropout.model_copy(update={"probability": 0})}
    )
    stream = replace(marked(stream_of(store, 0.5)), augment=augment)
    assert_same_batches(take("dali", stream, 8, cache=cache), take("torch", stream, 8, workers=0))


def test_what_cannot_be_exact_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = marked(stream_of(store, 0.5))
    with pytest.raises(ConfigError, match="modality_dropout"):
        check_cache("dali", stream, "device")
    many = store.task.model_copy(update={"labels": {**store.task.labels, "ncr": 128}})
    monkeypatch.setattr(type(store), "task", property(lambda _: many))
    with pytest.raises(ConfigError, match="128"):
        replace(stream)


def test_a_run_trains_validates_predicts_and_is_exported_with_it(
    store: Store, tmp_path: Path
) -> None:
    session = begin(
        "fm_net",
        [*SMALL, CHANNEL, "epochs=1", "loader=torch", "workers=0"],
        store,
        tmp_path / "run",
    )
    execute(session)
    see_voxels(session.model)
    save(session, best=True)
    export_model(tmp_path / "run", tmp_path / "m.fmnet", "last")
    image, _ = store.read_crop(sorted(store.contents().records)[0])  # one window
    loaded = [load_run(tmp_path / name, device="cpu") for name in ("run", "m.fmnet")]
    by_run, by_file = (each.logits(image) for each in loaded)
    assert torch.equal(by_run, by_file)
    channel = (image != 0).any(0, keepdims=True).astype(image.dtype)
    whole = torch.from_numpy(np.concatenate([image, channel])).float()
    with torch.inference_mode():
        expected = loaded[0].model.eval()(whole[None])[0][0]
    torch.testing.assert_close(by_run, expected, rtol=1e-4, atol=1e-4)
    whole[-1] = 0  # the network sees it
    with torch.inference_mode():
        assert not torch.allclose(loaded[0].model(whole[None])[0][0], expected, atol=1e-4)


def test_onnx_takes_the_images_alone(store: Store, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = begin("fm_net", [*SMALL, CHANNEL], store, tmp_path / "run")
    see_voxels(session.model)
    save(session, best=True)
    done = invoke(app, "export", tmp_path / "run", tmp_path / "m.onnx", "--format", "onnx")
    assert done.returncode == 0, done.stderr
    image, _ = store.read_crop(sorted(store.contents().records)[0])
    expected = load_run(tmp_path / "run", device="cpu").logits(image)
    runtime = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    (found,) = runtime.run(None, {"image": image[None].astype(np.float32)})
    assert np.abs(found[0] - expected.numpy()).max() < 1e-3


def test_weights_of_a_network_without_it_fit_but_for_its_own(store: Store, tmp_path: Path) -> None:
    before = begin("fm_net", [*SMALL, "seed=7"], store, tmp_path / "before")
    config = load_config("fm_net", [*SMALL, CHANNEL])
    model = config.build_network(store.task, CPU)
    fresh = model.encoder[0][0].weight.detach().clone()
    start_from(str(tmp_path / "before"), model, config, store.task)
    first = model.encoder[0][0].weight
    assert torch.equal(first[:, :-1], before.model.encoder[0][0].weight)
    assert torch.equal(first[:, -1], fresh[:, -1])
    assert torch.equal(model.main_head.weight, before.model.main_head.weight)
