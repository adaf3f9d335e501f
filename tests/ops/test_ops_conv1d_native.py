"""The compiled short convolution, by name, against the loop in float64: values, tails and every gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops
from longstate.ops import _native

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def draw(batch: int, length: int, features: int, taps: int, *, bias: bool = True) -> dict[str, Tensor]:
    drawn = {"x": torch.randn(batch, length, features), "weight": torch.randn(features, taps)}
    drawn |= {"bias": torch.randn(features)} if bias else {}
    return drawn | {"tail": torch.randn(batch, taps - 1, features)}


def results(drawn: dict[str, Tensor], backend: str, dtype: torch.dtype, valid: Tensor, **rest) -> dict[str, Tensor]:
    given = {name: value.to(dtype).requires_grad_() for name, value in drawn.items()}
    y, tail = ops.causal_conv1d(**given, backend=backend, **rest)
    y = y[valid]
    loss = (y * torch.arange(y.numel()).cos().view_as(y).to(dtype)).sum() + (tail * tail).sum()
    slopes = torch.autograd.grad(loss, list(given.values()))
    return {"y": y, "last": tail, **dict(zip(given, slopes, strict=True))}


@given(
    length=st.integers(1, 40),
    features=st.sampled_from([1, 7, 256, 300]),
    taps=st.sampled_from([1, 2, 3, 4, 5, 9]),
    bias=st.booleans(),
    packed=st.booleans(),
    activation=st.sampled_from([None, "silu"]),
    seed=st.integers(0, 99),
)
def test_values_tails_and_gradients(
    length: int, features: int, taps: int, bias: bool, packed: bool, activation, seed: int
) -> None:
    torch.manual_seed(seed)
    drawn = draw(3, length, features, taps, bias=bias)
    lengths = torch.tensor([length, 0, length // 2])
    rest = {"valid": torch.arange(length) < lengths[:, None], "lengths": lengths, "activation": activation}
    rest["starts"] = torch.rand(3, length) < 0.2 if packed else None
    found = results(drawn, "native", torch.float32, **rest)
    expected = results(drawn, "reference", torch.float64, **rest)
    for name, value in expected.items():
        scale = value.abs().max() if value.numel() else torch.zeros(())
        assert found[name].shape == value.shape, name
        assert value.numel() == 0 or (found[name] - value).abs().max() <= 1e-5 * scale + 1e-12, name


def test_padding_is_never_read() -> None:
    torch.manual_seed(0)
    drawn = draw(2, 20, 6, 4)
    drawn["x"][1, 7:] = torch.nan
    lengths = torch.tensor([20, 7])
    found = results(drawn, "native", torch.float32, torch.arange(20) < lengths[:, None], lengths=lengths)
    assert all(value.isfinite().all() for value in found.values())
    assert (found["x"][1, 7:] == 0).all()


def test_strided_input_is_read_in_place() -> None:
    torch.manual_seed(1)
    weight, both = torch.randn(8, 4), torch.randn(2, 30, 16)
    half, _ = both.chunk(2, dim=-1)
    y, _ = ops.causal_conv1d(half, weight, backend="native")
    assert torch.equal(y, ops.causal_conv1d(half.contiguous(), weight, backend="native")[0])


def test_which_path_runs_and_why() -> None:
    drawn = draw(1, 5, 3, 4)
    given = (*drawn.values(), None, None)
    reasons = dict(ops.explain("causal_conv1d", *given, None))
    assert reasons["native"] is None
    assert torch.equal(ops.causal_conv1d(**drawn)[0], ops.causal_conv1d(**drawn, backend="native")[0])
    packed = (*given, torch.zeros(1, 5, dtype=torch.bool))
    assert dict(ops.explain("causal_conv1d", *packed))["native"] is None
    wide = [value.double() for value in drawn.values()]
    with pytest.raises(InputError, match="cannot run this call of causal_conv1d: computes in float32, got float64"):
        ops.causal_conv1d(*wide, backend="native")


def test_the_operator_obeys_torchs_rules() -> None:
    torch.manual_seed(2)
    x, weight, bias, tail = (value.requires_grad_() for value in draw(2, 9, 5, 4).values())
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    filters, starts = weight.detach().mT.contiguous().requires_grad_(), torch.rand(2, 9) < 0.3
    for packed in (None, starts):
        arguments = (x, filters, bias, tail, torch.tensor([9, 4]), packed, True)
        torch.library.opcheck(torch.ops.longstate.causal_conv1d.default, arguments, test_utils=utils)
