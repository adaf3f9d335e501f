"""Layers as systems of scipy and back: an oracle, from outside, for every discretisation and every linear layer."""

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import signal
from torch import Tensor, nn

import catalogue
from longstate import S4, S4D, InputError, check_layer
from longstate.diagnostics import (
    SCIPY_METHODS,
    FixedSystem,
    HeldSystem,
    continuous_system,
    discrete_system,
    frequency_response,
    from_state_space,
    poles,
    time_constants,
)
from longstate.diagnostics.plots import draw_response
from longstate.layers import DSS, EMA, GSS, LSSL, LTILayer, Mamba, MIMOLayer, Residual
from longstate.ops import LTISystem
from longstate.theory import RULES

S4_INITS = ("legs", "legt", "lagt", "fourier")
S4D_INITS = ("lin", "inv", "legs", "random", "real")
LINEAR = [
    entry
    for entry in (*catalogue.CAUSAL_LAYERS, *catalogue.COMBINATIONS)
    if isinstance(entry.build(), LTILayer | MIMOLayer)
]


def moved(layer: LTILayer) -> LTILayer:
    """With B and the decays of its tied systems apart from each other."""
    for name, parameter in layer.named_parameters():
        if name in ("A_real", "B"):
            parameter.data *= torch.linspace(1.0, 1.5, len(parameter)).reshape(-1, *[1] * (parameter.dim() - 1))
    return layer


CONTINUOUS = [
    *[pytest.param(lambda i=i, r=r: S4(4, 8, init=i, rule=r), id=f"S4-{i}-{r}") for i in S4_INITS for r in RULES],
    *[pytest.param(lambda i=i, r=r: S4D(4, 8, init=i, rule=r), id=f"S4D-{i}-{r}") for i in S4D_INITS for r in RULES],
    *[pytest.param(lambda r=r: LSSL(4, 8, rule=r, dt_max=0.05), id=f"LSSL-{r}") for r in RULES],
    *[pytest.param(lambda a=a: LSSL(4, 8, alpha=a), id=f"LSSL-gbt-{a}") for a in (0.5, 0.7, 1.0)],
    *[pytest.param(lambda k=k: moved(k(4, 8, n_ssm=2)), id=f"{k.__name__}-tied") for k in (S4, S4D, LSSL, DSS)],
    pytest.param(lambda: DSS(4, 6, separate_dt=True), id="DSS-separate"),
]


def bare(layer: LTILayer | MIMOLayer) -> LTILayer | MIMOLayer:
    """The layer without what comes after its system."""
    layer.output = nn.Identity()
    return layer.double().eval()


def outputs(layer: nn.Module, u: np.ndarray, **options: float) -> np.ndarray:
    with torch.no_grad():
        return layer(torch.from_numpy(u)[None], **options)[0].numpy()


def scipy_method(layer: LTILayer) -> tuple[str, float | None]:
    if isinstance(layer, DSS):
        return "zoh", None
    assert isinstance(layer, S4 | S4D | LSSL)
    return (
        ("gbt", layer.alpha) if isinstance(layer, LSSL) and layer.rule == "gbt" else (SCIPY_METHODS[layer.rule], None)
    )


def assert_close(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-9) -> None:
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("entry", LINEAR, ids=str)
def test_dlsim_gives_the_outputs_of_every_linear_layer(entry: catalogue.Entry) -> None:
    layer = bare(entry.build())
    u = np.random.default_rng(0).normal(size=(60, layer.d_model))
    y = outputs(layer, u)
    _, whole = signal.dlsim(discrete_system(layer), u)[:2]
    assert_close(whole, y, 1e-8)
    if isinstance(layer, LTILayer):
        for feature in range(layer.d_model):
            system = discrete_system(layer, feature, sampling_rate=20.0)
            t, one = signal.dlsim(system, u[:, feature])[:2]
            assert_close(one, y[:, feature :: layer.d_model], 1e-8)
            assert t[1] == pytest.approx(0.05)


