"""A run's network as ONNX, which other programs run; docs/export.md says what they do around it."""

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import ConfigError, ModelFileError
from common.files import write_parts
from common.volume import foreground
from train.checkpoint import Which
from train.export import Exported, check_target
from train.inference import BACKGROUND_LOGIT, weight_lines
from train.loaded_run import LoadedRun, load_run
from train.postprocess import HALF, logit

ENDING = ".onnx"
KEY = "fm_net"
"""Of the metadata that says, as JSON, what the host does around the network."""

BATCHES = (1, 2)
"""Sizes that are compared: the exported network takes any."""

PARITY = 1e-4
"""The most by which onnxruntime's logits may differ from torch's, relative to the largest one."""


def export_onnx(
    run_dir: Path,
    path: Path,
    which: Which = "best",
    on_step: Callable[[int, int], None] = lambda _done, _total: None,
) -> Exported:
    """Write a run's network as ONNX in float32, if onnxruntime gives torch's logits with it.

    Input `image` (batch, modalities, *window), output `logits` (batch, regions, *window).
    `on_step` gets (steps done, steps in all), first with none done.

    Raises:
        ConfigError: a package of the extra `onnx` is missing, or the file cannot be written there.
        ModelFileError: onnxruntime gives other logits.
        FMNetError: as `train.loaded_run.load_run`.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as error:
        raise ConfigError(
            f"--format onnx needs {error.name}, which is not installed: "
            "pip install '.[onnx]', or make setup EXTRAS=train,onnx"
        ) from error
    replaced = check_target(path, ENDING)
    loaded = load_run(run_dir, which, "cpu", ())
    network = _MainHead(loaded.model, foreground_channel=loaded.config.foreground_channel).eval()
    window = loaded.manifest.crop[-loaded.config.model.dims :]
    shape = (len(loaded.needed), *window)
    steps = 1 + len(BATCHES)
    on_step(0, steps)
    content = _as_onnx(network, shape, host_steps(loaded))
    on_step(1, steps)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
    for done, batch in enumerate(BATCHES, 2):
        parity = _difference(network, session, (batch, *shape))
        if not parity <= PARITY:  # NaN too
            raise ModelFileError(
                f"{path}: not written: onnxruntime's logits differ from torch's by {parity:.1e} of "
                f"the largest one, expected {PARITY:g} at most; use another version of onnxruntime"
            )
        on_step(done, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_parts(path, [content], sync=True)
    weights = f"weights: {loaded.config.weights_used}"
    return Exported(
        path, replaced, (weights, f"parity with torch: {parity:.1e} of the largest logit")
    )


class _MainHead(nn.Module):
    """The network of images alone: it finds their foreground itself."""

    def __init__(self, network: nn.Module, *, foreground_channel: bool) -> None:
        super().__init__()
        self.network, self.foreground_channel = network, foreground_channel

    def forward(self, image: Tensor) -> Tensor:
        if self.foreground_channel:
            channel = foreground(image.unbind(1))[:, None]
            image = torch.cat([image, channel.to(image.dtype)], dim=1)
        logits: Tensor = self.network(image)[0]
        return logits


def _as_onnx(network: nn.Module, shape: tuple[int, ...], steps: dict[str, Any]) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.onnx.export(
            network,
            (torch.zeros(2, *shape),),  # of one, torch would take the batch for fixed
            dynamo=True,
            dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None  # noqa: S101 - it is where `dynamo` is true
    model = program.model_proto
    _drop_traces(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(steps, allow_nan=False)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _drop_traces(model: Any) -> None:  # noqa: ANN401 - the extra's type
    """Remove what torch notes about its own work: it has paths of this machine."""
    graph = model.graph
    parts: Iterable[Any] = (
        *(model, graph, *graph.node, *graph.value_info),
        *(*graph.input, *graph.output, *graph.initializer),
    )
    for part in parts:
        del part.metadata_props[:]
        part.ClearField("doc_string")


def host_steps(loaded: LoadedRun) -> dict[str, Any]:
    """What the host does around the network, as data; docs/export.md explains each."""
    config, task, window = loaded.config.inference, loaded.task, loaded.manifest.crop
    cuts = [loaded.postprocess.threshold.get(region, HALF) for region in task.regions]
    return {
        "format": 1,
        "modalities": list(loaded.needed),
        "regions": list(task.regions),
        "labels": task.labels,
        "orientation": "LPS",
        "spacing_mm": loaded.manifest.spacing_mm,
        "margin": loaded.manifest.margin,
        "stored_type": loaded.manifest.dtype,
        "window": list(window),
        "overlap": config.overlap,
        "weights": [line.tolist() for line in weight_lines(window)],
        "background_logit": BACKGROUND_LOGIT,
        "logit_thresholds": [logit(cut) for cut in cuts],
        "painting": task.painting_steps,
        "beyond_the_script": {
            key: value for key, (value, usual) in _unusual(loaded).items() if value != usual
        },
    }


def _unusual(loaded: LoadedRun) -> dict[str, tuple[object, object]]:
    """Settings that the script in docs does not follow, and the values that it needs."""
    config = loaded.config.inference
    return {
        "dims": (loaded.config.model.dims, 3),
        "flips": (config.flips, 1),
        "minimum_lesion_ml": (config.postprocess.minimum_lesion_ml, {}),
        "minimum_ml": (config.postprocess.minimum_ml, {}),
        "background": (loaded.manifest.background, "zero"),
    }


def _difference(network: nn.Module, session: Any, shape: tuple[int, ...]) -> float:  # noqa: ANN401 - onnxruntime has no types
    """The largest difference of logits, relative to the largest of them, for noise as an image."""
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours: NDArray[np.float32] = network(image).numpy()
    (theirs,) = session.run(["logits"], {"image": image.numpy()})
    return float(np.abs(theirs - ours).max() / max(1.0, float(np.abs(ours).max())))
