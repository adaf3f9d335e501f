"""Another sampling rate: what was trained at one rate says the same about the same signal at half of it."""

import math

import pytest
import torch

from longstate.layers import DSS, LSSL, S4, S4D, S5, CausalLayer, LinOSS

SLOW = {"dt_min": 1e-3, "dt_max": 1e-2}
LAYERS = {
    "S4D": lambda: S4D(4, 16, output="none", **SLOW),
    "S4D(bilinear, real)": lambda: S4D(4, 16, init="real", rule="bilinear", output="none", **SLOW),
    "S4": lambda: S4(4, 16, output="none", **SLOW),
    "S4(legt, zoh)": lambda: S4(4, 16, init="legt", rule="zoh", output="none", **SLOW),
    "DSS(exp)": lambda: DSS(4, 16, output="none", **SLOW),
    "DSS(softmax)": lambda: DSS(4, 16, form="softmax", l_max=512, output="none", **SLOW),
    "LSSL": lambda: LSSL(4, 16, output="none", **SLOW),
    "S5": lambda: S5(4, 16, output="none", **SLOW),
    "LinOSS": lambda: _slowed(LinOSS(4, 16, output="none")),
}


def _slowed(layer: LinOSS) -> LinOSS:
    """Steps of about 0.01, so that a period has many of them."""
    with torch.no_grad():
        layer.logit_dt.sub_(4.5)
    return layer


def build(name: str) -> CausalLayer:
    """A layer without its skip, which has no rate."""
    layer = LAYERS[name]().double().requires_grad_(False)
    layer.D.zero_()
    return layer


def final(layer: CausalLayer, x: torch.Tensor, rate: float) -> torch.Tensor:
    """The last output by each view, which must agree."""
    whole = layer(x, rate=rate)[:, -1]
    chunk, state = layer.forward_with_state(x[:, :-1], layer.initial_state(len(x)), rate=rate)
    stepped, _ = layer.step(x[:, -1], state, rate=rate)
    assert torch.allclose(whole, stepped, rtol=0, atol=1e-9 * float(chunk.abs().max()))
    return whole


@pytest.mark.parametrize("name", LAYERS)
def test_a_constant_signal_weighs_the_same_at_half_the_rate(name: str) -> None:
    """The kernel keeps its mass: the answer to a constant is its sum."""
    layer = build(name)
    signal = torch.ones(1, 512, 4, dtype=torch.float64)
    at_16, at_8 = final(layer, signal, 1.0), final(layer, signal[:, ::2], 2.0)
    assert (at_16 - at_8).abs().max() <= 1e-2 * at_16.abs().max()


@pytest.mark.parametrize("name", LAYERS)
def test_without_the_rate_half_the_samples_say_something_else(name: str) -> None:
    layer = build(name)
    time = torch.arange(512, dtype=torch.float64)
    signal = torch.sin(2 * math.pi * time / 200)[None, :, None].expand(1, 512, 4)
    whole, half = layer(signal, rate=1.0)[:, 1::2], signal[:, 1::2]
    with_rate, without = ((layer(half, rate=rate) - whole).abs().max() / whole.abs().max() for rate in (2.0, 1.0))
    assert with_rate <= 0.1
    assert without >= 3 * with_rate