def test_the_catalogue_holds_every_linear_layer() -> None:
    kinds = {type(entry.build()) for entry in LINEAR}
    assert {S4, S4D, LSSL, DSS, EMA} <= kinds
    assert any(issubclass(kind, MIMOLayer) for kind in kinds)


@pytest.mark.parametrize("sampling_rate", [1.0, 250.0])
@pytest.mark.parametrize("build", CONTINUOUS)
def test_scipy_discretises_to_the_same_system(build, sampling_rate: float) -> None:
    layer = bare(build())
    method, alpha = scipy_method(layer)
    u = np.random.default_rng(1).normal(size=(40, 4))
    y = outputs(layer, u)
    for feature in range(4):
        space = continuous_system(layer, feature, sampling_rate=sampling_rate)
        step = 1 / sampling_rate
        A, B, C, D, _ = signal.cont2discrete((space.A, space.B, space.C, 0 * space.D), step, method, alpha)
        if method == "impulse":
            _, one = signal.dlsim(signal.dlti(A, B, C, D + space.D), u[:, feature])[:2]
            assert_close(one[:, 0], y[:, feature], 1e-7)
            continue
        x, found = np.zeros(len(A)), []
        for value in u[:, feature]:  # the layer's C sees the state after the step
            x = A @ x + B[:, 0] * value
            found.append(space.C @ x + space.D[:, 0] * value)
        assert_close(np.array(found)[:, 0], y[:, feature], 1e-7)


@pytest.mark.parametrize("rate", [None, 2.0])
@pytest.mark.parametrize("entry", LINEAR, ids=str)
def test_the_frequency_response_is_that_of_scipy(entry: catalogue.Entry, rate: float | None) -> None:
    layer = bare(entry.build())
    if isinstance(layer, EMA):
        rate = None
    frequencies = torch.linspace(0.01, 5.0, 12, dtype=torch.float64)
    response = frequency_response(layer, frequencies, sampling_rate=10.0, rate=rate).numpy()
    system = discrete_system(layer, rate=rate, sampling_rate=10.0)
    z = np.exp(2j * np.pi * frequencies.numpy() / 10.0)
    states = np.linalg.solve(z[:, None, None] * np.eye(len(system.A)) - system.A, system.B.astype(complex))
    whole = np.moveaxis(system.C @ states + system.D, 0, -1)  # (outputs, inputs, F)
    if isinstance(layer, MIMOLayer):
        assert_close(response, whole)
        return
    for feature in range(layer.d_model):
        assert_close(response[:, feature], whole[feature :: layer.d_model, feature], 1e-8)
    one = discrete_system(layer, 0, rate=rate)
    if len(one.A) > 8:  # scipy goes over the coefficients of a polynomial, which takes more digits than there are
        return
    _, by_scipy = signal.dfreqresp(
        signal.dlti(one.A, one.B, one.C[:1], one.D[:1]), w=2 * np.pi * frequencies[1:-1].numpy() / 10.0
    )
    assert_close(response[0, 0, 1:-1], by_scipy, 1e-6)


def test_a_sine_comes_out_as_its_response_says() -> None:
    layer = bare(S4D(2, 8, dt_min=0.05, dt_max=0.1))
    t = np.arange(4000) / 50.0
    u = np.stack([np.sin(2 * np.pi * 3.0 * t)] * 2, 1)
    H = frequency_response(layer, torch.tensor([3.0]), sampling_rate=50.0)[0, :, 0].numpy()
    wanted = np.abs(H) * np.sin(2 * np.pi * 3.0 * t[:, None] + np.angle(H))
    assert_close(outputs(layer, u)[2000:], wanted[2000:], 1e-9)


