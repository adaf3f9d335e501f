"""What S4 and S4D promise beyond the laws: any length, any rate, tied systems, optimiser rules, clear errors."""

import copy

import pytest
import torch

from longstate import InputError, theory
from longstate.layers import S4, S4D, SLOW, Bidirectional
from longstate.ops import lti_kernel


@pytest.mark.parametrize("layer", [S4, S4D])
def test_a_prefix_does_not_depend_on_what_follows(layer) -> None:
    x = torch.randn(1, 300, 4, dtype=torch.float64)
    model = layer(4, 8).double()
    assert (model(x)[:, :77] - model(x[:, :77])).abs().max() <= 1e-12


@pytest.mark.parametrize("layer", [S4, S4D])
@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_rate_keeps_the_mass_of_the_kernel(layer, rule: str) -> None:
    model = layer(4, 16, rule=rule, dt_min=1e-3, dt_max=1e-2).double()
    fine = lti_kernel(model.system(1.0), 16384, dtype=torch.float64)
    coarse = lti_kernel(model.system(2.0), 8192, dtype=torch.float64)
    assert (fine.sum(-1) - coarse.sum(-1)).abs().max() <= 1e-3 * fine.abs().sum(-1).max()


def test_float32_kernels_of_every_initialisation_and_step() -> None:
    for layer in (
        S4(8, 64, init="legs"),
        S4(8, 64, init="legt"),
        S4(8, 64, init="fourier"),
        S4(8, 64, rule="zoh"),
        S4D(8, 64, init="lin"),
        S4D(8, 64, init="inv"),
        S4D(8, 64, init="legs", rule="bilinear"),
        S4D(8, 64, init="real"),
    ):
        layer.log_dt.data = torch.logspace(-3, -1, 8).log()
        system = layer.system()
        for length in (1000, 65536):
            exact = lti_kernel(system, length, dtype=torch.float64)
            error = (lti_kernel(system, length).double() - exact).abs().amax(-1) / exact.abs().amax(-1)
            assert error.max() <= 5e-6


@pytest.mark.parametrize("layer", [S4, S4D])
def test_tied_systems_share_their_parameters(layer) -> None:
    model = layer(6, 8, n_ssm=2)
    assert model.A_real.shape == (2, 4)
    torch.nn.init.constant_(model.log_dt, -3.0)
    A = model.system().A
    assert torch.equal(A[0], A[2])
    assert torch.equal(A[1], A[5])


def test_steps_are_drawn_log_uniformly() -> None:
    dt = S4D(20000, 2, dt_min=1e-3, dt_max=1e-1).log_dt.detach().exp()
    assert 1e-3 <= dt.min() <= 1.01e-3
    assert 0.99e-1 <= dt.max() <= 1e-1
    assert abs(float(dt.log10().mean()) + 2.0) <= 0.02


@pytest.mark.parametrize("layer", [S4(4, 8), S4D(4, 8)])
def test_rules_of_the_optimiser_survive_a_copy(layer) -> None:
    twin = copy.deepcopy(layer)
    own = {name for name, _ in twin.named_parameters(recurse=False)}
    assert {name for name, rule in twin.optimizer_rules.items() if rule is SLOW} == own - {"C", "D"}


@pytest.mark.parametrize("init", ["lin", "inv", "inv2", "quad", "legs", "real", "diag"])
def test_s4d_starts_where_theory_says(init: str) -> None:
    layer = S4D(4, 8, init=init, n_ssm=2)
    A, B = theory.diagonal_heads(init, 2, 8)
    torch.testing.assert_close(-layer.A_real.exp(), A.real.float())
    if init != "real":
        assert torch.equal(layer.A_imag, A.imag.float())
    assert torch.equal(layer.B, torch.view_as_real(B).float() if B.is_complex() else B.float())


def test_s4d_options_of_the_start() -> None:
    layer = S4D(4, 8, b_init="alternating", real_random=True)
    assert torch.equal(layer.B[..., 0], torch.tensor([1.0, -1.0, 1.0, -1.0]).expand(4, 4))
    assert len(layer.A_real.unique()) == 16
    assert layer.A_real.max() <= 0


