"""S5 against the official code, a simulation by scipy, its own convolution, and a loop over irregular steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor, nn

from longstate import InputError
from longstate.diagnostics import check_layer
from longstate.layers import S4D, S5, SLOW, BidirectionalS5, Residual, build_output
from longstate.models import S5Config, build_bidirectional, build_layer
from longstate.theory import RULES, hippo

GOLDENS = Path(__file__).parents[1] / "goldens" / "s5.npz"
CASES = {
    "zoh": {},
    "bilinear": {"rule": "bilinear"},
    "zoh_blocks2_rescale2": {"blocks": 2},
    "zoh_no_conj_sym": {"conj_sym": False},
}
BIDIRECTIONAL_CASES = {
    "zoh_bidirectional": {"c_init": "lecun_normal"},
    "bilinear_bidirectional": {"rule": "bilinear"},
    "zoh_bidirectional_complex_normal": {"c_init": "complex_normal"},
}
TYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])


def case(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS) as archive:
        return {
            key.removeprefix(f"{name}/"): torch.from_numpy(archive[key])
            for key in archive.files
            if key.startswith(f"{name}/")
        }


def load_official(layer: S5 | BidirectionalS5, arrays: dict[str, Tensor], prefix: str = "params/") -> None:
    given = {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
    C = torch.cat([given["C1"], given["C2"]], dim=1) if "C1" in given else given["C"]
    with torch.no_grad():
        layer.A.copy_(torch.stack([given["Lambda_re"], given["Lambda_im"]], dim=-1))
        layer.log_dt.copy_(given["log_step"][:, 0])
        layer.B.copy_(given["B"])
        layer.C.copy_(C)
        layer.D.copy_(given["D"])


def official(name: str, arrays: dict[str, Tensor], **options) -> S5 | BidirectionalS5:
    d_model, modes = arrays["params/D"].shape[0], arrays["params/B"].shape[0]
    d_state = 2 * modes if options.get("conj_sym", True) else modes
    cls = BidirectionalS5 if "bidirectional" in name else S5
    layer = cls(d_model, d_state, output="none", **options).double()
    load_official(layer, arrays)
    return layer


def within(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found.double() - expected).abs().max() <= tolerance * expected.abs().max())


def pairs(x: Tensor) -> Tensor:
    return torch.view_as_real(x)


@TYPES
@pytest.mark.parametrize("name", CASES)
def test_official_scan(name: str, dtype: torch.dtype, tolerance: float) -> None:
    arrays = case(name)
    rate = 2.0 if name.endswith("rescale2") else None
    layer = official(name, arrays, **CASES[name])
    system = layer.system(1.0 if rate is None else rate)
    assert within(pairs(system.A), pairs(arrays["Lambda_bar"]), 1e-12)
    assert within(pairs(system.gain[:, None] * system.B), pairs(arrays["B_bar"]), 1e-12)
    layer, x = layer.to(dtype), arrays["u"].to(dtype)
    y, state = layer.forward_with_state(x, layer.initial_state(len(x)), rate=rate)
    assert within(y, arrays["y"], tolerance)
    assert within(state.x, pairs(arrays["final_state"]), tolerance)
    assert within(layer(x, rate=rate), arrays["y"], tolerance)


@TYPES
@pytest.mark.parametrize("name", BIDIRECTIONAL_CASES)
def test_official_bidirectional(name: str, dtype: torch.dtype, tolerance: float) -> None:
    arrays = case(name)
    layer = official(name, arrays, **BIDIRECTIONAL_CASES[name]).to(dtype)
    assert within(layer(arrays["u"].to(dtype)), arrays["y"], tolerance)


@TYPES
def test_official_prenorm_layer(dtype: torch.dtype, tolerance: float) -> None:
    arrays = case("layer_half_glu2_prenorm")
    layer = S5(6, 16, output="half_glu2").double()
    load_official(layer, arrays, "params/seq.")
    block = Residual(layer, norm="layer").double()
    block.norm.norm.eps = 1e-6
    with torch.no_grad():
        block.norm.norm.weight.copy_(arrays["params/norm.scale"])
        block.norm.norm.bias.copy_(arrays["params/norm.bias"])
        layer.output.linear.weight.copy_(arrays["params/out2.kernel"].T)
        layer.output.linear.bias.copy_(arrays["params/out2.bias"])
    assert within(block.to(dtype)(arrays["u"].to(dtype)), arrays["y"], tolerance)


@TYPES
def test_official_postnorm_layer(dtype: torch.dtype, tolerance: float) -> None:
    arrays = case("layer_full_glu_postnorm")
    layer, norm = S5(6, 16, output="full_glu").double(), nn.LayerNorm(6, eps=1e-6).double()
    load_official(layer, arrays, "params/seq.")
    with torch.no_grad():
        norm.weight.copy_(arrays["params/norm.scale"])
        norm.bias.copy_(arrays["params/norm.bias"])
        layer.output.linear.weight.copy_(torch.cat([arrays[f"params/{out}.kernel"].T for out in ("out1", "out2")]))
        layer.output.linear.bias.copy_(torch.cat([arrays[f"params/{out}.bias"] for out in ("out1", "out2")]))
    layer, norm, x = layer.to(dtype), norm.to(dtype), arrays["u"].to(dtype)
    assert within(norm(x + layer(x)), arrays["y"], tolerance)


@pytest.mark.parametrize("conj_sym", [True, False])
@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_scipy_simulates_the_same(rule: str, conj_sym: bool) -> None:
    layer = S5(3, 8, blocks=2, rule=rule, conj_sym=conj_sym, output="none").double()
    A, B, C = (torch.view_as_complex(part.detach()).numpy() for part in (layer.A, layer.B, layer.C))
    dt, D = layer.log_dt.detach().exp().numpy(), layer.D.detach().numpy()
    z = dt * A
    # Over real numbers, with time counted in each mode's own steps.
    dense = np.block([[np.diag(z.real), -np.diag(z.imag)], [np.diag(z.imag), np.diag(z.real)]])
    drive = np.concatenate([dt[:, None] * B.real, dt[:, None] * B.imag])
    readout = (2 if conj_sym else 1) * np.concatenate([C.real, -C.imag], axis=1)
    A_bar, B_bar, *_ = signal.cont2discrete((dense, drive, readout, np.diag(D)), 1.0, method=rule)
    # dlsim's output does not see the present input through the state; this one does.
    simulated = (A_bar, B_bar, readout @ A_bar, readout @ B_bar + np.diag(D), 1.0)
    x, start = torch.randn(1, 200, 3, dtype=torch.float64), torch.randn(1, len(A), 2, dtype=torch.float64)
    _, expected, _ = signal.dlsim(simulated, x[0].numpy(), x0=start[0].T.reshape(-1).numpy())
    y, _ = layer.forward_with_state(x, layer.initial_state(1)._replace(x=start))
    assert within(y[0], torch.from_numpy(expected), 1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_the_scan_is_a_convolution_and_the_stepped_layer(rule: str) -> None:
    layer = S5(3, 8, rule=rule, dt_max=0.02, output="none").double()
    x = torch.randn(2, 60, 3, dtype=torch.float64)
    A, gain, B, C, D = layer.system()
    powers = A ** torch.arange(60)[:, None]
    K = torch.einsum("hp,lp,p,pg->lhg", C, powers, gain, B).real
    size = 2 * 60
    spectrum = torch.einsum("lhg,blg->blh", torch.fft.rfft(K, n=size, dim=0), torch.fft.rfft(x, n=size, dim=1))
    expected = torch.fft.irfft(spectrum, n=size, dim=1)[:, :60] + D * x
    assert within(layer(x), expected, 1e-11)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("conj_sym", [True, False])
def test_irregular_steps_are_the_loop(rule: str, conj_sym: bool) -> None:
    layer = S5(3, 8, rule=rule, conj_sym=conj_sym, dt_max=0.02, output="none").double()
    x, rate = torch.randn(2, 30, 3, dtype=torch.float64), 3 * torch.rand(2, 30)
    rate[0, 5] = 0.0
    A, B, C = (torch.view_as_complex(part) for part in (layer.A, layer.B, layer.C))
    state = torch.zeros(2, len(A), dtype=torch.complex128)
    expected = []
    for t in range(30):
        dt = layer.log_dt.exp() * rate[:, t, None]
        z, one = dt * A, torch.ones_like(A)
        A_bar, gain = {
            "zoh": (z.exp(), (z.exp() - 1) / A),
            "bilinear": ((1 + z / 2) / (1 - z / 2), dt / (1 - z / 2)),
            "euler": (1 + z, dt),
            "backward_euler": (1 / (1 - z), dt / (1 - z)),
            "dirac": (z.exp(), one),
        }[rule]
        state = A_bar * state + gain * torch.einsum("ph,bh->bp", B, x[:, t] + 0j)
        y = torch.einsum("hp,bp->bh", C, state).real * (2 if conj_sym else 1)
        expected.append(y + layer.D * x[:, t])
    assert within(layer(x, rate=rate), torch.stack(expected, dim=1), 1e-11)


def test_a_constant_interval_is_a_rate() -> None:
    layer, x = S5(4, 8).double(), torch.randn(2, 20, 4, dtype=torch.float64)
    assert within(layer(x, rate=torch.full((2, 20), 1.5)), layer(x, rate=1.5), 1e-12)
    assert within(layer(x, rate=torch.ones(2, 20)), layer(x), 1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_a_mode_that_stands_still_is_no_exception(rule: str) -> None:
    layer, x = S5(4, 8, rule=rule).double(), torch.randn(2, 20, 4, dtype=torch.float64)
    with torch.no_grad():
        layer.A[0] = 0.0
        layer.A[1:3] = torch.tensor([1e-10, 1e-5], dtype=torch.float64)[:, None]
    slopes = []
    for rate in (1.5, torch.full((2, 20), 1.5, dtype=torch.float64)):
        y = layer(x, rate=rate)
        slopes.append((y.detach(), *torch.autograd.grad(y.square().sum(), list(layer.parameters()))))
    for by_number, by_intervals in zip(*slopes, strict=True):
        assert within(by_intervals, by_number, 1e-8)


def test_zero_order_hold_is_exact_for_what_holds_over_each_interval() -> None:
    layer = S5(4, 8, output="none").double()
    counts = torch.tensor([1, 3, 2, 5, 1, 4])
    coarse = torch.randn(1, 6, 4, dtype=torch.float64)
    fine = coarse.repeat_interleave(counts, dim=1)
    ends = counts.cumsum(0) - 1
    irregular, state = layer.forward_with_state(coarse, layer.initial_state(1), rate=counts[None].double())
    regular, fine_state = layer.forward_with_state(fine, layer.initial_state(1))
    assert within(irregular, regular[:, ends], 1e-12)
    assert within(state.x, fine_state.x, 1e-12)


@pytest.mark.parametrize("options", [{}, {"rule": "dirac", "blocks": 2}, {"rule": "bilinear", "conj_sym": False}])
def test_all_views_agree_on_irregular_steps(options: dict) -> None:
    layer = S5(4, 8, **options).double()
    x, rate = torch.randn(3, 17, 4, dtype=torch.float64), 2 * torch.rand(3, 17)
    start = layer.initial_state(3)._replace(x=torch.randn(3, layer.modes, 2, dtype=torch.float64))
    whole, last = layer.forward_with_state(x, start, rate=rate)
    state, stepped, chunked = start, [], []
    for t in range(17):
        y_t, state = layer.step(x[:, t], state, rate=rate[:, t])
        stepped.append(y_t)
    assert within(torch.stack(stepped, dim=1), whole, 1e-12)
    assert within(state.x, last.x, 1e-12)
    state = start
    for begin, end in ((0, 1), (1, 9), (9, 9), (9, 17)):
        y, state = layer.forward_with_state(x[:, begin:end], state, rate=rate[:, begin:end])
        chunked.append(y)
    assert within(torch.cat(chunked, dim=1), whole, 1e-12)
    assert within(state.x, last.x, 1e-12)


@pytest.mark.parametrize("rule", ["zoh", "dirac"])
@pytest.mark.parametrize("filler", [float("nan"), -1.0, 1e4])
def test_intervals_in_the_padding_are_never_read(rule: str, filler: float) -> None:
    layer = S5(4, 8, rule=rule).double()
    lengths = torch.tensor([0, 1, 12, 17])
    padding = torch.arange(17) >= lengths[:, None]
    x, rate = torch.randn(4, 17, 4, dtype=torch.float64), torch.rand(4, 17).double()
    starts = torch.rand(4, 17) < 0.2
    start = layer.initial_state(4)._replace(x=torch.randn(4, layer.modes, 2, dtype=torch.float64))
    given = rate.masked_fill(padding, filler).requires_grad_()
    filled = x.masked_fill(padding[..., None], filler).requires_grad_()
    y, last = layer.forward_with_state(filled, start, lengths=lengths, rate=given, starts=starts)
    for row, n in enumerate(lengths.tolist()):
        alone = layer.initial_state(1)._replace(x=start.x[row : row + 1])
        outputs = []
        for t in range(n):
            alone = layer.initial_state(1) if starts[row, t] else alone
            y_t, alone = layer.step(x[row : row + 1, t], alone, rate=rate[row : row + 1, t])
            outputs.append(y_t)
        assert within(last.x[row], alone.x[0], 1e-12)
        if outputs:
            assert within(y[row, :n], torch.cat(outputs), 1e-12)
    (y[~padding].sum() + last.x.sum()).backward()
    for grad in (given.grad, filled.grad):
        assert (grad[padding] == 0).all()
        assert (grad[~padding] != 0).any()


@pytest.mark.parametrize("rule", RULES)
def test_derivatives_by_irregular_intervals(rule: str) -> None:
    layer = S5(2, 4, rule=rule, output="none").double()
    x, rate = torch.randn(2, 6, 2, dtype=torch.float64), torch.rand(2, 6, dtype=torch.float64) + 0.1
    parameters = list(layer.parameters())

    def run(rate: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        y, state = layer.forward_with_state(x, layer.initial_state(2), rate=rate)
        return y, state.x

    assert torch.autograd.gradcheck(run, (rate.requires_grad_(), *parameters))


def test_float32_intervals_stay_close_over_long_sequences() -> None:
    layer = S5(8, 64, output="none")
    x, rate = torch.randn(1, 4000, 8), 2 * torch.rand(1, 4000)
    for given in (rate, None):
        exact = layer.double()(x.double(), rate=given)
        assert within(layer.float()(x, rate=given), exact, 1e-5)


def mean_square(part: Tensor) -> float:
    """Of complex numbers stored as pairs."""
    return float(part.detach().square().sum(-1).mean())


@pytest.mark.parametrize(
    ("c_init", "variance"),
    [("trunc_standard_normal", 2 / 64), ("lecun_normal", 2 / (64 * 40)), ("complex_normal", 1.0)],
)
def test_initial_B_and_C_have_the_variance_of_the_official_code(c_init: str, variance: float) -> None:
    for layer in (
        S5(40, 64, c_init=c_init),
        S5(40, 64, blocks=4, c_init=c_init),
        BidirectionalS5(40, 64, c_init=c_init),
    ):
        assert abs(mean_square(layer.C) / variance - 1) <= 0.1
        assert abs(mean_square(layer.B) * 64 - 1) <= 0.1
    both = BidirectionalS5(40, 64, c_init=c_init).C
    assert both.shape == (40, 64, 2)
    assert not torch.equal(both[:, :32], both[:, 32:])


@pytest.mark.parametrize(
    ("name", "c_init"), [("zoh", "lecun_normal"), ("bilinear_bidirectional", "trunc_standard_normal")]
)
def test_initial_C_has_the_size_of_an_official_draw(name: str, c_init: str) -> None:
    arrays = case(name)
    drawn = arrays.get("params/C", arrays.get("params/C1"))
    ours = torch.stack([S5(6, 16, c_init=c_init).C.detach() for _ in range(50)])
    assert 0.7 <= mean_square(drawn) / mean_square(ours) <= 1.4


def test_the_initial_state_matrix_is_hippo_without_its_low_rank_part() -> None:
    layer = S5(4, 16, conj_sym=False).double()
    system = hippo("legs", 16)
    p = torch.arange(16, dtype=torch.float64).add(0.5).sqrt()
    spectrum = torch.linalg.eigvals(system.A + torch.outer(p, p))
    found = torch.view_as_complex(layer.A.detach())
    assert within(found.imag.sort().values, spectrum.imag.sort().values, 1e-6)


def test_steps_are_drawn_log_uniformly_one_a_state() -> None:
    layer = S5(1, 4096, blocks=1024, dt_min=1e-3, dt_max=1e-1)
    dt = layer.log_dt.detach().exp()
    assert dt.shape == (2048,)
    assert 1e-3 <= dt.min() <= 1.1e-3
    assert 0.9e-1 <= dt.max() <= 1e-1
    assert abs(float(dt.log10().mean()) + 2.0) <= 0.06


@pytest.mark.parametrize("cls", [S5, BidirectionalS5])
def test_clipped_eigenvalues_keep_the_system_stable(cls) -> None:
    x = torch.ones(1, 3000, 4)
    grown = {}
    for clip_eigs in (True, False):
        torch.manual_seed(0)
        layer = cls(4, 8, clip_eigs=clip_eigs, dt_min=0.05, dt_max=0.05, output="none")
        with torch.no_grad():
            layer.A[:, 0] = 0.2
        grown[clip_eigs] = float(layer(x).detach().abs().max())
    assert grown[True] < 1e3
    assert grown[False] > 1e6


def test_each_reversed_row_ends_where_it_ends() -> None:
    layer = BidirectionalS5(4, 8, output="none").double()
    forward_system, backward_system = layer.systems()
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    states = [torch.zeros(4, dtype=torch.complex128)] * 2
    forwards, backwards = [], []
    for t in range(9):
        for side, system, collected, element in (
            (0, forward_system, forwards, x[0, t]),
            (1, backward_system, backwards, x[0, 8 - t]),
        ):
            states[side] = system.A * states[side] + system.gain * (system.B @ (element + 0j))
            collected.append((system.C @ states[side]).real)
    expected = torch.stack(forwards) + torch.stack(backwards).flip(0) + layer.D * x[0]
    padded = torch.cat([x, torch.full((1, 5, 4), torch.nan, dtype=torch.float64)], dim=1)
    assert within(layer(padded, lengths=torch.tensor([9]))[0, :9], expected, 1e-12)


def test_rules_of_the_optimiser_name_its_system() -> None:
    for layer in (S5(4, 8), BidirectionalS5(4, 8)):
        own = {name for name, _ in layer.named_parameters(recurse=False)}
        assert {name for name, rule in layer.optimizer_rules.items() if rule is SLOW} == own - {"C", "D"}


def test_dropout_acts_in_training_only() -> None:
    for output in ("glu", "linear", "full_glu", "half_glu1", "half_glu2", "gelu"):
        layer, x = S5(16, 8, dropout=0.5, output=output), torch.randn(1, 30, 16)
        assert not torch.equal(layer(x), layer(x))
        layer.eval()
        assert torch.equal(layer(x), layer(x))


def test_every_output_stage_is_its_equation() -> None:
    bare = S5(4, 8, output="none")
    x = torch.randn(2, 10, 4)
    y = bare(x)
    tanh_gelu, exact = nn.functional.gelu(y, approximate="tanh"), nn.functional.gelu(y)
    expected = {
        "glu": lambda a, b: a(exact) * b(exact).sigmoid(),
        "full_glu": lambda a, b: a(tanh_gelu) * b(tanh_gelu).sigmoid(),
        "half_glu1": lambda a, _: tanh_gelu * a(tanh_gelu).sigmoid(),
        "half_glu2": lambda a, _: y * a(tanh_gelu).sigmoid(),
        "linear": lambda a, _: a(exact),
        "gelu": lambda *_: tanh_gelu,
    }
    for output, equation in expected.items():
        layer = S5(4, 8, output=output)
        layer.load_state_dict(bare.state_dict(), strict=False)
        maps = [part for part in layer.output.modules() if isinstance(part, nn.Linear)]
        halves = []
        for start in (0, 4):
            half = nn.Linear(4, 4)
            if maps and start < len(maps[0].weight):
                half.weight.data.copy_(maps[0].weight[start : start + 4])
                half.bias.data.copy_(maps[0].bias[start : start + 4])
            halves.append(half)
        assert torch.allclose(layer(x), equation(*halves), atol=1e-6), output


def test_configurations_build_both_forms() -> None:
    config = S5Config(d_state=8, blocks=2, rule="bilinear", output="gelu")
    assert isinstance(build_layer(config, 4), S5)
    both = build_bidirectional(config, 4)
    assert isinstance(both, BidirectionalS5)
    assert both.rule == "bilinear"


def test_the_laws_hold_for_a_wide_layer() -> None:
    report = check_layer(S5(6, 32, blocks=4, c_init="complex_normal"), programs=False)
    assert {"parallel = stepped", "whole = chunked", "rate=2.0"} <= {found.law for found in report}


x = torch.zeros(2, 9, 4)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: S5(0), "`d_model` is 0, but a positive integer is needed"),
        (lambda: S5(4, 12, blocks=4), "`d_state` is 12 with blocks=4, but blocks of an even size are needed"),
        (lambda: S5(4, 7, conj_sym=False), "`d_state` is 7 with blocks=1"),
        (lambda: S5(4, rule="exact"), "`rule` is 'exact', but one of zoh"),
        (lambda: S5(4, c_init="normal"), "`c_init` is 'normal', but one of trunc_standard_normal, lecun_normal"),
        (lambda: S5(4, output="mlp"), "`output` is 'mlp', but one of glu, linear, none, full_glu"),
        (lambda: S5(4, dt_min=0.1, dt_max=0.01), "`dt_min` is 0.1 and `dt_max` 0.01"),
        (lambda: build_output("gelu", 8, 4, 0.0), "`output` is 'gelu', which keeps the width, but 8 features come in"),
        (lambda: S4D(4, channels=2, output="half_glu1"), "which keeps the width, but 8 features come in and 4 go out"),
        (lambda: S5(4)(torch.zeros(2, 4, 9)), r"`x` has shape \(2, 4, 9\), but \(batch, length, 4\) is needed"),
        (lambda: S5(4)(x, rate=0.0), "`rate` is 0.0, but a positive number is needed"),
        (lambda: S5(4)(x, rate=torch.ones(2, 8)), r"`rate` is torch.float32 of shape \(2, 8\), but .* \(2, 9\) are"),
        (lambda: S5(4)(x, rate=torch.ones(2, 9, dtype=torch.int64)), "`rate` is torch.int64 of shape"),
        (lambda: S5(4)(x, rate=-torch.ones(2, 9)), "`rate` holds -1.0, but an interval is at least 0; sort"),
        (lambda: S5(4)(x, rate=torch.full((2, 9), torch.nan)), "`rate` holds nan, but an interval is at least 0"),
        (lambda: S5(4).constants(rate=torch.ones(2)), "but constants hold one number for all steps"),
        (
            lambda: S5(4).step(x[:, 0], S5(4).initial_state(2), rate=torch.ones(2), constants=S5(4).constants()),
            "beside `constants`, but constants already hold one rate for all rows; leave `constants` out",
        ),
        (lambda: S5(4).step(x, S5(4).initial_state(2)), "without a time axis"),
        (lambda: S5(4).forward_with_state(x, S5(4).initial_state(3)), r"`state` has shape \(3, 32, 2\), but"),
        (lambda: BidirectionalS5(4)(x, rate=torch.ones(2, 9)), "BidirectionalS5 takes one number, since"),
        (lambda: BidirectionalS5(4)(x, rate=-1.0), "`rate` is -1.0, but a positive number is needed"),
        (lambda: BidirectionalS5(4, rule="exact"), "`rule` is 'exact', but one of zoh"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