def test_slow_frequencies_see_the_continuous_system() -> None:
    errors = []
    for dt in (0.02, 0.01):
        layer = bare(S4D(1, 8, rule="zoh", dt_min=dt, dt_max=dt))
        torch.manual_seed(0)
        nn.init.normal_(layer.C)
        nn.init.constant_(layer.D, 0.5)
        frequencies = torch.linspace(0.1, 1.0, 10, dtype=torch.float64)  # cycles in the layer's own time
        found = frequency_response(layer, frequencies, sampling_rate=1 / dt)[0, 0].numpy()
        _, wanted = signal.freqresp(
            continuous_system(layer, 0, sampling_rate=1 / dt), w=2 * np.pi * frequencies.numpy()
        )
        errors.append(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert errors[0] < 0.2
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.1)


@pytest.mark.parametrize("entry", LINEAR, ids=str)
def test_poles_are_the_eigenvalues_of_the_system(entry: catalogue.Entry) -> None:
    layer = bare(entry.build())
    found = poles(layer)
    for feature in range(1 if isinstance(layer, MIMOLayer) else layer.d_model):
        own = found if isinstance(layer, MIMOLayer) else found[feature]
        system = discrete_system(layer, None if isinstance(layer, MIMOLayer) else feature)
        characteristic = np.poly(own.numpy())
        wanted = np.poly(np.linalg.eigvals(system.A))
        assert_close(characteristic.real, wanted.real, 1e-6)
        assert np.abs(characteristic.imag).max() <= 1e-6 * np.abs(wanted).max()


def test_time_constants_are_how_long_a_mode_takes_to_fall_by_e() -> None:
    layer = bare(S4D(3, 2, init="real", dt_min=0.01, dt_max=0.5))
    found = time_constants(layer, sampling_rate=50.0)
    decay = torch.arange(1.0, 3.0) * layer.log_dt.detach().exp()[:, None]
    assert torch.allclose(found.samples, (1 / decay).double())
    assert torch.equal(found.seconds, found.samples / 50.0)
    assert torch.allclose(time_constants(layer, rate=2.0).samples, found.samples / 2)
    keeps = FixedSystem(from_state_space(signal.dlti([1.0], [1.0, -1.0], dt=1.0)).system())
    assert time_constants(keeps).samples.flatten().tolist() == [np.inf, 0.0]


FILTERS = {
    "butter": signal.dlti(*signal.butter(4, 0.2)),
    "narrow": signal.dlti(*signal.butter(2, [0.10, 0.12], "band")),
    "cheby": signal.dlti(*signal.cheby1(5, 1, 0.3)),
    "delay": signal.dlti([1.0], [1.0, 0.0, 0.0, 0.0]),
    "moving average": signal.dlti(np.ones(6) / 6, [1.0, 0, 0, 0, 0, 0]),
    "gain": signal.dlti([2.5], [1.0]),
    "sum": signal.dlti([1.0, 0.0], [1.0, -1.0]),
}


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_of_scipy_as_a_layer(name: str) -> None:
    u = np.random.default_rng(2).normal(size=(500, 1))
    layer = from_state_space(FILTERS[name], dtype=torch.float64)
    wanted = signal.dlsim(FILTERS[name].to_ss(), u)[1]
    assert_close(outputs(layer, u), wanted, 1e-9)
    x, state = torch.from_numpy(u)[None], layer.initial_state(1)
    first, state = layer.forward_with_state(x[:, :123], state)
    rest = []
    for x_t in x[:, 123:].unbind(1):
        y_t, state = layer.step(x_t, state)
        rest.append(y_t)
    assert_close(torch.cat([first, torch.stack(rest, 1)], 1)[0].numpy(), wanted, 1e-9)
    assert np.linalg.norm(layer.system().A[0].numpy(), 2) <= 1 + 1e-9
    single = from_state_space(FILTERS[name])
    assert single.A.dtype is torch.float32
    assert_close(outputs(single, u.astype(np.float32)), wanted, 2e-5)


