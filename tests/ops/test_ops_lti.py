"""The operators of linear time-invariant systems: every fast path against its loop, in value, gradient and state."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from systems import KINDS, random_system
from torch import Tensor

from longstate import InputError, ops
from longstate.ops.fft_conv import good_fft_size

kinds = st.sampled_from(KINDS)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-11) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0)) if b.numel() else a.shape == b.shape


@pytest.mark.parametrize("kind", KINDS)
@given(length=st.integers(1, 300))
def test_kernel_is_the_impulse_response(kind: str, length: int) -> None:
    system = random_system(kind)
    K = ops.lti_kernel(system, length, dtype=torch.float64)
    assert close(K, ops.lti_kernel(system, length, dtype=torch.float64, backend="reference"))


@given(length=st.integers(0, 60), taps=st.integers(1, 60))
def test_convolution_is_its_sum(length: int, taps: int) -> None:
    u, K = torch.randn(2, length, 3, dtype=torch.float64), torch.randn(2, 3, taps, dtype=torch.float64)
    y = ops.fft_conv(u, K)
    assert y.shape == (2, length, 2, 3)
    assert close(y, ops.fft_conv(u, K, backend="reference"))


@given(n=st.integers(1, 5000))
def test_fft_sizes_have_small_factors_and_are_the_next_ones(n: int) -> None:
    def smooth(m: int) -> bool:
        for factor in (2, 3, 5):
            while m % factor == 0:
                m //= factor
        return m == 1

    assert good_fft_size(n) == next(m for m in range(n, 2 * n + 1) if smooth(m))


@pytest.mark.parametrize("kind", KINDS)
@given(length=st.integers(0, 70), padded=st.booleans(), packed=st.booleans(), seed=st.integers(0, 99))
def test_scan_is_the_loop(kind: str, length: int, padded: bool, packed: bool, seed: int) -> None:
    torch.manual_seed(seed)
    system = random_system(kind)
    u = torch.randn(4, length, 3, dtype=torch.float64)
    state = torch.randn(4, *system.state_shape, dtype=torch.float64)
    lengths = torch.tensor([0, length, length // 2, max(length - 1, 0)]) if padded else None
    starts = torch.rand(4, length) < 0.15 if packed else None
    valid = torch.ones(4, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    u = torch.where(valid[..., None], u, torch.nan)
    y, final = ops.lti_scan(u, system, state, lengths=lengths, starts=starts)
    y_loop, final_loop = ops.lti_scan(u, system, state, lengths=lengths, starts=starts, backend="reference")
    assert close(y[valid], y_loop[valid])
    assert close(final, final_loop)
    alone = ops.lti_conv(u, system, lengths=lengths, starts=starts)
    alone_loop = ops.lti_conv(u, system, lengths=lengths, starts=starts, backend="reference")
    assert close(alone[valid], alone_loop[valid])


@pytest.mark.parametrize("kind", KINDS)
def test_step_is_the_loop(kind: str) -> None:
    system = random_system(kind)
    u = torch.randn(2, 9, 3, dtype=torch.float64)
    state = torch.randn(2, *system.state_shape, dtype=torch.float64)
    y_loop, final_loop = ops.lti_scan(u, system, state, backend="reference")
    constants = ops.lti_constants(system, torch.float64)
    for t in range(9):
        y_plain, state_plain = ops.lti_step(u[:, t], state, constants, backend="reference")
        y, state = ops.lti_step(u[:, t], state, constants)
        assert close(y, y_loop[:, t])
        assert close(y_plain, y)
        assert close(state_plain, state)
    assert close(state, final_loop)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padded", [False, True])
def test_gradients_of_inputs_state_and_system(kind: str, padded: bool) -> None:
    system = random_system(kind, features=2, d_state=3, channels=1)
    u = torch.randn(2, 6, 2, dtype=torch.float64)
    state = torch.randn(2, *system.state_shape, dtype=torch.float64)
    lengths = torch.tensor([6, 3]) if padded else None

    def run(backend: str, *args: Tensor) -> tuple[Tensor, Tensor]:
        y, final = ops.lti_scan(args[0], ops.LTISystem(*args[2:]), args[1], lengths=lengths, backend=backend)
        return (y if lengths is None else y[:, :3]), final

    inputs = tuple(part.clone().requires_grad_() for part in (u, state, *system))
    assert torch.autograd.gradcheck(lambda *args: run("torch", *args), inputs, fast_mode=True)
    grads = []
    for backend in ("torch", "reference"):
        y, final = run(backend, *inputs)
        grads.append(torch.autograd.grad(y.square().sum() + final.sin().sum(), inputs))
    assert all(close(a, b) for a, b in zip(*grads, strict=True))


def test_operators_ignore_autocast() -> None:
    system = random_system("dense")
    u, state = torch.randn(2, 40, 3), torch.randn(2, *system.state_shape)
    plain = ops.lti_scan(u, system, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ops.lti_scan(u, system, state)
    assert close(cast[0], plain[0], 1e-6)
    assert close(cast[1], plain[1], 1e-6)


def test_bfloat16_input_is_computed_in_float32() -> None:
    system = random_system("complex")
    u = torch.randn(2, 40, 3).bfloat16()
    y = ops.lti_conv(u, system)
    exact = ops.lti_conv(u.double(), system, backend="reference")
    assert y.dtype is torch.bfloat16
    assert (y.double() - exact).abs().max() <= 2**-8 * exact.abs().max()


def test_explain_names_the_backends() -> None:
    u, K = torch.randn(1, 8, 2), torch.randn(1, 2, 8)
    assert ops.explain("fft_conv", u, K) == [("torch", None), ("reference", None)]
    with pytest.raises(InputError, match=r"`operator` is 'conv', but one of .*cauchy, .*fft_conv"):
        ops.explain("conv")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s, u: ops.lti_kernel(s, 0), "`length` is 0, but a positive integer is needed"),
        (lambda s, u: ops.lti_kernel(s, 8, backend="cuda"), "`backend` is 'cuda', but lti_kernel has auto, torch"),
        (lambda s, u: ops.lti_kernel(s._replace(D=s.D[:, :1]), 8), r"D \(2, 1\), but \(H, N\) or \(H, N, N\)"),
        (lambda s, u: ops.lti_conv(u[..., :2], s), r"`u` has shape \(2, 5, 2\), but \(batch, length, 3\) is needed"),
        (
            lambda s, u: ops.lti_scan(u, s, torch.zeros(1, 3, 4, 2)),
            r"`state` has shape \(1, 3, 4, 2\), but \(2, 3, 4, 2\)",
        ),
        (
            lambda s, u: ops.lti_conv(u, s, lengths=torch.tensor([1, 6])),
            "between 0 and the sequence length 5; row 1 has 6",
        ),
        (lambda s, u: ops.lti_conv(u, s, lengths=torch.ones(2)), "one integer for each of the 2 rows"),
        (lambda s, u: ops.lti_conv(u, s, starts=torch.ones(2, 5)), "mark the first element of each packed sequence"),
        (lambda s, u: ops.fft_conv(u, torch.ones(1, 2, 3)), r"with one H are needed; check which axis is H"),
    ],
)
def test_errors_say_what_to_do(call, text: str) -> None:
    with pytest.raises(InputError, match=text):
        call(random_system("complex"), torch.randn(2, 5, 3))
