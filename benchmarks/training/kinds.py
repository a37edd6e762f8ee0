"""Kinds of work in a training step, told by the names of torch's operators and autograd's nodes."""

from collections.abc import Sequence

from train.norm import LargeNorm

CONV, CONV_BACKWARD = "conv forward", "conv backward"
NORM = "norm"
ACTIVATION = "activation, gates"
RESIZING = "pooling, upsampling"
CONCATENATION = "concatenation"
LOSS = "loss"
OPTIMISER = "optimiser"
COPIES = "copies"
OTHER = "other"
GAPS = "gaps"
"""Of the step, when the device does nothing."""

NORM_FUNCTION = LargeNorm.__name__
"""How its name and its node's begin, within which every operator is of a norm."""
NODE = "autograd::engine::evaluate_function: "
"""What the profiler writes before a node's name."""

OPERATORS = {
    CONV: {"conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d", "convolution"},
    CONV_BACKWARD: {"convolution_backward", "ConvolutionBackward"},
    NORM: {
        "instance_norm",
        "native_batch_norm",
        "native_batch_norm_backward",
        "cudnn_batch_norm",
        "cudnn_batch_norm_backward",
        "repeat",
        "NativeBatchNormBackward",
        "CudnnBatchNormBackward",
        "RepeatBackward",
    },
    ACTIVATION: {
        "leaky_relu",
        "leaky_relu_",
        "leaky_relu_backward",
        "relu",
        "threshold_backward",
        "sigmoid",
        "sigmoid_backward",
        "mul",
        "LeakyReluBackward",
        "ReluBackward",
        "SigmoidBackward",
        "MulBackward",
    },
    RESIZING: {
        "max_pool3d",
        "max_pool3d_with_indices",
        "max_pool3d_with_indices_backward",
        "upsample_trilinear3d",
        "upsample_trilinear3d_backward",
        "MaxPool3DWithIndicesBackward",
        "UpsampleTrilinear3DBackward",
    },
    CONCATENATION: {"cat", "CatBackward"},
    COPIES: {"_to_copy", "copy_", "clone", "contiguous", "to", "ToCopyBackward"},
}
KINDS = {name: kind for kind, names in OPERATORS.items() for name in names}

UPDATES = ("Optimizer.", "aten::_foreach_", "aten::_amp_", "aten::_fused_", "aten::linalg_vector")
"""How names begin of what is done to gradients and weights."""
SUMS = {"aten::add", "aten::add_"}
"""Of gradients, where they stand directly below a node."""


def kind_of_operator(name: str) -> str:
    """The kind of an operator of the network by its name without a namespace."""
    return KINDS.get(name, OTHER)


def kind_of_event(names: Sequence[str], *, of_loss: bool) -> str:
    """The kind of what the profiler saw.

    Args:
        names: of the event and of all that it happened in, from the inside out.
        of_loss: whether it is of the loss, forward or backward.
    """
    if of_loss:
        return LOSS
    if any(name.removeprefix(NODE).startswith(NORM_FUNCTION) for name in names):
        return NORM  # before the optimiser, whose sums have the same names
    if any(name.startswith(UPDATES) for name in names):
        return OPTIMISER
    if len(names) > 1 and names[0] in SUMS and names[1].startswith(NODE):
        return OTHER
    for name in names:
        plain = name.removeprefix(NODE).removeprefix("aten::").rstrip("0123456789")
        if name.startswith("aten::"):
            plain = name.removeprefix("aten::")
        if plain in KINDS:
            return KINDS[plain]
    return OTHER
