"""The compiled scan under intervals that vary, by name, against the loop in float64: outputs, states and gradients."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import longstate
from longstate import InputError, ops, theory
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def build(z: Tensor, gain: Tensor, C: Tensor, D: Tensor, *, held: bool) -> ops.VaryingSystem:
    def discretize(rate: Tensor) -> tuple[Tensor, Tensor]:
        A, growth = theory.exponential(z, rate.to(D.dtype)[..., None, None])
        return A, growth * gain if held else gain.expand_as(A)

    return ops.VaryingSystem(discretize, C, D, ops.Exponents(z, gain, held))


def draw(batch: int, length: int, H: int, N: int, channels: int) -> dict[str, Tensor]:
    z = torch.complex(-torch.rand(H, N), 3 * torch.randn(H, N))
    rate = 2 * torch.rand(batch, length)
    rate[:, ::5] = 0.0  # two events at one instant
    return {
        "u": torch.randn(batch, length, H),
        "rate": rate,
        "state": torch.randn(batch, H, N, 2),
        "z": z,
        "gain": torch.randn_like(z),
        "C": torch.randn(channels, H, N, dtype=z.dtype),
        "D": torch.randn(channels, H),
    }


def results(
    drawn: dict[str, Tensor], backend: str, valid: Tensor, *, wide: bool, held: bool = True, **rest
) -> dict[str, Tensor]:
    types = (torch.complex128, torch.float64) if wide else (torch.complex64, torch.float32)
    given = {name: x.to(types[0 if x.is_complex() else 1]).requires_grad_() for name, x in drawn.items()}
    u, rate, state, *system = given.values()
    y, final = ops.varying_scan(u, rate, build(*system, held=held), state, backend=backend, **rest)
    y = y[valid]
    loss = (y * torch.arange(y.numel()).cos().view_as(y).to(types[1])).sum() + (final * final).sum()
    slopes = torch.autograd.grad(loss, list(given.values()), allow_unused=True, materialize_grads=True)
    return {"y": y, "final": final, **dict(zip(given, slopes, strict=True))}


@given(
    length=st.sampled_from([0, 1, 5, 16, 17, 50]),
    H=st.sampled_from([1, 3, 16, 19, 33]),
    N=st.sampled_from([1, 2, 5]),
    channels=st.sampled_from([1, 2]),
    held=st.booleans(),
    padded=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_states_and_gradients(
    length: int, H: int, N: int, channels: int, held: bool, padded: bool, packed: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    drawn = draw(3, length, H, N, channels)
    lengths = torch.tensor([length, 0, length // 2]) if padded else None
    valid = torch.ones(3, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    rest = {"held": held, "lengths": lengths, "starts": torch.rand(3, length) < 0.2 if packed else None}
    found = results(drawn, "native", valid, wide=False, **rest)
    expected = results(drawn, "reference", valid, wide=True, **rest)
    for name, value in expected.items():
        scale = value.abs().max() if value.numel() else torch.zeros(())
        assert found[name].shape == value.shape, name
        assert value.numel() == 0 or (found[name] - value).abs().max() <= 2e-5 * scale + 1e-6, name


def test_padding_is_never_read() -> None:
    torch.manual_seed(0)
    drawn = draw(2, 40, 6, 3, 1)
    for name in ("u", "rate"):
        drawn[name][1, 7:] = torch.nan
    lengths = torch.tensor([40, 7])
    found = results(drawn, "native", torch.arange(40) < lengths[:, None], wide=False, lengths=lengths)
    assert all(value.isfinite().all() for value in found.values())
    assert (found["u"][1, 7:] == 0).all()
    assert (found["rate"][1, 7:] == 0).all()


def test_short_intervals_do_not_cancel() -> None:
    torch.manual_seed(1)
    drawn = draw(1, 30, 4, 2, 1) | {"rate": torch.full((1, 30), 1e-6), "state": torch.zeros(1, 4, 2, 2)}
    drawn["D"].zero_()
    valid = torch.ones(1, 30, dtype=torch.bool)
    found = results(drawn, "native", valid, wide=False)["y"]
    expected = results(drawn, "reference", valid, wide=True)["y"]
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_large_phases_turn_as_far_as_float32_can_say() -> None:
    z = torch.complex(torch.zeros(1, 1), torch.ones(1, 1))
    system = build(z, torch.ones_like(z), torch.ones(1, 1, 1, dtype=z.dtype), torch.zeros(1, 1), held=False)
    state = torch.tensor([1.0, 0.0]).reshape(1, 1, 1, 2)
    for rate in (1.0, 100.0, 5000.0, 16000.0, 1e5, 1e9):
        y, _ = ops.varying_scan(torch.zeros(1, 1, 1), torch.full((1, 1), rate), system, state, backend="native")
        assert abs(float(y)) <= 1 + 1e-3
        if rate <= 16000:
            assert abs(float(y) - float(torch.tensor(rate, dtype=torch.float64).cos())) <= 1e-6


@pytest.mark.parametrize(
    ("make", "is_native"),
    [
        (lambda: longstate.S4D(4, 8), True),
        (lambda: longstate.S4D(4, 8, rule="dirac"), True),
        (lambda: longstate.DSS(4, 8), True),
        (lambda: longstate.S4D(4, 8, rule="bilinear"), False),
        (lambda: longstate.S4D(4, 8, init="real"), False),
    ],
)
def test_which_path_runs_and_why(make: Callable[[], longstate.S4D | longstate.DSS], is_native: bool) -> None:
    torch.manual_seed(2)
    u, rate, system = torch.randn(2, 9, 4), torch.rand(2, 9), make().varying_system()
    name, reason = ops.explain("varying_scan", u, rate, system, None, None, None)[0]
    assert (name, reason is None) == ("native", is_native)
    assert is_native or "complex exponents, got a system that is a function of the intervals" in str(reason)
    y = ops.varying_scan(u, rate, system)[0]
    assert torch.equal(y, ops.varying_scan(u, rate, system, backend="native" if is_native else "torch")[0])
    assert torch.allclose(y, ops.varying_scan(u, rate, system, backend="torch")[0], atol=1e-5)


def test_float64_is_left_to_torch() -> None:
    u, rate, _, *system = (
        x.to(torch.complex128 if x.is_complex() else torch.float64) for x in draw(1, 4, 2, 2, 1).values()
    )
    with pytest.raises(InputError, match="cannot run this call of varying_scan: computes in float32, got float64"):
        ops.varying_scan(u, rate, build(*system, held=True), backend="native")


def test_the_operator_obeys_torchs_rules() -> None:
    torch.manual_seed(3)
    u, rate = torch.randn(2, 20, 5), torch.rand(2, 20)
    z, gain, C = -torch.rand(3, 2, 5), torch.randn(3, 2, 5), torch.randn(1, 3, 2, 5)
    inputs = tuple(part.requires_grad_() for part in (u, rate, z, gain, C, torch.randn(2, 3, 2, 5)))
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    arguments = (*inputs, torch.tensor([20, 4]), torch.rand(2, 20) < 0.3, True)
    torch.library.opcheck(torch.ops.longstate.varying_scan.default, arguments, test_utils=utils)


def test_it_is_mapped_and_compiled() -> None:
    torch.compiler.reset()
    torch.manual_seed(4)
    layer, u, rate = longstate.S4D(4, 8, output="none"), torch.randn(2, 2, 20, 4), torch.rand(2, 20)
    with torch.no_grad():
        mapped = torch.vmap(lambda x: layer(x, rate=rate))(u)
        assert torch.equal(mapped[1], layer(u[1], rate=rate))
    plain = layer(u[0], rate=rate).square().sum()
    compiled = torch.compile(lambda x: layer(x, rate=rate).square().sum(), fullgraph=True, backend="aot_eager")(u[0])
    assert torch.allclose(plain, compiled)
    parameters = list(layer.parameters())
    for mine, other in zip(*(torch.autograd.grad(loss, parameters) for loss in (plain, compiled)), strict=True):
        assert torch.allclose(mine, other, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