def test_one_filter_a_feature() -> None:
    u = np.random.default_rng(3).normal(size=(200, 3))
    chosen = [FILTERS[name] for name in ("butter", "delay", "gain")]
    layer = from_state_space(chosen, dtype=torch.float64)
    wanted = [signal.dlsim(system.to_ss(), u[:, at])[1][:, 0] for at, system in enumerate(chosen)]
    assert_close(outputs(layer, u), np.stack(wanted, 1))


def test_there_and_back() -> None:
    layer = bare(S4(2, 8, init="fourier"))
    again = from_state_space([discrete_system(layer, at) for at in range(2)], dtype=torch.float64)
    u = np.random.default_rng(4).normal(size=(300, 2))
    assert_close(outputs(again, u), outputs(layer, u), 1e-8)


@pytest.mark.parametrize("rate", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", [S4, S4D])
def test_a_continuous_system_comes_back_as_the_same_layer(kind, rule: str, rate: float) -> None:
    layer = bare(kind(2, 8, rule=rule, dt_max=0.02))
    spaces = [continuous_system(layer, at, sampling_rate=100.0) for at in range(2)]
    again = from_state_space(spaces, rule=rule, sampling_rate=100.0, dtype=torch.float64)
    assert isinstance(again, HeldSystem)
    u = np.random.default_rng(5).normal(size=(300, 2))
    assert_close(outputs(again, u, rate=rate), outputs(layer, u, rate=rate), 1e-8)


def test_a_fixed_layer_obeys_the_laws_and_learns_nothing() -> None:
    layer = from_state_space([FILTERS["butter"], FILTERS["delay"]])
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    check_layer(layer, programs=False)
    held = from_state_space(signal.lti(*signal.butter(2, 2.0, analog=True)), sampling_rate=10.0)
    check_layer(held, programs=False)


def test_coordinates_are_kept_where_they_contract_and_found_where_not() -> None:
    contracting = signal.StateSpace(np.array([[0.5, 0.1], [0.0, 0.5]]), [[1.0], [0.5]], [[0.3, 0.2]], [[0.1]], dt=1.0)
    layer = from_state_space(signal.lti(np.diag([-1.0, -2.0]), [[1.0], [1.0]], [[1.0, 1.0]], [[0.0]]))
    assert torch.equal(layer.A[0], torch.diag(torch.tensor([-1.0, -2.0])))
    stiff = signal.StateSpace(np.array([[-1.0, 1e3], [0.0, -1.0]]), [[0.0], [1.0]], [[1.0, 0.0]], [[0.0]])
    found = from_state_space(stiff, dtype=torch.float64)
    assert float(torch.linalg.eigvalsh(found.A[0] + found.A[0].T).max()) <= 1e-9
    assert from_state_space(contracting).d_state == 3  # two, and the present input


def companion(pole: float, order: int) -> signal.dlti:
    """A pole so often repeated that rounding scatters it over a disc."""
    A = scipy.linalg.companion(np.poly([pole] * order))
    return signal.dlti(A, np.eye(order)[:, :1], np.eye(order)[:1], [[0.0]], dt=1.0)


def test_at_a_pole_the_response_is_infinite_or_the_limit() -> None:
    one = torch.ones(1, 2)
    adds_up = FixedSystem(LTISystem(torch.diag(torch.tensor([1.0, 0.5]))[None], one, one[None], torch.zeros(1, 1)))
    assert torch.isinf(frequency_response(adds_up, torch.tensor([0.0])).real).all()
    layer = bare(LSSL(2, 8, measure="fourier", trainable=False))  # its first sine is never driven: a pole at 1
    at, near = frequency_response(layer, torch.tensor([0.0, 1e-7]))[0, 0].abs()
    assert float(at) == pytest.approx(float(near), rel=1e-4)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: poles(Mamba(4, 2)), "`layer` is a Mamba, but one with a fixed linear system is needed"),
        (lambda: discrete_system(Residual(S4D(4, 8))), r"`layer` is a Residual, but .* pass the layer inside"),
        (lambda: discrete_system(S4D(4, 8), 4), "`feature` is 4, but 0 to 3 are there"),
        (lambda: continuous_system(S4D(4, 8), -1), "`feature` is -1, but 0 to 3 are there"),
        (
            lambda: continuous_system(EMA(4, 8), 0),
            "`layer` is a EMA without a continuous form, but S4, S4D, LSSL",
        ),
        (lambda: continuous_system(DSS(4, 8, form="softmax", l_max=9), 0), "is a DSS without a continuous form"),
        (lambda: continuous_system(GSS(4).ssm, 0), "is a UnitStepDSS without a continuous form"),
        (lambda: poles(EMA(4, 8), rate=2.0), "EMA"),
        (lambda: poles(S4D(4, 8), rate=0.0), "`rate` is 0.0, but a positive number is needed"),
        (lambda: time_constants(S4D(4, 8), sampling_rate=0.0), "`sampling_rate` is 0.0, but a positive number in Hz"),
        (lambda: frequency_response(S4D(4, 8), torch.zeros(2, 2)), r"is torch.float32 of shape \(2, 2\), but real num"),
        (lambda: from_state_space([]), "`systems` is empty, but one system a feature is needed"),
        (
            lambda: from_state_space(signal.butter(2, 0.1, output="sos")),
            "system 0 is a ndarray, but one of scipy",
        ),
        (lambda: from_state_space(signal.lti([1.0], [1.0, 1.0]), rule="exact"), "`rule` is 'exact', but one of zoh"),
        (
            lambda: from_state_space([FILTERS["butter"], signal.lti([1.0], [1.0, 1.0])]),
            "`systems` are some discrete and some continuous, but all must be of one kind",
        ),
        (
            lambda: from_state_space(discrete_system(S4D(2, 4))),
            "system 0 has 2 inputs and 2 outputs, but one of each is needed; give one system a feature",
        ),
        (lambda: from_state_space(signal.dlti([1.0], [1.0, -1.1])), "system 0 has a pole of modulus 1.1, but a stable"),
        (lambda: from_state_space(signal.lti([1.0], [1.0, -0.5])), "system 0 has a pole of real part 0.5, but a stab"),
        (
            lambda: from_state_space(signal.dlti([1.0], [1.0, -2.0, 1.0])),
            r"so ill-conditioned .* a double pole on",
        ),
        (
            lambda: from_state_space(companion(0.99, 9)),
            r"system 0 (is so ill-|has a pole of m)",
        ),
    ],
)
def test_errors_say_what_to_do(act, message: str) -> None:
    with pytest.raises(InputError, match=message):
        act()


