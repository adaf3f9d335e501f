"""DSS: both kernels by their definitions, its system, modes that grow, and clear errors."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from longstate import DSS, S4D, InputError
from longstate.diagnostics import laws as checks
from longstate.layers import SLOW
from longstate.ops import lti_conv, lti_kernel

L_MAX = 48


def build(form: str, d_model: int = 3, d_state: int = 5, **options: object) -> DSS:
    return DSS(d_model, d_state, form=form, l_max=L_MAX if form == "softmax" else None, **options).double()


def with_modes(layer: DSS, real: Tensor, imag: Tensor) -> DSS:
    """A softmax layer with A = real + i imag."""
    layer.A_real.data.copy_(real)
    layer.A_imag.data.copy_(imag)
    return layer


def modes_of(layer: DSS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A (N,), dt (H,), W (H, N) in NumPy, for layers with one A and one dt a feature."""
    real = layer.A_real.detach().numpy()[0]
    A = (real if layer.form == "softmax" else -np.exp(real)) + 1j * layer.A_imag.detach().numpy()[0]
    W = layer.C.detach().numpy()[0]
    return A, np.exp(layer.log_dt.detach().numpy()), W[..., 0] + 1j * W[..., 1]


def impulse_response(layer: DSS, length: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Outputs (length, H) of `step` after one impulse in every feature, without the skip."""
    layer = copy.deepcopy(layer).to(dtype)
    layer.D.data.zero_()
    state, constants = layer.initial_state(1), layer.constants()
    y = []
    for t in range(length):
        y_t, state = layer.step(torch.full((1, layer.d_model), float(t == 0), dtype=dtype), state, constants=constants)
        y.append(y_t[0])
    return torch.stack(y).detach()


def test_exp_kernel_is_its_sum() -> None:
    layer = build("exp", init="random")
    A, dt, W = modes_of(layer)
    K = np.zeros((3, 70))
    for h in range(3):
        for lag in range(70):
            for n in range(5):
                K[h, lag] += (W[h, n] * (np.exp(dt[h] * A[n]) - 1) / A[n] * np.exp(dt[h] * A[n] * lag)).real
    ours = lti_kernel(layer.system(), 70, dtype=torch.float64)[0].detach().numpy()
    assert np.abs(ours - K).max() <= 1e-12 * np.abs(K).max()


@pytest.mark.parametrize("real", [[-60.0] * 5, [60.0] * 5, [-0.5, 0.0, 5.0, 60.0, -60.0]])
def test_softmax_kernel_is_its_definition(real: list[float]) -> None:
    # |A| in the hundreds makes the 1e-7 of the reciprocal disappear.
    frequency = torch.tensor([-190.0, 210.0, 270.0, 310.0, 390.0])
    layer = with_modes(build("softmax", dt_min=2e-3, dt_max=1e-2), torch.tensor(real), frequency)
    A, dt, W = modes_of(layer)
    K = np.zeros((3, L_MAX))
    for h in range(3):
        for n in range(5):
            powers = np.exp(dt[h] * A[n] * np.arange(L_MAX))
            K[h] += (W[h, n] / A[n] * powers / powers.sum()).real
    ours = lti_kernel(layer.system(), L_MAX, dtype=torch.float64)[0].detach().numpy()
    assert np.abs(ours - K).max() <= 1e-9 * np.abs(K).max()


@pytest.mark.parametrize("sign", [-1, 1])
def test_softmax_layer_is_its_state_space_model(sign: int) -> None:
    layer = build("softmax", output="none")
    with_modes(layer, sign * torch.rand(5), torch.linspace(50.0, 200.0, 5))
    A, dt, W = modes_of(layer)
    u = np.random.randn(L_MAX, 3)
    y = np.zeros((L_MAX, 3))
    for h in range(3):
        B_bar = 1 / (A * np.exp(np.outer(dt[h] * A, np.arange(L_MAX))).sum(axis=1))
        x = np.zeros(5, dtype=complex)
        for t in range(L_MAX):
            x = np.exp(dt[h] * A) * x + B_bar * u[t, h]
            y[t, h] = (W[h] * x).sum().real + layer.D.detach().numpy()[0, h] * u[t, h]
    ours = layer(torch.from_numpy(u)[None])[0].detach().numpy()
    assert np.abs(ours - y).max() <= 1e-8 * np.abs(y).max()


@pytest.mark.parametrize("form", ["exp", "softmax"])
def test_kernel_is_the_impulse_response_of_step(form: str) -> None:
    layer = build(form, output="none")
    K = lti_kernel(layer.system(), L_MAX, dtype=torch.float64)[0].T
    assert (impulse_response(layer, L_MAX) - K).abs().max() <= 1e-12 * K.abs().max()


@pytest.mark.parametrize("growth", [0.1, 1.0, 1e6])
def test_growing_modes_stay_finite_and_stream_within_l_max(growth: float) -> None:
    layer = build("softmax", d_state=8, output="none", dt_min=0.05, dt_max=0.1)
    layer.A_real.data.uniform_(0.0, 1.0).mul_(growth)
    K = lti_kernel(layer.system(), L_MAX, dtype=torch.float64)[0].T
    assert (impulse_response(layer, L_MAX) - K).abs().max() <= 1e-12 * K.abs().max()
    assert (impulse_response(layer, L_MAX, torch.float32).double() - K).abs().max() <= 2e-5 * K.abs().max()
    x = torch.randn(2, L_MAX, 3)
    exact, single = layer(x.double()), copy.deepcopy(layer).float()
    y, state = single.forward_with_state(x[:, :30], single.initial_state(2))
    y = torch.cat([y, single.forward_with_state(x[:, 30:], state)[0]], dim=1)
    assert (y - exact).abs().max() <= 2e-5 * exact.abs().max()
    assert (single(x) - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_a_growing_mode_recalls_the_far_end() -> None:
    layer = build("softmax", d_state=1, output="none", dt_min=0.1, dt_max=0.1)
    K = lti_kernel(with_modes(layer, torch.tensor(2.0), torch.tensor(0.0)).system(), L_MAX, dtype=torch.float64)[0]
    assert (K.abs().argmax(-1) == L_MAX - 1).all()


def test_growth_is_bounded() -> None:
    layer = build("softmax", dt_min=1e-3, dt_max=1e-1)
    layer.A_real.data.fill_(1e3)
    growth = layer.system().A.detach().abs().log() * L_MAX
    assert float(growth.max()) == pytest.approx(32.0)


def test_where_the_softmax_is_singular_it_stays_finite() -> None:
    layer = build("softmax", output="none")
    layer.log_dt.data.fill_(-3.0)
    with_modes(layer, torch.zeros(5), 2 * torch.pi * torch.arange(5) / (L_MAX * torch.exp(torch.tensor(-3.0).double())))
    y = layer(torch.randn(1, L_MAX, 3, dtype=torch.float64))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("sign", [-1, 1])
def test_rate_keeps_the_sum_of_a_softmax_kernel(sign: int) -> None:
    layer = with_modes(build("softmax"), sign * torch.rand(5), torch.linspace(50.0, 200.0, 5))
    fine = lti_kernel(layer.system(1.0), L_MAX, dtype=torch.float64)
    coarse = lti_kernel(layer.system(2.0), L_MAX // 2, dtype=torch.float64)
    assert (fine.sum(-1) - coarse.sum(-1)).abs().max() <= 1e-10 * fine.abs().sum(-1).max()


@pytest.mark.parametrize("form", ["exp", "softmax"])
def test_intervals_are_steps_of_the_held_input(form: str) -> None:
    layer = build(form, output="none")
    with_modes(layer, torch.linspace(-1.0, 0.5, 5), torch.linspace(50.0, 200.0, 5))
    A, dt, W = modes_of(layer)
    u, rate = np.random.randn(30, 3), np.random.rand(30)
    y = np.zeros((30, 3))
    for h in range(3):
        gain = 1 / A if form == "exp" else 1 / (A * (np.exp(L_MAX * dt[h] * A) - 1))
        x = np.zeros(5, dtype=complex)
        for t in range(30):
            A_bar = np.exp(rate[t] * dt[h] * A)
            x = A_bar * x + (A_bar - 1) * gain * u[t, h]
            y[t, h] = (W[h] * x).sum().real + layer.D.detach().numpy()[0, h] * u[t, h]
    ours = layer(torch.from_numpy(u)[None], rate=torch.from_numpy(rate)[None])[0].detach().numpy()
    assert np.abs(ours - y).max() <= 1e-8 * np.abs(y).max()


@pytest.mark.parametrize("form", ["exp", "softmax"])
def test_intervals_keep_their_laws(form: str) -> None:
    layer = build(form, init="random", channels=2, separate_dt=True)
    checks.check_gradients_of_rate(layer)
    checks.check_substeps(layer)


def test_exp_is_s4d_with_both_of_each_pair() -> None:
    dss = DSS(4, 6, init="lin", output="none", n_ssm=None).double()
    s4d = S4D(4, 12, init="lin", output="none").double()
    s4d.log_dt.data.copy_(dss.log_dt)
    s4d.C.data.copy_(dss.C / 2)
    s4d.D.data.copy_(dss.D)
    x = torch.randn(2, 90, 4, dtype=torch.float64)
    assert (dss(x) - s4d(x)).abs().max() <= 1e-12 * s4d(x).abs().max()


def test_separate_steps_scale_the_two_parts_of_a() -> None:
    layer = build("exp", separate_dt=True)
    layer.log_dt.data[:, 1] = layer.log_dt[:, 0] + torch.tensor(3.0).log()
    slow = build("exp", separate_dt=False)
    slow.load_state_dict(layer.state_dict() | {"log_dt": layer.log_dt[:, 0], "A_imag": 3 * layer.A_imag})
    assert torch.allclose(layer.system().A, slow.system().A, rtol=1e-14)
    exact = slow.system()
    A = torch.complex(-slow.A_real.exp(), layer.A_imag)
    assert torch.allclose(layer.system().B, torch.expm1(exact.A.log()) / A, rtol=1e-12)


@pytest.mark.parametrize("form", ["exp", "softmax"])
def test_a_prefix_does_not_depend_on_what_follows(form: str) -> None:
    x = torch.randn(1, 3 * L_MAX, 3, dtype=torch.float64)
    layer = build(form)
    assert (layer(x)[:, :20] - layer(x[:, :20])).abs().max() <= 1e-12


@pytest.mark.parametrize("form", ["exp", "softmax"])
@pytest.mark.parametrize("init", ["legs", "lin", "random"])
def test_float32_kernels_of_every_initialisation_and_step(form: str, init: str) -> None:
    layer = DSS(8, 64, form=form, l_max=65536 if form == "softmax" else None, init=init)
    layer.log_dt.data = torch.logspace(-3, -1, 8).log()
    for length in (1000, 65536):
        exact = lti_kernel(layer.system(), length, dtype=torch.float64)
        error = (lti_kernel(layer.system(), length).double() - exact).abs().amax(-1) / exact.abs().amax(-1)
        assert error.max() <= 5e-6


def test_float32_layer_is_near_the_loop() -> None:
    layer = DSS(3, 16, form="softmax", l_max=500, output="none")
    u = torch.randn(2, 500, 3)
    exact = lti_conv(u.double(), layer.system(), backend="reference")[:, :, 0]
    assert (layer(u) - exact).abs().max() <= 2e-5 * exact.abs().max()


def test_a_is_shared_by_all_features_unless_untied() -> None:
    assert DSS(6, 4).A_real.shape == (1, 4)
    assert DSS(6, 4, n_ssm=2).A_real.shape == (2, 4)
    assert DSS(6, 4, n_ssm=None).A_imag.shape == (6, 4)


def test_rules_of_the_optimiser_survive_a_copy() -> None:
    twin = copy.deepcopy(DSS(4, 8))
    own = {name for name, _ in twin.named_parameters(recurse=False)}
    assert {name for name, rule in twin.optimizer_rules.items() if rule is SLOW} == own - {"D"}


def test_initial_modes_are_the_positive_half_of_the_skew_hippo_matrix() -> None:
    layer = DSS(2, 8).double()
    n = np.arange(16)
    hippo = np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1)
    frequency = np.sort(np.linalg.eigvals((hippo - hippo.T) / 2).imag)[8:]
    assert torch.allclose(layer.A_imag[0].sort().values, torch.from_numpy(frequency), rtol=1e-6)
    assert torch.allclose(layer.A_real, torch.full_like(layer.A_real, 0.5).log())


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: DSS(4, form="no-scale"), "`form` is 'no-scale', but one of exp, softmax is needed"),
        (lambda: DSS(4, form="softmax"), "`l_max` is None with form='softmax'.*give the length of the training"),
        (lambda: DSS(4, l_max=100), "`l_max` is 100 with form='exp', but only softmax has one; leave it out"),
        (lambda: DSS(4, form="softmax", l_max=0), "`l_max` is 0, but a positive integer is needed"),
        (lambda: DSS(4, init="inv"), "`init` is 'inv', but one of legs, lin, random is needed"),
        (lambda: DSS(4, n_ssm=3), "`n_ssm` is 3, but a divisor of d_model=4 is needed"),
        (lambda: DSS(4, dt_min=0.0), "0 < dt_min <= dt_max is needed"),
        (lambda: DSS(4)(torch.zeros(2, 9, 3)), r"`x` has shape \(2, 9, 3\), but \(batch, length, 4\) is needed"),
        (lambda: DSS(4)(torch.zeros(2, 9, 4), rate=-1.0), "`rate` is -1.0, but a positive number is needed"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
