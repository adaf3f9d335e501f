"""LRU against a plain loop, and what its parametrisation promises."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from longstate import InputError
from longstate.layers import LRU, SLOW
from longstate.models import LRUConfig, build_layer


def eigenvalues(layer: LRU) -> Tensor:
    return torch.exp(torch.complex(-layer.nu_log.detach().exp(), layer.theta_log.detach().exp()))


def loop(layer: LRU, x: Tensor, rate: np.ndarray) -> np.ndarray:
    """The equations of the paper with numpy, one element at a time; `rate` (batch, length)."""
    values = {name: part.detach().double().numpy() for name, part in layer.named_parameters()}
    B, C = (values[name][..., 0] + 1j * values[name][..., 1] for name in "BC")
    modulus, phase = np.exp(-np.exp(values["nu_log"])), np.exp(values["theta_log"])
    state, outputs = np.zeros((len(x), len(B)), dtype=complex), []
    for t in range(x.shape[1]):
        interval = rate[:, t, None]
        decay = modulus**interval * (np.cos(phase * interval) + 1j * np.sin(phase * interval))
        u = x[:, t].double().numpy()
        state = decay * state + np.exp(values["gamma_log"]) * (u @ B.T)
        outputs.append((state @ C.T).real + values["D"] * u)
    return np.stack(outputs, axis=1)


def within(found: Tensor, expected: np.ndarray, tolerance: float) -> bool:
    return float(np.abs(found.detach().double().numpy() - expected).max()) <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_the_layer_is_the_loop(dtype: torch.dtype, tolerance: float) -> None:
    layer = LRU(5, 12, r_min=0.5, r_max=0.999, output="none").double()
    x, ones = torch.randn(3, 80, 5, dtype=torch.float64), np.ones((3, 80))
    irregular = 2 * torch.rand(3, 80)
    for given, rate in ((None, ones), (0.5, 0.5 * ones), (irregular, irregular.double().numpy())):
        assert within(layer.to(dtype)(x.to(dtype), rate=given), loop(layer, x, rate), tolerance)


def test_all_views_agree_on_irregular_steps_and_padding() -> None:
    layer = LRU(4, 6).double()
    lengths = torch.tensor([0, 7, 12])
    x, rate = torch.randn(3, 12, 4, dtype=torch.float64), torch.rand(3, 12).double()
    padding = torch.arange(12) >= lengths[:, None]
    start = layer.initial_state(3)._replace(x=torch.randn(3, 6, 2, dtype=torch.float64))
    y, last = layer.forward_with_state(
        x.masked_fill(padding[..., None], torch.nan), start, lengths=lengths, rate=rate.masked_fill(padding, torch.nan)
    )
    state = start
    for t in range(12):
        y_t, new = layer.step(x[:, t], state, rate=rate[:, t])
        inside = t < lengths
        assert torch.allclose(y[inside, t], y_t[inside], atol=1e-12)
        state = state._replace(x=torch.where(inside[:, None, None], new.x, state.x))
    assert torch.allclose(last.x, state.x, atol=1e-12)


@pytest.mark.parametrize(("r_min", "r_max", "max_phase"), [(0.0, 1.0, 2 * math.pi), (0.9, 0.999, 0.3), (0.8, 0.8, 1.0)])
def test_eigenvalues_start_evenly_on_their_ring(r_min: float, r_max: float, max_phase: float) -> None:
    modes = eigenvalues(LRU(1, 20000, r_min=r_min, r_max=r_max, max_phase=max_phase).double())
    assert modes.abs().min() >= r_min - 1e-6
    assert modes.abs().max() <= r_max + 1e-6
    # Evenly over the area of a ring: the squared radius is uniform.
    area = modes.abs().square()
    assert abs(float(area.mean()) - (r_min**2 + r_max**2) / 2) <= 0.01 * max(r_max**2 - r_min**2, 1e-4)
    assert abs(float(area.std()) - (r_max**2 - r_min**2) / math.sqrt(12)) <= 0.01 * max(r_max**2 - r_min**2, 1e-4)
    phase = modes.angle() % (2 * math.pi)
    assert phase.max() <= max_phase + 1e-6
    assert abs(float(phase.mean()) / max_phase - 0.5) <= 0.01


def test_every_mode_starts_with_the_variance_of_its_input() -> None:
    layer = LRU(8, 500, output="none").double()
    gain = layer.gamma_log.detach().exp()
    stationary = gain.square() / (1 - eigenvalues(layer).abs().square())
    assert (stationary - 1).abs().max() <= 1e-5
    layer = LRU(8, 500, r_min=0.5, r_max=0.9, output="none")
    with torch.no_grad():
        _, state = layer.forward_with_state(torch.randn(64, 200, 8), layer.initial_state(64))
        driven = layer.B.square().sum((1, 2))
        assert abs(float((state.x.square().sum(-1).mean(0) / driven).mean()) - 1) <= 0.05


def test_B_and_C_start_as_in_the_paper() -> None:
    layer = LRU(64, 256)
    assert abs(float(layer.B.detach().square().mean()) * 2 * 64 - 1) <= 0.05
    assert abs(float(layer.C.detach().square().mean()) * 256 - 1) <= 0.05


@pytest.mark.parametrize("value", [-80.0, -5.0, 0.0, 5.0])
def test_no_parameter_makes_it_unstable(value: float) -> None:
    layer = LRU(4, 8)
    with torch.no_grad():
        layer.nu_log.fill_(value)
    assert (layer.system().A.abs() <= 1).all()
    assert (layer.system(0.25).A.abs() <= 1).all()


def test_extreme_draws_are_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    for drawn in (0.0, 1.0):
        monkeypatch.setattr(
            torch, "rand", lambda size, drawn=drawn, dtype=None: torch.full((size,), drawn, dtype=dtype)
        )
        layer = LRU(4, 8)
        assert all(part.isfinite().all() for part in layer.parameters())
        layer(torch.randn(1, 20, 4)).sum().backward()
        assert all(part.grad.isfinite().all() for part in layer.parameters())


def test_undriven_sub_steps_are_one_step() -> None:
    layer = LRU(4, 8).double()
    start = layer.initial_state(2)._replace(x=torch.randn(2, 8, 2, dtype=torch.float64))
    silence = torch.zeros(2, 1, 4, dtype=torch.float64)
    whole = layer.forward_with_state(silence, start, rate=1.0)[1]
    parts = layer.forward_with_state(silence.expand(2, 5, 4), start, rate=0.2)[1]
    shares = torch.tensor([[0.5, 0.2, 0.3]] * 2, dtype=torch.float64)
    uneven = layer.forward_with_state(silence.expand(2, 3, 4), start, rate=shares)[1]
    assert torch.allclose(whole.x, parts.x, atol=1e-12)
    assert torch.allclose(whole.x, uneven.x, atol=1e-12)


def test_an_element_adds_the_same_whatever_its_interval() -> None:
    layer = LRU(4, 8, output="none").double()
    x = torch.randn(1, 1, 4, dtype=torch.float64)
    regular = layer.forward_with_state(x, layer.initial_state(1))[1]
    long = layer.forward_with_state(x, layer.initial_state(1), rate=torch.tensor([[7.0]]))[1]
    assert torch.equal(regular.x, long.x)


def test_rules_of_the_optimiser_name_its_recurrence() -> None:
    layer = LRU(4, 8)
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    assert {name for name, rule in layer.optimizer_rules.items() if rule is SLOW} == own - {"C", "D"}


def test_a_configuration_builds_it() -> None:
    layer = build_layer(LRUConfig(d_state=16, r_min=0.9, r_max=0.99, output="glu"), 4)
    assert isinstance(layer, LRU)
    assert (eigenvalues(layer).abs() >= 0.9 - 1e-6).all()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: LRU(4, 0), "`d_state` is 0, but a positive integer is needed"),
        (lambda: LRU(4, r_min=0.9, r_max=0.5), "`r_min` is 0.9 and `r_max` 0.5, but 0 <= r_min <= r_max <= 1 is"),
        (lambda: LRU(4, r_min=-0.1), "`r_min` is -0.1"),
        (lambda: LRU(4, r_max=1.1), "`r_max` 1.1"),
        (lambda: LRU(4, r_min=1.0), "with r_min below 1"),
        (lambda: LRU(4, r_max=0.0), "and r_max above 0"),
        (lambda: LRU(4, max_phase=0.0), r"`max_phase` is 0.0, but an angle in \(0, 2π\] is needed"),
        (lambda: LRU(4, max_phase=7.0), "`max_phase` is 7.0"),
        (lambda: LRU(4, output="mlp"), "`output` is 'mlp', but one of glu"),
        (lambda: LRU(4)(torch.zeros(2, 9, 4), rate=torch.ones(9)), r"`rate` is torch.float32 of shape \(9,\)"),
        (lambda: LRU(4)(torch.zeros(2, 9, 4), rate=-torch.ones(2, 9)), "`rate` holds -1.0"),
        (lambda: LRU(4)(torch.zeros(2, 9, 5)), r"`x` has shape \(2, 9, 5\)"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
