"""Layers and functions of `nn`, as functions of their input and of their parameters.

A layer here is built on both sides with the same arguments and given the parameters that were drawn; so names, shapes
and order of the parameters are held to torch's too. What only calls a method of Tensor, whose derivatives have entries
of their own, is compared in its values; so are the variants of a layer, where the first entry has the derivatives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn as torch_nn
from torch.nn import functional as TF

from clgrad import nn
from clgrad.nn import functional as F

from .entry import INTS, Entry, Operand, constant


def zero(x, *rest):
    return x == 0


# --- activations ------------------------------------------------------------------------------------------------------


def activation(
    name: str, function: str, *, kinks: Any = None, theirs: Any = None, derivatives: int = 0, **options: Any
) -> Entry:
    """A layer without parameters, which calls the function of that name."""
    return Entry(
        f"nn.{name}" + "".join(f" {key}={value}" for key, value in options.items()),
        (f"nn.{name}", f"nn.functional.{function}"),
        lambda x: getattr(nn, name)(**options)(x),
        theirs or (lambda x: getattr(torch_nn, name)(**options)(x)),
        kinks=kinks,
        derivatives=derivatives,
        special="mild",
        operands=(Operand(min_dims=2),),
    )


ACTIVATIONS = [
    activation("ReLU", "relu"),
    activation("ReLU6", "relu6"),
    activation("LeakyReLU", "leaky_relu", negative_slope=0.5),
    activation("ELU", "elu", alpha=0.5),
    activation("CELU", "celu", alpha=2.0),
    activation("SELU", "selu"),
    activation("GELU", "gelu", theirs=lambda x: x * (0.5 * (1 + (x * 0.5**0.5).erf()))),
    activation("GELU", "gelu", approximate="tanh"),
    activation("QuickGELU", "quick_gelu", theirs=lambda x: x * (1.702 * x).sigmoid()),
    activation("SiLU", "silu"),
    activation("Mish", "mish"),
    activation("Tanh", "tanh"),
    activation("Tanhshrink", "tanhshrink", derivatives=2),
    activation("Sigmoid", "sigmoid"),
    activation("LogSigmoid", "logsigmoid"),
    activation("Softplus", "softplus", derivatives=2, kinks=lambda x: x == 0.5, beta=2.0, threshold=1.0),
    activation("Softsign", "softsign"),
    activation("Hardtanh", "hardtanh", min_val=-0.5, max_val=2.0),
    activation("Hardsigmoid", "hardsigmoid"),
    activation("Hardswish", "hardswish"),
    activation("Softmax", "softmax", dim=-1),
    activation("LogSoftmax", "log_softmax", dim=0),
    activation("Softmin", "softmin", dim=-1),
]


# --- layers with parameters -------------------------------------------------------------------------------------------


def layer(name: str, *args: Any, x: Any, note: str = "", covers: tuple[str, ...] = (), **options: Any) -> Entry:
    """`nn.name(*args)` as a function of x and its parameters; `x` is the shape or the shapes of its input.

    `positive` names parameters that are drawn above 0, `training` is the mode, `results` what of the layer's state is a
    result too. The rest are the layer's and the entry's own options.
    """
    training = options.pop("training", True)
    state: tuple[str, ...] = options.pop("state", ())
    positive = options.pop("positive", ())
    entry = {"derivatives": 0} | {
        key: options.pop(key) for key in ("special", "kinks", "ulp", "dtypes", "derivatives") if key in options
    }
    example = getattr(torch_nn, name)(*args, **options)
    drawn = dict(example.named_parameters()) | (dict(example.named_buffers()) if not training else {})
    drawn.pop("num_batches_tracked", None)

    def ours(x, *values):
        module = getattr(nn, name)(*args, **options, device=x.device, dtype=x.dtype).train(training)
        assert {key: t.shape for key, t in module.named_parameters()} == {
            key: tuple(t.shape) for key, t in example.named_parameters()
        }
        for key, value in zip(drawn, values, strict=True):
            setattr(module, key, value)
        y = module(x)
        return (*(y if isinstance(y, tuple) else (y,)), *(getattr(module, key) for key in state))

    def theirs(x, *values):
        module = getattr(torch_nn, name)(*args, **options, dtype=x.dtype).train(training)
        y = torch.func.functional_call(module, dict(zip(drawn, values, strict=True)), (x,))
        return (*(y if isinstance(y, tuple) else (y,)), *(getattr(module, key) for key in state))

    shapes = x if isinstance(x, list) else [x]
    # On OpenCL one pattern has padding, of axes of 3 and more: a shape with others may never have it.
    buffers = dict(example.named_buffers())
    parameters = [
        Operand(
            tuple(t.shape) if min(t.shape) > 2 else st.just(tuple(t.shape)),
            low=0.25 if key in positive else -1,
            high=1,
            constant=key in buffers,
        )
        for key, t in drawn.items()
    ]
    return Entry(
        f"nn.{name} {note or ', '.join(map(str, [*args, *options.items()]))}{'' if training else ' eval'}",
        (f"nn.{name}", *covers),
        ours,
        theirs,
        # Where all are equal, a norm divides rounding errors by the root of eps, and its derivatives once more each.
        operands=(Operand(st.sampled_from(shapes), distinct="Norm" in name and name != "RMSNorm"), *parameters),
        **({"special": False, "ulp": 32} | entry),
    )


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

LAYERS = [
    layer("Linear", 4, 3, x=(2, 3, 4), derivatives=2, covers=("nn.functional.linear",)),
    layer("Linear", 4, 3, bias=False, x=[(4,), (5, 4), (0, 4)]),
    layer("LayerNorm", 4, x=(2, 5, 4), derivatives=2, covers=("nn.functional.layer_norm",)),
    layer("LayerNorm", (3, 4), eps=1e-2, bias=False, x=(2, 3, 4)),
    layer("RMSNorm", 4, x=(2, 5, 4), derivatives=2, covers=("nn.functional.rms_norm",)),
    layer("RMSNorm", (3, 4), eps=1e-2, elementwise_affine=False, x=(2, 3, 4)),
    layer("GroupNorm", 2, 4, x=(2, 4, 3), derivatives=2, covers=("nn.functional.group_norm",)),
    layer("BatchNorm1d", 3, x=(4, 3), state=STATISTICS, derivatives=2, covers=("nn.functional.batch_norm",)),
    layer("BatchNorm1d", 3, x=(2, 3, 5), training=False, positive=("running_var",)),
    layer("BatchNorm2d", 3, momentum=None, affine=False, x=(2, 3, 4, 2), state=STATISTICS),
    layer("BatchNorm3d", 3, momentum=0.5, eps=1e-2, x=(2, 3, 2, 3, 2), state=STATISTICS),
    layer("InstanceNorm1d", 3, x=[(3, 5), (2, 3, 5)]),
    layer("InstanceNorm2d", 3, affine=True, track_running_stats=True, x=(2, 3, 4, 2), state=STATISTICS,
          derivatives=2, covers=("nn.functional.instance_norm",)),
    layer("InstanceNorm2d", 3, track_running_stats=True, x=(2, 3, 4, 2), training=False, positive=("running_var",)),
    layer("InstanceNorm3d", 3, affine=True, eps=1e-2, x=(2, 3, 2, 3, 2)),
    layer("Conv1d", 4, 6, 3, stride=2, padding=1, groups=2, x=[(4, 7), (2, 4, 8)], covers=("nn.functional.conv1d",)),
    layer("Conv1d", 2, 3, 2, padding=1, padding_mode="circular", bias=False, x=(2, 2, 5)),
    layer("Conv2d", 2, 3, 3, padding="same", dilation=2, x=(2, 2, 4, 5), derivatives=2,
          covers=("nn.functional.conv2d",)),
    layer("Conv2d", 2, 4, (3, 2), stride=(2, 1), padding=(1, 0), padding_mode="reflect", groups=2, x=(1, 2, 5, 4)),
    layer("Conv3d", 2, 3, 2, stride=2, padding=1, x=(1, 2, 3, 3, 4), covers=("nn.functional.conv3d",)),
    layer("ConvTranspose1d", 4, 4, 3, stride=2, padding=1, output_padding=1, groups=2, x=(2, 4, 4),
          covers=("nn.functional.conv_transpose1d",)),
    layer("ConvTranspose2d", 3, 2, (2, 3), stride=2, dilation=(1, 2), bias=False, x=(2, 3, 3, 2), derivatives=2,
          covers=("nn.functional.conv_transpose2d",)),
    layer("ConvTranspose3d", 2, 3, 2, stride=2, x=(1, 2, 2, 2, 3), covers=("nn.functional.conv_transpose3d",)),
    layer("LSTMCell", 3, 2, x=[(3,), (4, 3)]),
    layer("LSTMCell", 3, 2, bias=False, x=(4, 3)),
    layer("PReLU", x=(2, 3), kinks=zero, derivatives=2, covers=("nn.functional.prelu",)),
    layer("PReLU", 3, x=[(2, 3), (2, 3, 4)], kinks=zero),
]  # fmt: skip


def lstm(module, x, hidden, memory, *parameters):
    """Two steps, from a state."""
    cell = module.LSTMCell(3, 2)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    if module is torch_nn:
        step = lambda state: torch.func.functional_call(cell, dict(zip(names, parameters, strict=True)), (x, state))  # noqa: E731
    else:
        for name, value in zip(names, parameters, strict=True):
            setattr(cell, name, value)
        step = lambda state: cell(x, state)  # noqa: E731
    return step(step((hidden, memory)))


def sequential(module, x, weight, bias):
    net = module.Sequential(
        module.Flatten(), module.Linear(6, 3), module.Tanh(), module.Identity(), module.Dropout(0.9)
    )
    net.eval()
    if module is torch_nn:
        return torch.func.functional_call(net, {"1.weight": weight, "1.bias": bias}, (x,))
    net[1].weight, net[1].bias = weight, bias
    return net(x)


def embedding(module, index, weight):
    table = module.Embedding(5, 3, padding_idx=1)
    if module is torch_nn:
        return torch.func.functional_call(table, {"weight": weight}, (index,))
    table.weight = weight
    return table(index)


def norm_of_any_rank(name: str, like: str, shape: tuple[int, ...], **options: Any) -> Entry:
    return Entry(
        f"nn.{name}",
        f"nn.{name}",
        lambda x: getattr(nn, name)(3, **options)(x),
        lambda x: getattr(torch_nn, like)(3, **options, dtype=x.dtype)(x),
        operands=(Operand(shape, distinct=True),),
        derivatives=0,
        special=False,
        ulp=32,
    )


OTHERS = [
    norm_of_any_rank("BatchNorm", "BatchNorm2d", (2, 3, 2, 3), track_running_stats=False, affine=False),
    norm_of_any_rank("InstanceNorm", "InstanceNorm1d", (2, 3, 4)),
    Entry(
        "nn.LSTMCell, two steps",
        "nn.LSTMCell",
        lambda *xs: lstm(nn, *xs),
        lambda *xs: lstm(torch_nn, *xs),
        operands=tuple(Operand(s) for s in ((4, 3), (4, 2), (4, 2), (8, 3), (8, 2), (8,), (8,))),
        special=False,
        ulp=32,
    ),
    Entry(
        "nn.Sequential",
        ("nn.Sequential", "nn.Flatten", "nn.Identity", "nn.Dropout", "nn.functional.dropout"),
        lambda *xs: sequential(nn, *xs),
        lambda *xs: sequential(torch_nn, *xs),
        operands=(Operand(st.sampled_from([(4, 2, 3), (1, 6), (0, 3, 2)])), Operand((3, 6)), Operand((3,))),
        derivatives=0,
        special=False,
        ulp=32,
    ),
    Entry(
        "nn.Embedding",
        ("nn.Embedding", "nn.functional.embedding"),
        lambda *xs: embedding(nn, *xs),
        lambda *xs: embedding(torch_nn, *xs),
        operands=(Operand(st.sampled_from([(), (4,), (2, 3), (0,)]), dtype="int64", low=0, high=4), Operand((5, 3))),
    ),
    Entry(
        "nn.Conv1D",
        "nn.Conv1D",
        lambda x, w, b: conv1d_of_gpt2(x, w, b),
        lambda x, w, b: x @ w + b,
        operands=(Operand(st.sampled_from([(4,), (2, 4), (2, 3, 4)])), Operand((4, 3)), Operand((3,))),
        derivatives=0,
        special=False,
        ulp=32,
    ),
]


def loss(name: str, *operands: Operand, **options: Any) -> Entry:
    """A loss as a layer, which calls the function of `tests/surface/losses.py`."""
    return Entry(
        f"nn.{name} {options}",
        f"nn.{name}",
        lambda *xs: getattr(nn, name)(**options)(*xs),
        lambda *xs: getattr(torch_nn, name)(**options)(*xs),
        operands=operands,
        derivatives=0,
        special=False,
        ulp=16,
    )


LOGITS, CLASSES = Operand((3, 4)), Operand((3,), dtype="int64", low=0, high=3)

LOSSES = [
    loss("MSELoss", Operand(min_dims=2), Operand(), reduction="sum"),
    loss("L1Loss", Operand(min_dims=2), Operand()),
    loss("CrossEntropyLoss", LOGITS, CLASSES, label_smoothing=0.1, ignore_index=1),
    loss("NLLLoss", LOGITS, CLASSES, reduction="none"),
    loss("SmoothL1Loss", Operand(min_dims=2), Operand(), beta=0.5),
    loss("HuberLoss", Operand(min_dims=2), Operand(), delta=0.5, reduction="none"),
    loss("KLDivLoss", Operand(min_dims=2), Operand(low=0.125), reduction="sum"),
    loss("BCELoss", Operand(min_dims=2, low=0.125, high=0.875), Operand(low=0, high=1)),
    loss("BCEWithLogitsLoss", Operand(min_dims=2), Operand(low=0, high=1)),
]


def conv1d_of_gpt2(x, weight, bias):
    module = nn.Conv1D(3, 4)
    assert (module.weight.shape, module.bias.shape) == ((4, 3), (3,))
    module.weight, module.bias = weight, bias
    return module(x)


# --- pooling and the like ---------------------------------------------------------------------------------------------


def pool(name: str, shapes: list[tuple[int, ...]], *args: Any, **options: Any) -> Entry:
    """A layer, which calls the function of its name."""
    function = f"{name[:3].lower()}_pool{name[-2:]}"
    most = name.startswith("Max")
    return Entry(
        f"nn.{name} {args} {options}",
        (f"nn.{name}", f"nn.functional.{function}"),
        lambda x: getattr(nn, name)(*args, **options)(x),
        lambda x: getattr(torch_nn, name)(*args, **options)(x),
        operands=(Operand(st.sampled_from(shapes), distinct=most),),
        derivatives=0,
        special=False,
        ulp=16,
    )


def unpool(rank: int, shape: tuple[int, ...]) -> Entry:
    """What the pooling of fixed numbers found its places in, for values that are drawn."""
    places = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(np.float64)

    def call(module, x):
        pooled, indices = getattr(module, f"max_pool{rank}d")(constant(x, places), 2, return_indices=True)
        return getattr(module, f"max_unpool{rank}d")(x, indices, 2, output_size=shape[-rank:])

    smaller = (*shape[:-rank], *(n // 2 for n in shape[-rank:]))
    return Entry(
        f"F.max_unpool{rank}d",
        f"nn.functional.max_unpool{rank}d",
        lambda x: call(F, x),
        lambda x: call(TF, x),
        operands=(Operand(st.just(smaller)),),
        derivatives=0,
    )


def both(name: str, covers: str, call: Any, *operands: Operand) -> Entry:
    """The values of one call, of our functions and of torch's."""
    return Entry(
        f"F.{name}",
        f"nn.functional.{covers}",
        lambda *xs: call(F, *xs),
        lambda *xs: call(TF, *xs),
        operands=operands,
        derivatives=0,
        special=False,
        ulp=32,
    )


