"""One element after another through a small model, in microseconds: what a live stream costs."""

import torch
from torch import nn

from longstate.bench.case import Case, Side, Work
from longstate.bench.limits import Product, products
from longstate.models import Backbone, BackboneConfig, S4DConfig

D_MODEL, STEPS = 128, 100


def s4d(layers: int) -> Work:
    """A backbone of S4D."""
    backbone = Backbone(BackboneConfig(d_model=D_MODEL, n_layers=layers, layer=S4DConfig(), dropout=0.0)).eval()
    x, state, constants = torch.randn(STEPS, 1, D_MODEL), backbone.initial_state(1), backbone.constants()

    def run() -> object:
        after = state
        with torch.inference_mode():
            for x_t in x:
                _, after = backbone.step(x_t, after, constants=constants)
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
        Side(name="LSTM", prepare=lstm, role="peer"),
        Side(name="its matrix products", prepare=its_products, role="limit"),
    ),
    units=STEPS,
    unit="step",
    memory=False,
)
