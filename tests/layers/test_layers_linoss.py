"""LinOSS against the official code, a simulation by scipy, and what its oscillators promise."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from longstate import InputError
from longstate.diagnostics import LawViolation
from longstate.diagnostics.laws import check_substeps
from longstate.layers import SLOW, LinOSS

FOLDER = Path(__file__).parents[1] / "goldens"
OPTIONS: dict[str, Any] = json.loads((FOLDER / "linoss.json").read_text())["cases"]
RULES = ("im", "imex", "damped")


def case(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / "linoss.npz") as archive:
        return {
            key.removeprefix(f"{name}/"): torch.from_numpy(archive[key])
            for key in archive.files
            if key.startswith(f"{name}/")
        }


def official(arrays: dict[str, Tensor], rule: str, output: str = "none") -> LinOSS:
    P, H, _ = arrays["params/B"].shape
    layer = LinOSS(H, P, rule=rule, output=output).double()
    with torch.no_grad():
        layer.A.copy_(arrays["params/A_diag"])
        layer.logit_dt.copy_(arrays["params/steps"])
        for name in "BCD":
            getattr(layer, name).copy_(arrays[f"params/{name}"])
    return layer


@pytest.mark.parametrize("name", ["im", "imex"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_official_layer(name: str, dtype: torch.dtype, tolerance: float) -> None:
    arrays = case(name)
    layer = official(arrays, name).to(dtype)
    assert (layer.A < 0).any()
    x, y_official = arrays["u"].to(dtype), arrays["y"]
    y, state = layer.forward_with_state(x, layer.initial_state(len(x)))
    final = torch.view_as_real(arrays["final_state"]).unflatten(1, (2, -1))
    for found, expected in [(y, y_official), (layer(x), y_official), (torch.stack(state, dim=1), final)]:
        assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


def test_official_block() -> None:
    arrays = case("im_block_nonorm")
    assert OPTIONS["im_block_nonorm"]["options"]["block"]
    layer = official(arrays, "im", output="full_glu")
    with torch.no_grad():
        for part in ("weight", "bias"):
            both = torch.cat([arrays[f"params/glu.w1.{part}"], arrays[f"params/glu.w2.{part}"]])
            layer.output.linear.get_parameter(part).copy_(both)
    y = arrays["u"] + layer(arrays["u"])
    assert (y - arrays["y"]).abs().max() <= 1e-9 * arrays["y"].abs().max()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_scipy_simulates_the_same(rule: str, rate: float) -> None:
    """The recurrence of the papers written out as one dense complex system, and `scipy.signal.dlsim` on it."""
    layer = LinOSS(2, 3, rule=rule, output="none").double()
    dt, A = (rate * layer.logit_dt.sigmoid()).tolist(), layer.A.relu().tolist()
    G = [0.0] * 3 if layer.G is None else layer.G.relu().tolist()
    B, C = (torch.view_as_complex(part.detach()).numpy() for part in (layer.B, layer.C))
    M, N = np.zeros((6, 6), dtype=complex), np.zeros((6, 2), dtype=complex)
    for n in range(3):
        h, a, g = dt[n], A[n], G[n]
        S = 1 / (1 + h**2 * a) if rule == "im" else 1 / (1 + h * g)
        M[n, n], M[n, 3 + n] = (1 - h**2 * a * S, -h * a * S) if rule == "im" else (S, -h * a * S)
        M[3 + n, n], M[3 + n, 3 + n] = h * S, S if rule == "im" else 1 - h**2 * a * S
        N[n], N[3 + n] = h * S * B[n], h**2 * S * B[n]
    real_M, real_N = np.block([[M.real, -M.imag], [M.imag, M.real]]), np.concatenate([N.real, N.imag])
    nothing = np.zeros((2, 3))
    read = np.concatenate([nothing, C.real, nothing, -C.imag], axis=1)
    x = torch.randn(50, 2, dtype=torch.float64)
    # dlsim's state lags by one element: y_t = read (M s_t + N u_t).
    _, y, _ = signal.dlsim((real_M, real_N, read @ real_M, read @ real_N, 1.0), x.numpy())
    expected = torch.from_numpy(y) + layer.D * x
    assert (layer(x[None], rate=rate)[0] - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_without_friction_an_orbit_neither_grows_nor_ends() -> None:
    layer = LinOSS(2, 16, rule="imex", output="none").double()
    torch.nn.init.uniform_(layer.A, 0.05, 1.0)
    state = layer.initial_state(1)
    state = state._replace(position=torch.ones_like(state.position))
    sizes = []
    for _ in range(20):
        _, state = layer.forward_with_state(torch.zeros(1, 5000, 2, dtype=torch.float64), state)
        sizes.append(torch.cat(state).square().sum().sqrt())
    assert max(sizes) <= 6 * min(sizes)
    dt, A = layer.logit_dt.sigmoid()[:, None], layer.A[:, None]

    def energy(z: Tensor, y: Tensor) -> Tensor:
        # What symplectic Euler keeps instead of z² + A y².
        return z**2 + A * y**2 - dt * A * z * y

    start = layer.initial_state(1)
    first = energy(start.velocity, torch.ones_like(start.position))
    assert (energy(*state) - first).abs().max() <= 1e-10 * first.abs().max()


@pytest.mark.parametrize("rule", ["im", "damped"])
def test_with_friction_an_orbit_ends(rule: str) -> None:
    layer = LinOSS(2, 16, rule=rule, r_max=0.99, output="none").double()
    torch.nn.init.uniform_(layer.A, 0.2, 1.0)
    state = layer.initial_state(1)
    state = state._replace(position=torch.ones_like(state.position))
    _, after = layer.forward_with_state(torch.zeros(1, 5000, 2, dtype=torch.float64), state)
    assert max(part.abs().max() for part in after) <= 1e-9


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rate", [0.1, 1.0, 5.0])
def test_no_parameter_makes_an_oscillator_explode(rule: str, rate: float) -> None:
    layer = LinOSS(2, 64, rule=rule).double()
    for parameter in (layer.A, layer.logit_dt, layer.G):
        if parameter is not None:
            torch.nn.init.normal_(parameter, std=30.0)
    M, _ = layer.oscillators(rate)
    assert torch.linalg.eigvals(M).abs().max() <= 1 + 1e-6
    varying, _ = layer.oscillators(torch.full((1, 1), rate, dtype=torch.float64))
    assert (varying[0, 0] - M).abs().max() <= 1e-12 * M.abs().max()


def test_initial_eigenvalues_lie_on_the_ring() -> None:
    layer = LinOSS(2, 2000, rule="damped", r_min=0.6, r_max=0.9, theta_max=1.0)
    eigenvalues = torch.linalg.eigvals(layer.oscillators()[0])
    assert 0.6 - 1e-4 <= eigenvalues.abs().min() <= 0.605
    assert 0.895 <= eigenvalues.abs().max() <= 0.9 + 1e-4
    assert 0.99 <= eigenvalues.angle().abs().max() <= 1.001
    assert (eigenvalues.abs().square().mean() - (0.36 + 0.81) / 2).abs() <= 0.01  # evenly over the area


@pytest.mark.parametrize("rule", RULES)
def test_steps_of_one_are_no_steps(rule: str) -> None:
    layer = LinOSS(4, 8, rule=rule).double()
    x, ones = torch.randn(2, 70, 4, dtype=torch.float64), torch.ones(2, 70, dtype=torch.float64)
    state = layer.forward_with_state(x, layer.initial_state(2))[1]
    y, after = layer.forward_with_state(x, state)
    y_varying, after_varying = layer.forward_with_state(x, state, rate=ones)
    assert (y - y_varying).abs().max() <= 1e-12 * y.abs().max()
    for a, b in zip(after, after_varying, strict=True):
        assert (a - b).abs().max() <= 1e-12 * a.abs().max()


@pytest.mark.parametrize("rule", RULES)
def test_varying_steps_are_the_steps_one_by_one(rule: str) -> None:
    layer = LinOSS(4, 8, rule=rule).double()
    x, rate = torch.randn(3, 40, 4, dtype=torch.float64), 2 * torch.rand(3, 40, dtype=torch.float64)
    rate[0, 5] = 0.0
    lengths = torch.tensor([40, 0, 17])
    padded = torch.arange(40) >= lengths[:, None]
    filled = x.masked_fill(padded[..., None], torch.nan)
    layer.zero_grad()
    before = layer.forward_with_state(x, layer.initial_state(3))[1]
    y, after = layer.forward_with_state(filled, before, rate=rate.masked_fill(padded, torch.nan), lengths=lengths)
    (y[~padded].sum() + sum(part.sum() for part in after)).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in layer.parameters())
    for row, length in enumerate(lengths.tolist()):
        state = type(before)(*(part[row : row + 1] for part in before))
        for t in range(length):
            y_t, state = layer.step(x[row : row + 1, t], state, rate=rate[row : row + 1, t])
            assert (y_t[0] - y[row, t]).abs().max() <= 1e-12 * y[~padded].abs().max()
        for a, b in zip(state, after, strict=True):
            assert (a[0] - b[row]).abs().max() <= 1e-12 * b.abs().max()


@torch.no_grad()
def test_implicit_oscillators_lose_energy_at_steps_of_any_length() -> None:
    layer = LinOSS(2, 16).double()
    torch.nn.init.uniform_(layer.A, 0.0, 30.0)
    state, rate = layer.initial_state(1), 5 * torch.rand(1, 200, dtype=torch.float64)
    state, x = state._replace(position=torch.ones_like(state.position)), torch.zeros(1, 2, dtype=torch.float64)
    energy = layer.A[:, None].clone()
    for t in range(200):
        _, state = layer.step(x, state, rate=rate[:, t])
        after = layer.A[:, None] * state.position[0] ** 2 + state.velocity[0] ** 2
        assert (after <= energy * (1 + 1e-12)).all()
        energy = after


@pytest.mark.parametrize("rule", RULES)
def test_finer_steps_converge_to_the_motion(rule: str) -> None:
    """Held input, every step cut into n: errors against a fine cut fall with the first order of the rules."""
    layer = LinOSS(2, 8, rule=rule, output="none").double()
    with torch.no_grad():
        layer.A.clamp_(max=1.0)
        layer.D.zero_()
    x = torch.randn(1, 12, 2, dtype=torch.float64)
    with torch.no_grad():
        motion = {}
        for n in (4, 8, 16, 1024):
            rate = torch.full((1, 12 * n), 1 / n, dtype=torch.float64)
            motion[n] = layer(x.repeat_interleave(n, dim=1), rate=rate)[:, n - 1 :: n]
    errors = [float((motion[n] - motion[1024]).abs().max()) for n in (4, 8, 16)]
    assert errors[0] > 1e-4
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(2.0, rel=0.15)


def test_float32_stays_close_over_long_sequences() -> None:
    for rule in RULES:
        layer, x = LinOSS(8, 64, rule=rule, output="none"), torch.randn(1, 16384, 8)
        with torch.no_grad():
            found = layer(x)
            exact = layer.double()(x.double())
        assert (found - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_optimizer_rules_name_the_oscillators() -> None:
    layer = LinOSS(4, 8, rule="damped")
    assert {name for name, rule in layer.optimizer_rules.items() if rule is SLOW} == {"logit_dt", "A", "G"}
    assert LinOSS(4, 8).G is None
    with torch.no_grad():
        bound = 1 / math.sqrt(4)
        assert layer.B.abs().max() <= bound
        assert layer.C.abs().max() <= 1 / math.sqrt(8)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: LinOSS(0), "`d_model` is 0, but a positive integer is needed"),
        (lambda: LinOSS(4, 0), "`d_state` is 0, but a positive integer is needed"),
        (lambda: LinOSS(4, rule="zoh"), "`rule` is 'zoh', but one of im, imex, damped is needed"),
        (lambda: LinOSS(4, rule="damped", r_max=1.1), r"`r_max` 1\.1 .* but 0 < r_min <= r_max <= 1 .* are needed"),
        (lambda: LinOSS(4, output="mlp"), "`output` is 'mlp', but one of glu, linear, none"),
        (lambda: LinOSS(4)(torch.zeros(2, 9, 3)), r"`x` has shape \(2, 9, 3\), but \(batch, length, 4\) is needed"),
        (lambda: LinOSS(4)(torch.zeros(2, 9, 4), rate=-1.0), "`rate` is -1.0, but a positive number is needed"),
        (
            lambda: LinOSS(4)(torch.zeros(2, 9, 4), rate=torch.ones(2)),
            r"`rate` is torch.float32 of shape \(2,\), but floating numbers of shape \(2, 9\) are needed; pass for",
        ),
        (
            lambda: LinOSS(4)(torch.zeros(2, 9, 4), rate=-torch.ones(2, 9)),
            "`rate` holds -1.0, but an interval is at least",
        ),
        (
            lambda: LinOSS(4).step(
                torch.zeros(2, 4),
                LinOSS(4).initial_state(2),
                rate=torch.ones(2),
                constants=LinOSS(4).constants(),
            ),
            "beside `constants`, but constants already hold one rate for all rows; leave `constants` out",
        ),
        (
            lambda: LinOSS(4).constants(rate=torch.ones(2)),
            "`constants` of LinOSS is time invariant and takes one number",
        ),
        (lambda: LinOSS(4).step(torch.zeros(2, 1, 4), LinOSS(4).initial_state(2)), "without a time axis"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()


@pytest.mark.parametrize("rule", RULES)
def test_sub_steps_converge_at_the_first_order(rule: str) -> None:
    check_substeps(LinOSS(2, 8, rule=rule, theta_max=2.0, output="none").double(), order=1)
    with pytest.raises(LawViolation, match="one step and 2 sub-steps differ"):
        check_substeps(LinOSS(2, 8, rule=rule, output="none").double())
