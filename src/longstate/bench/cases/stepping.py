"""One element after another through a small model, in microseconds: what a live stream costs."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longstate.bench.case import Case, Side, Work
from longstate.bench.limits import Product, products
from longstate.layers import S4D, Residual
from longstate.layers.lti import LTIState
from longstate.models import Backbone, BackboneConfig, S4DConfig

D_MODEL, STEPS = 128, 100


States = list[Tensor]


def stack(layers: int) -> Backbone:
    """What is stepped."""
    return Backbone(BackboneConfig(d_model=D_MODEL, n_layers=layers, layer=S4DConfig(), dropout=0.0)).eval()


def by_hand(backbone: Backbone) -> Callable[[Tensor, States], tuple[Tensor, States]]:
    """The step of a backbone of S4D in complex numbers, written down with PyTorch's operators alone."""
    weights, parts = backbone.state_dict(), []
    for i, block in enumerate(backbone.layers):
        A, B, C, D = cast(S4D, cast(Residual[LTIState], block).layer).system()
        A, B, C = (part.to(torch.complex64) for part in (A, B, C))
        names = ("norm.norm.weight", "norm.norm.bias", "layer.output.linear.weight", "layer.output.linear.bias")
        parts.append((A, B, C[0], D[0].float(), *(weights[f"layers.{i}.{name}"] for name in names)))
    last = weights["norm.norm.weight"], weights["norm.norm.bias"]

    def step(x: Tensor, states: States) -> tuple[Tensor, States]:
        after = []
        for (A, B, C, D, scale, shift, weight, bias), state in zip(parts, states, strict=True):
            u = F.layer_norm(x, (D_MODEL,), scale, shift)
            state = A * state + B * u[..., None]
            y = torch.einsum("hn,bhn->bh", C, state).real + D * u
            x = x + F.glu(F.linear(F.gelu(y), weight, bias))
            after.append(state)
        return F.layer_norm(x, (D_MODEL,), *last), after

    return step


def s4d(layers: int) -> Work:
    """A backbone of S4D."""
    backbone = stack(layers)
    x, state, constants = torch.randn(STEPS, 1, D_MODEL), backbone.initial_state(1), backbone.constants()

    def run() -> object:
        after = state
        with torch.inference_mode():
            for x_t in x:
                _, after = backbone.step(x_t, after, constants=constants)
        return after

    return run


def plain_torch(layers: int) -> Work:
    """The same backbone, by hand."""
    step, x = by_hand(stack(layers)), torch.randn(STEPS, 1, D_MODEL)
    states = [torch.zeros(1, D_MODEL, 32, dtype=torch.complex64) for _ in range(layers)]

    def run() -> object:
        after = states
        with torch.inference_mode():
            for x_t in x:
                _, after = step(x_t, after)
        return after

    return run


def lstm(layers: int) -> Work:
    """PyTorch's LSTM, called with one element."""
    model, x = nn.LSTM(D_MODEL, D_MODEL, num_layers=layers).eval(), torch.randn(STEPS, 1, 1, D_MODEL)

    def run() -> object:
        state = None
        with torch.inference_mode():
            for x_t in x:
                _, state = model(x_t, state)
        return state

    return run


def its_products(layers: int) -> Work:
    """The output maps alone."""
    once = products([Product(1, D_MODEL, 2 * D_MODEL)] * layers, backward=False)

    def run() -> None:
        for _ in range(STEPS):
            once()

    return run


STEP = Case(
    name="step",
    title=f"One step of a backbone of S4D, d_model {D_MODEL}, d_state 64, batch 1, constants computed before",
    axis="layers",
    sizes=(4,),
    quick=(1,),
    sides=(
        Side(name="longstate", prepare=s4d),
        Side(name="plain torch", prepare=plain_torch, role="peer"),
        Side(name="LSTM", prepare=lstm, role="peer"),
        Side(name="its matrix products", prepare=its_products, role="limit"),
    ),
    units=STEPS,
    unit="step",
    memory=False,
)
