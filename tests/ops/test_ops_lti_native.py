"""The compiled scan of time-invariant systems, by name, against the loop in float64: values, states, every gradient."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import KINDS, random_system
from torch import Tensor

from longstate import InputError, ops
from longstate.ops import _native, lti_native
from longstate.ops.lti_factors import factors_of

pytestmark = pytest.mark.skipif(_native.library() is None, reason="no compiled kernels on this machine")


def run_by_name(name: str, u: Tensor, system: ops.LTISystem, state: Tensor | None, lengths, starts):
    """The kernel, also where the FFT would be taken for its speed."""
    if name == "reference":
        return ops.lti_scan(u, system, state, lengths=lengths, starts=starts, backend="reference")
    return lti_native.lti_scan_native(u, system, state, lengths, starts)


def results(name: str, u: Tensor, system: ops.LTISystem, state: Tensor, valid: Tensor, **rows) -> dict[str, Tensor]:
    dtype = torch.float64 if name == "reference" else torch.float32
    given = {"u": u.to(dtype), "state": state.to(dtype), **system._asdict()}
    given = {key: value.clone().requires_grad_() for key, value in given.items()}
    parts = ops.LTISystem(*(given[key] for key in "ABCD"))
    y, final = run_by_name(name, given["u"], parts, given["state"], rows.get("lengths"), rows.get("starts"))
    y = y[valid]
    loss = (y * torch.arange(y.numel()).cos().view_as(y).to(dtype)).sum() + (final * final).sum()
    slopes = torch.autograd.grad(loss, list(given.values()))
    return {"y": y, "final": final, **dict(zip(given, slopes, strict=True))}


@given(
    kind=st.sampled_from(KINDS),
    length=st.sampled_from([1, 31, 32, 33, 64, 65, 150]),
    features=st.sampled_from([1, 5, 16, 19]),
    d_state=st.sampled_from([1, 3, 8]),
    channels=st.sampled_from([1, 2]),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_values_states_and_gradients(kind, length, features, d_state, channels, packed, seed) -> None:
    torch.manual_seed(seed)
    system = random_system(kind, features, d_state, channels)
    u, state = torch.randn(3, length, features), torch.randn(3, *system.state_shape)
    lengths = torch.tensor([length, 0, (length + 1) // 2])
    valid = torch.arange(length) < lengths[:, None]
    rows = {"lengths": lengths, "starts": torch.rand(3, length) < 0.05 if packed else None}
    found = results("native", u, system, state, valid, **rows)
    expected = results("reference", u, system, state, valid, **rows)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max() + 1e-12, name


@pytest.mark.parametrize("kind", KINDS)
def test_many_groups_of_chunks(kind: str) -> None:
    torch.manual_seed(1)
    system = random_system(kind, 18, 4, 1)
    u, state = torch.randn(2, 2500, 18), torch.randn(2, *system.state_shape)
    valid = torch.ones(2, 2500, dtype=torch.bool)
    found = results("native", u, system, state, valid)
    expected = results("reference", u, system, state, valid)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * value.abs().max(), name


def test_a_system_at_rest_is_a_convolution() -> None:
    torch.manual_seed(2)
    system = random_system("complex", 6, 4, 2)
    u = torch.randn(2, 100, 6)
    y = ops.lti_conv(u, system, backend="native")
    expected = ops.lti_conv(u.double(), system, backend="reference")
    assert (y - expected).abs().max() <= 1e-5 * expected.abs().max()
    half = ops.lti_conv(u.bfloat16(), system, backend="native")
    assert half.dtype is torch.bfloat16


def test_padding_is_never_read() -> None:
    torch.manual_seed(3)
    system = random_system("complex", 6, 4, 1)
    u, lengths = torch.randn(2, 100, 6), torch.tensor([100, 41])
    clean = u.clone()
    u[1, 41:] = torch.nan
    u.requires_grad_()
    state = torch.zeros(2, *system.state_shape)
    y, final = ops.lti_scan(u, system, state, lengths=lengths, backend="native")
    y, expected = y[1, :41], ops.lti_conv(clean[1:, :41], system, backend="native")[0]
    (slope,) = torch.autograd.grad(y.sum() + final.sum(), u)
    assert torch.equal(y, expected)
    assert final.isfinite().all()
    assert slope.isfinite().all()
    assert (slope[1, 41:] == 0).all()


def test_strided_input_is_read_in_place() -> None:
    torch.manual_seed(4)
    system = random_system("complex", 8, 4, 1)
    left, _ = torch.randn(2, 50, 16).chunk(2, dim=-1)
    same = ops.lti_conv(left.contiguous(), system, backend="native")
    assert torch.equal(ops.lti_conv(left, system, backend="native"), same)
    first = left.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(ops.lti_conv(first, system, backend="native"), same)


def test_which_path_runs_and_why() -> None:
    system = random_system("complex", 16, 4, 1)
    u = torch.randn(1, 50, 16)
    assert ops.explain("lti_conv", u, system, None, None)[0] == ("native", None)
    assert torch.equal(ops.lti_conv(u, system), ops.lti_conv(u, system, backend="native"))
    reasons = {
        "computes in float32, got float64": (u.double(), system),
        "is slower than the FFT for 16 features with states of 400 numbers": (u, random_system("complex", 16, 200, 1)),
        "is slower than the FFT for 1 features with states of 16 numbers": (u[..., :1], random_system("real", 1, 16)),
        "is slower than the FFT for dense systems over fewer": (u, random_system("dense", 16, 4)),
    }
    for reason, (sequence, other) in reasons.items():
        found = ops.explain("lti_conv", sequence, other, None, None)[0][1]
        assert found is not None
        assert found.startswith(reason)
        with pytest.raises(InputError, match="cannot run this call of lti_conv"):
            ops.lti_conv(sequence, other, backend="native")


def test_the_operator_obeys_torchs_rules() -> None:
    torch.manual_seed(5)
    factors = factors_of(random_system("complex", 5, 3, 2))
    given = [torch.randn(2, 70, 5), *factors[:4], torch.randn(2, 6, 5)]
    given = [part.requires_grad_() for part in given]
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    arguments = (*given, torch.tensor([70, 40]), factors.kind)
    torch.library.opcheck(torch.ops.longstate.lti_scan.default, arguments, test_utils=utils)


def test_exports_with_a_free_length() -> None:
    class Convolution(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.system = [part.detach() for part in random_system("complex", 16, 4, 1)]

        def forward(self, u: Tensor) -> Tensor:
            return ops.lti_conv(u, ops.LTISystem(*self.system), backend="native")

    torch.manual_seed(6)
    module, u = Convolution(), torch.randn(2, 70, 16)
    length = torch.export.Dim("length", min=2, max=1 << 20)
    program = torch.export.export(module, (u,), dynamic_shapes=({1: length},))
    longer = torch.randn(2, 203, 16)
    assert torch.equal(program.module()(longer), module(longer))


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine(isa: str) -> None:
    code = (
        "import torch; from systems import random_system; from longstate.ops import _native, lti_native, lti_scan\n"
        "from longstate import ops; torch.manual_seed(0); worst = 0.0\n"
        "for kind in ('complex', 'real', 'dense'):\n"
        "    u = torch.randn(2, 90, 19); system = [part.requires_grad_() for part in random_system(kind, 19, 5, 2)]\n"
        "    out = []\n"
        "    for run in (lti_native.lti_conv_native, lambda *given: ops.lti_conv(*given[:2], backend='torch')):\n"
        "        x = u.clone().requires_grad_(); y = run(x, ops.LTISystem(*system), None, None)\n"
        "        out.append([y, *torch.autograd.grad(y.cos().sum(), [x, *system])])\n"
        "    worst = max([worst, *(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*out))])\n"
        "print(_native.instruction_set(), worst < 2e-5)"
    )
    environment = {**os.environ, "LONGSTATE_ISA": isa, "PYTHONPATH": os.path.dirname(__file__)}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    chosen, agrees = printed.stdout.split()
    assert agrees == "True"
    order = ["base", "avx2", "avx512"]
    assert order.index(chosen) <= order.index(isa)


def test_nothing_in_nothing_out() -> None:
    system = random_system("complex", 6, 4, 1)
    state = torch.randn(2, *system.state_shape)
    y, final = lti_native.lti_scan_native(torch.randn(2, 0, 6), system, state, None, None)
    assert y.shape == (2, 0, 1, 6)
    assert torch.equal(final, state)
