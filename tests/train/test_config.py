"""Presets and overrides."""

from pathlib import Path

import pytest
from cli import invoke

from common.annotated import in_yaml, keys_of
from common.errors import ConfigError
from common.manifest import Manifest
from common.settings import read_yaml
from common.splits import FoldSplits
from train.cli import app
from train.config import TrainConfig, load_config, preset_names
from train.networks import DynUNetConfig, PlainConvUNetConfig
from train.optimizers import AdamWConfig, NAdamConfig, SGDConfig
from train.run_folder import write_config


def test_the_presets_are_the_networks_they_are_named_after() -> None:
    assert preset_names() == ["attention_unet", "demo", "fm_net", "fm_net_tuned", "unet"]
    assert load_config("fm_net") == TrainConfig()  # the defaults are the paper's
    attention, unet = load_config("attention_unet").model, load_config("unet").model
    assert (attention.attention, attention.heads, attention.bottleneck) == (True, 0, 0)
    assert (unet.attention, unet.heads, unet.bottleneck) == (False, 0, 0)
    assert load_config("demo").model.widths == (8, 16, 32, 64)
    tuned = load_config("fm_net_tuned", ["model.init_weights=torch"])
    assert tuned.model == load_config("fm_net").model


@pytest.mark.parametrize("preset", preset_names())
def test_a_configuration_written_and_read_is_the_same(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, ["optimizer.lr=1e-3", "augment.zoom.range=[0.8,1]"])
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert load_config(str(path)) == config
    assert config.optimizer.lr == 0.001


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["model.kind=dynunet", "model.heads=1"],
        ["splits={kind: lists, train: [a, 'b #1'], val: ['null']}", "init='two\n: lines'"],
        ["inference.postprocess.threshold.et=0.6", "clip_norm=1e-3", "modalities=[t1, flair]"],
    ],
)
def test_what_config_prints_is_read_back(settings: list[str], tmp_path: Path) -> None:
    """Also what a run has written, and as overrides of another preset."""
    options = [word for setting in settings for word in ("--set", setting)]
    printed = invoke(app, "config", "unet", *options).stdout
    (tmp_path / "printed.yaml").write_text(printed)
    config = load_config("unet", settings)
    assert load_config(str(tmp_path / "printed.yaml")) == config
    values = [f"{key}={in_yaml(value)}" for key, value in read_yaml(printed, "").items()]
    assert load_config("fm_net", values) == config
    for name in ("manifest.yaml", "run.json"):
        (tmp_path / name).touch()
    write_config(tmp_path, config)
    assert invoke(app, "config", tmp_path).stdout == printed


def test_every_key_of_every_group_says_what_it_is() -> None:
    groups = [
        TrainConfig(),
        Manifest(),
        DynUNetConfig(),
        PlainConvUNetConfig(),
        AdamWConfig(),
        SGDConfig(),
        FoldSplits(kind="folds"),
    ]
    seen = 0
    while groups:
        group = groups.pop()
        for name, key in keys_of(type(group)).items():
            assert len(key.meaning) > 3, (type(group), name)
            groups += [getattr(group, name)] if key.is_group else []
            seen += 1
    assert seen > 80


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lrr=1", r"optimizer\.lrr: no such key; did you mean optimizer\.lr\?"),
        ("lr=1", r"lr: no such key; did you mean optimizer\.lr\?"),
        ("epochz=3", r"epochz: no such key; did you mean epochs\?"),
        ("epochs=0", r"epochs: .*greater than or equal to 1, found 0"),
        ("optimizer.lr=fast", r"optimizer\.lr: .*number.*found 'fast'"),
        ("model.heads=5", r"heads is 5, but 5 widths have room for 4"),
        ("loader=tensorflow", r"loader: .*'dali' or 'torch'"),
        ("epochs", r"write key=value"),
        ("modalities=[flair, flair]", r"each only once"),
        ("model.headz=1", r"model\.headz: no such key; did you mean model\.heads\?"),
        ("optimizer.kind=adam", r"optimizer: expected kind: one of nadam, adamw, sgd"),
        ("model.kind=unet", r"model: expected kind: one of fm_net, dynunet, .*swin_unetr"),
        ("model.widths=[4]", r"^--set: model\.widths: "),
        ("augment.zoom.range=[1,0.7]", r"lower bound 1\.0 is above"),
    ],
)
def test_what_is_not_valid_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("fm_net", [override])


def test_another_network_has_its_own_values() -> None:
    settings = ["model.widths=[4,8,16]", "model.kind=dynunet", "model.heads=1"]
    model = load_config("unet", settings).model
    assert model == DynUNetConfig(widths=(4, 8, 16), heads=1)
    with pytest.raises(ConfigError, match=r"model\.attention: no such key"):
        load_config("unet", ["model.kind=dynunet", "model.attention=true"])


def test_another_optimiser_has_its_own_values() -> None:
    config = load_config("demo", ["optimizer.kind=sgd", "optimizer.momentum=0.9"])
    assert config.optimizer == SGDConfig(momentum=0.9)
    assert load_config("demo", ["optimizer.kind=nadam"]).optimizer == NAdamConfig(lr=0.002)
    with pytest.raises(ConfigError, match=r"optimizer\.betas: no such key"):
        load_config("fm_net", ["optimizer.kind=sgd", "optimizer.betas=[0.9,0.99]"])


def test_an_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"fmnet: no such preset \(there are .*\); did you mean fm_net"
    ):
        load_config("fmnet")
    with pytest.raises(ConfigError, match="no such file"):
        load_config(str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text("epochs: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_config(str(tmp_path / "mine.yaml"))