IMAGES = Operand((3, 3, 5, 6))
ATTENDED = (Operand((2, 3, 4)), Operand((2, 5, 4)), Operand((2, 5, 2)))

FUNCTIONS = [
    pool("AvgPool1d", [(2, 7), (1, 2, 6)], 2),
    pool("AvgPool2d", [(2, 5, 4), (1, 2, 4, 5)], 3, stride=2, padding=1, count_include_pad=False),
    pool("AvgPool3d", [(1, 2, 3, 4, 3)], (2, 3, 2), stride=1, ceil_mode=True),
    pool("MaxPool1d", [(2, 7), (1, 2, 6)], 3, stride=2, padding=1, return_indices=True),
    pool("MaxPool2d", [(2, 5, 6), (1, 2, 6, 5)], 2, dilation=2, stride=1),
    pool("MaxPool2d", [(2, 5, 6), (1, 2, 6, 5)], 2, ceil_mode=True, return_indices=True),
    pool("MaxPool3d", [(1, 2, 3, 4, 3)], 2),
    unpool(1, (2, 3, 7)),
    unpool(2, (1, 2, 7, 6)),
    unpool(3, (1, 1, 2, 6, 7)),
    both("interpolate size", "interpolate", lambda m, x: m.interpolate(x, (5, 2)), IMAGES),
    both("interpolate scale", "interpolate", lambda m, x: m.interpolate(x, scale_factor=2, mode="bilinear"), IMAGES),
    both("interpolate corners", "interpolate", lambda m, x: m.interpolate(x, 7, mode="linear", align_corners=True),
         Operand((2, 3, 4))),
    both("pad", "pad", lambda m, x: m.pad(x, (1, 2, 0, -1), value=2.5), Operand((3, 4))),
    both("pad reflect", "pad", lambda m, x: m.pad(x, (1, 2, 2, 1), mode="reflect"), IMAGES),
    both("normalize", "normalize", lambda m, x: m.normalize(x, dim=-1), Operand(min_dims=2)),
    both("normalize p=1", "normalize", lambda m, x: m.normalize(x, p=1.0, dim=0), Operand(min_dims=2)),
    Entry("F.one_hot", "nn.functional.one_hot", lambda x: F.one_hot(x, 5), lambda x: TF.one_hot(x.long(), 5),
          operands=(Operand(min_dims=2, low=0, high=4),), dtypes=INTS, derivatives=0),
    both("attention", "scaled_dot_product_attention", lambda m, q, k, v: m.scaled_dot_product_attention(q, k, v),
         *ATTENDED),
    both("attention with heads and a scale", "scaled_dot_product_attention",
         lambda m, q, k, v: m.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True),
         Operand((2, 4, 3, 4)), Operand((2, 2, 3, 4)), Operand((2, 2, 3, 2))),
    both("conv3d of one image", "conv3d", lambda m, x, w: m.conv3d(x, w, padding=(1, 0, 1)), Operand((2, 2, 3, 2)),
         Operand((3, 2, 2, 2, 1))),
]  # fmt: skip

ENTRIES = [*ACTIVATIONS, *LAYERS, *OTHERS, *LOSSES, *FUNCTIONS]