@pytest.mark.parametrize("init", theory.DPLR_INITS)
def test_s4_starts_where_theory_says(init: str) -> None:
    layer = S4(4, 8, init=init)
    A, P, B = theory.dplr_heads(init, 4, 8)
    torch.testing.assert_close(-layer.A_real.exp(), A.real.clamp(max=-1e-4).float())
    assert torch.equal(layer.A_imag, A.imag.float())
    assert torch.equal(layer.P, torch.view_as_real(P).float())
    assert torch.equal(layer.B, torch.view_as_real(B).float())


def test_the_diagonal_members_of_a_mixture_stay_diagonal() -> None:
    layer = S4(4, 8, init="all").double()
    layer(torch.randn(1, 9, 4, dtype=torch.float64)).square().sum().backward()
    assert layer.P.grad is not None
    assert (layer.P.grad[:, :2].abs().amax((0, 2, 3)) > 0).all()
    assert torch.equal(layer.P.grad[:, 2:], torch.zeros(1, 2, 4, 2, dtype=torch.float64))


def test_strict_bidirectional_counts_the_present_once() -> None:
    x = torch.randn(1, 20, 4, dtype=torch.float64)
    forward, backward = (S4D(4, 8, output="none").double() for _ in range(2))
    torch.nn.init.zeros_(backward.D)
    y = Bidirectional(forward, backward, strict=True)(x)
    k1 = lti_kernel(backward.system(), 20, dtype=torch.float64)[0]
    expected = forward(x)[0, 3] + sum(k1[:, j] * x[0, 3 + 1 + j] for j in range(16))
    assert (y[0, 3] - expected).abs().max() <= 1e-12


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: S4D(0), "`d_model` is 0, but a positive integer is needed"),
        (lambda: S4D(4, 7), "`d_state` is 7, but"),
        (lambda: S4(4, init="lmu"), "`init` is 'lmu', but one of legs"),
        (lambda: S4(4, init="all", n_ssm=2), "init 'all' shares the heads among legs, .* but 2 is no multiple of 4"),
        (lambda: S4D(3, init="diag"), "init 'diag' shares the heads among inv, lin, but 3 is no multiple of 2; use 4"),
        (lambda: S4D(4, init="real", b_init="unit_cw"), "`b_init` is 'unit_cw' with a real system"),
        (lambda: S4D(4, init="hippo"), "`init` is 'hippo', but one of lin"),
        (lambda: S4D(4, rule="exact"), "`rule` is 'exact', but one of zoh"),
        (lambda: S4D(4, n_ssm=3), "`n_ssm` is 3, but a divisor of d_model=4 is needed"),
        (lambda: S4D(4, dt_min=0.1, dt_max=0.01), "`dt_min` is 0.1 and `dt_max` 0.01"),
        (lambda: S4D(4, output="mlp"), "`output` is 'mlp', but one of glu, linear, none"),
        (lambda: S4D(4, channels=2, output="none"), "`channels` is 2 with output='none'"),
        (lambda: Bidirectional(S4D(4), S4D(6)), "d_model 4 and the backward layer 6"),
        (lambda: S4D(4)(torch.zeros(2, 4, 9)), r"`x` has shape \(2, 4, 9\), but \(batch, length, 4\) is needed"),
        (lambda: S4D(4)(torch.zeros(2, 9, 4, dtype=torch.int64)), "is torch.int64, but a floating type is needed"),
        (lambda: S4D(4)(torch.zeros(2, 9, 4), rate=0.0), "`rate` is 0.0, but a positive number is needed"),
        (
            lambda: S4(4)(torch.zeros(2, 9, 4), rate=torch.ones(2, 9)),
            "S4 is time invariant .* or take S4D, whose steps",
        ),
        (lambda: S4D(4).step(torch.zeros(2, 1, 4), S4D(4).initial_state(2)), "without a time axis"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
