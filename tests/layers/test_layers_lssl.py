"""LSSL: against scipy's discretisation and simulation, at every measure, trained and fixed, and clear errors."""

import copy

import numpy as np
import pytest
import torch
from scipy import signal

from longstate import LSSL, InputError, theory
from longstate.layers import SLOW
from longstate.ops import lti_kernel


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("measure", ["legs", "legt", "lagt"])
def test_outputs_are_those_of_scipy(measure: str, alpha: float) -> None:
    layer = LSSL(3, 6, measure=measure, alpha=alpha, output="none").double()
    A, B = (part.numpy() for part in theory.hippo(measure, 6))
    layer.A.data.copy_(torch.from_numpy(A))
    layer.B.data.copy_(torch.from_numpy(B))
    u = np.random.randn(40, 3)
    y = layer(torch.from_numpy(u)[None])[0].detach().numpy()
    C, D = (part.detach().numpy()[0] for part in (layer.C, layer.D))
    for h, dt in enumerate(layer.log_dt.exp().tolist()):
        A_bar, B_bar, *_ = signal.cont2discrete((A, B[:, None], C[h : h + 1], [[0.0]]), dt, method="gbt", alpha=alpha)
        # scipy's output stands before the update: y_t = C x_t after it reads C A_bar and C B_bar there.
        after = (A_bar, B_bar, C[h] @ A_bar, C[h] @ B_bar + D[h], dt)
        _, expected, _ = signal.dlsim(after, u[:, h])
        assert np.abs(y[:, h] - expected[:, 0]).max() <= 1e-11 * np.abs(expected).max()


@pytest.mark.parametrize("rule", ["gbt", *theory.RULES])
def test_kernel_is_its_loop_and_the_impulse_response_of_step(rule: str) -> None:
    layer = LSSL(2, 5, rule=rule, output="none", dt_max=0.02).double()
    layer.D.data.zero_()
    A_bar, B_bar, C, _ = (part.detach().numpy() for part in layer.system())
    state, constants = layer.initial_state(1), layer.constants()
    K = lti_kernel(layer.system(), 60, dtype=torch.float64)[0].detach()
    for lag in range(60):
        x = torch.full((1, 2), float(lag == 0), dtype=torch.float64)
        y, state = layer.step(x, state, constants=constants)
        expected = [C[0, h] @ np.linalg.matrix_power(A_bar[h], lag) @ B_bar[h] for h in range(2)]
        assert np.abs(K[:, lag].numpy() - expected).max() <= 1e-12 * float(K.abs().max())
        assert (K[:, lag] - y[0]).abs().max() <= 1e-12 * K.abs().max()


@pytest.mark.parametrize("measure", theory.MEASURES)
def test_float32_kernels_of_every_measure_and_step(measure: str) -> None:
    layer = LSSL(8, 64, measure=measure)
    with torch.no_grad():
        layer.log_dt.copy_(torch.logspace(-3, -1, 8).log())
        for length in (1000, 65536):
            exact = lti_kernel(layer.system(), length, dtype=torch.float64)
            error = (lti_kernel(layer.system(), length).double() - exact).abs().amax(-1) / exact.abs().amax(-1)
            assert error.max() <= 5e-6


def test_fixed_learns_only_what_reads_the_state() -> None:
    fixed, trained = LSSL(4, 6, trainable=False), LSSL(4, 6)
    own = {name for name, _ in trained.named_parameters(recurse=False)}
    assert own == {"log_dt", "A", "B", "C", "D"}
    assert {name for name, _ in fixed.named_parameters(recurse=False)} == {"C", "D"}
    assert fixed.state_dict().keys() == trained.state_dict().keys()
    fixed.load_state_dict(trained.state_dict())
    x = torch.randn(2, 30, 4)
    assert torch.equal(fixed(x), trained(x))


def test_one_a_for_all_features_unless_untied() -> None:
    assert LSSL(6, 4).A.shape == (1, 4, 4)
    untied = LSSL(6, 4, n_ssm=None)
    assert untied.A.shape == (6, 4, 4)
    assert untied.B.shape == (6, 4)


def test_learning_rates_are_the_authors() -> None:
    twin = copy.deepcopy(LSSL(4, 6))
    assert {name: rule.max_lr for name, rule in twin.optimizer_rules.items()} == {"log_dt": 1e-3, "A": 1e-4, "B": 1e-4}
    assert twin.optimizer_rules["log_dt"] is SLOW
    assert all(rule.weight_decay == 0.0 for rule in twin.optimizer_rules.values())


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_rules_whose_powers_grow_are_refused(alpha: float) -> None:
    text = rf"measure 'legt' of size 64 under rule 'gbt' with alpha={alpha} and dt from 0.001 to 0.1 has a discrete A"
    with pytest.raises(InputError, match=text + ".*use alpha=0.5 or more, or a smaller dt_max"):
        LSSL(4, 64, measure="legt", alpha=alpha)
    with pytest.raises(InputError, match=r"under rule 'euler' and dt from 0\.001 to 0\.1"):
        LSSL(4, 64, rule="euler")
    assert LSSL(4, 64, measure="legt", alpha=alpha, dt_min=1e-4, dt_max=1e-4).alpha == alpha


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: LSSL(4, measure="hippo"), "`measure` is 'hippo', but one of legs"),
        (lambda: LSSL(4, rule="exact"), "`rule` is 'exact', but one of gbt, zoh"),
        (lambda: LSSL(4, alpha=1.5), "`alpha` is 1.5, but a number from 0 to 1 is needed"),
        (
            lambda: LSSL(4, rule="zoh", alpha=1.0),
            "`alpha` is 1.0 with rule='zoh', but only gbt has one; use rule='gbt'",
        ),
        (lambda: LSSL(4, 7, measure="fourier"), "`d_state` is 7, but the fourier measure needs an even size"),
        (lambda: LSSL(4, n_ssm=3), "`n_ssm` is 3, but a divisor of d_model=4 is needed"),
        (lambda: LSSL(4, dt_min=0.2), "0 < dt_min <= dt_max is needed"),
        (lambda: LSSL(4, 6).step(torch.zeros(2, 1, 4), LSSL(4, 6).initial_state(2)), "without a time axis"),
        (lambda: LSSL(4, 6)(torch.zeros(2, 9, 4), rate=torch.ones(2, 9)), "`rate` is a tensor"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