def test_a_layer_for_all_features_has_no_single_one() -> None:
    layer = next(built for entry in LINEAR if isinstance(built := entry.build(), MIMOLayer))
    with pytest.raises(InputError, match=r"`feature` is 0, but .* has one system for all features; leave it out"):
        discrete_system(layer, 0)


def test_without_scipy_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.signal", None)
    for act in (lambda: discrete_system(S4D(2, 4), 0), lambda: from_state_space([1])):
        with pytest.raises(InputError, match=r"scipy is not installed; run `pip install 'longstate\[control\]'`"):
            act()
    assert poles(S4D(2, 4)).shape == (2, 4)  # needs none


@pytest.mark.parametrize(
    "layer", [S4(3, 8, channels=2), S4D(12, 8), S4D(1, 8, init="real"), from_state_space(FILTERS["sum"])]
)
@pytest.mark.parametrize("sampling_rate", [None, 50.0])
def test_a_picture_is_drawn(layer: LTILayer, sampling_rate: float | None, tmp_path: Path) -> None:
    draw_response(tmp_path / "x.png", layer, sampling_rate=sampling_rate, title="x")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_responses_pass_no_gradient_and_change_nothing() -> None:
    layer = S4(2, 8)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    H: Tensor = frequency_response(layer, torch.tensor([0.1]))
    assert not H.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
