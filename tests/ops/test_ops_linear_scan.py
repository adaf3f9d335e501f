"""The linear recurrence: closed forms, scipy, and the fast path against the loop in value, gradient and final state."""

from collections.abc import Callable

import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from longstate import InputError, ops

KINDS = ["real", "complex", "complex a", "complex b", "blocks", "blocks of 3"]
SIZES = {"blocks": 2, "blocks of 3": 3}
kinds = st.sampled_from(KINDS)
lengths_of_rows = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 8, 13, 16, 31, 53, 64, 97])


def draw(kind: str, varies: bool, batch: int, length: int, P: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """A stable transition, an input and a state (of complex kinds as pairs), in float64."""
    K = SIZES.get(kind)
    block = () if K is None else (K,)
    shape = (*((batch, length) if varies else ()), P, *block, *block)
    a = torch.rand(shape, dtype=torch.float64) * 1.9 - 0.95
    if K is not None:
        a = a / K
    if kind in ("complex", "complex a"):
        a = torch.polar(a.abs(), 3 * torch.randn_like(a))
    b = torch.randn(batch, length, P, *block, dtype=torch.complex128 if kind in ("complex", "complex b") else a.dtype)
    if kind == "complex a":
        b = b.real.to(torch.float64)
    pair = (2,) if kind.startswith("complex") else ()
    return a, b, torch.randn(batch, P, *block, *pair, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-12) -> bool:
    return a.shape == b.shape and bool(
        ((a - b).abs() <= tolerance * b.abs().max().clamp(min=1.0)).all() if b.numel() else True
    )


def single(x: Tensor) -> Tensor:
    return x.to(torch.complex64 if x.is_complex() else torch.float32)


def both(*inputs: Tensor, **given: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    return [ops.linear_scan(*inputs, **given, backend=backend) for backend in ("torch", "reference")]


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_real_scan_is_the_filter_of_scipy(backend: str) -> None:
    b = torch.randn(2, 200, 3, dtype=torch.float64)
    a, state = torch.tensor([0.9, -0.5, 0.999], dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    h, final = ops.linear_scan(a, b, state, backend=backend)
    for p in range(3):
        expected, _ = scipy.signal.lfilter(
            [1.0], [1.0, -float(a[p])], b[:, :, p].numpy(), zi=a[p] * state[:, p : p + 1]
        )
        assert close(h[:, :, p], torch.from_numpy(expected))
    assert torch.equal(final, h[:, -1])


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_complex_scan_is_a_sum_of_powers(backend: str) -> None:
    a, b, state = draw("complex", False, 2, 60)
    h, final = ops.linear_scan(a, b, state, backend=backend)
    t = torch.arange(60)
    weights = torch.where((t[:, None] >= t)[..., None], a ** (t[:, None] - t).clamp(min=0)[..., None], 0)
    expected = torch.einsum("tsp,bsp->btp", weights, b) + a ** (t + 1)[:, None] * torch.view_as_complex(state)[:, None]
    assert close(h, expected)
    assert close(torch.view_as_complex(final), expected[:, -1])


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_scan_of_blocks_is_a_sum_of_matrix_powers(backend: str) -> None:
    a, b, state = draw("blocks", False, 2, 40)
    h, final = ops.linear_scan(a, b, state, backend=backend)
    expected = torch.einsum("pij,bpj->bpi", torch.linalg.matrix_power(a, 40), state)
    for s in range(40):
        expected = expected + torch.einsum("pij,bpj->bpi", torch.linalg.matrix_power(a, 39 - s), b[:, s])
    assert close(h[:, -1], expected)
    assert close(final, expected)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_a_varying_scan_is_a_product(backend: str) -> None:
    a, b, state = draw("real", True, 2, 30)
    h, _ = ops.linear_scan(a, torch.zeros_like(b), state, backend=backend)
    assert close(h, a.cumprod(1) * state[:, None])


@given(
    kind=kinds,
    varies=st.booleans(),
    length=lengths_of_rows,
    padded=st.booleans(),
    packed=st.booleans(),
    carried=st.booleans(),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("examples", range(8))
def test_the_fast_path_is_the_loop(
    examples: int, kind: str, varies: bool, length: int, padded: bool, packed: bool, carried: bool, seed: int
) -> None:
    torch.manual_seed(100 * examples + seed)
    a, b, state = draw(kind, varies, 4, length)
    lengths = torch.tensor([0, length, length // 2, max(length - 1, 0)]) if padded else None
    starts = torch.rand(4, length) < 0.2 if packed else None
    valid = torch.ones(4, length, dtype=torch.bool) if lengths is None else torch.arange(length) < lengths[:, None]
    b = b.masked_fill(~valid.reshape(4, length, *[1] * (b.dim() - 2)), torch.nan)
    if varies:
        a = a.masked_fill(~valid.reshape(4, length, *[1] * (a.dim() - 2)), torch.nan)
    inputs = [part.requires_grad_() for part in ((a, b, state) if carried else (a, b))]
    slopes = []
    for h, final in (pairs := both(*inputs, lengths=lengths, starts=starts)):
        total = (h[valid] * torch.cos(torch.arange(h[valid].numel())).reshape(h[valid].shape)).abs().square().sum()
        slopes.append(torch.autograd.grad(total + final.sin().sum(), inputs, allow_unused=True, materialize_grads=True))
    (h, final), (h_loop, final_loop) = pairs
    assert h.dtype == h_loop.dtype
    assert close(h[valid], h_loop[valid])
    assert close(final, final_loop)
    for slope, slope_loop in zip(*slopes, strict=True):
        assert close(slope, slope_loop, 1e-11)
    assert not slopes[0][1][~valid].any()
    if lengths is not None and carried:
        assert torch.equal(final[0], state[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("varies", [False, True])
def test_gradients_are_those_of_finite_differences(kind: str, varies: bool) -> None:
    inputs = [part.requires_grad_() for part in draw(kind, varies, 2, 7, P=2)]
    assert torch.autograd.gradcheck(lambda a, b, state: ops.linear_scan(a, b, state), inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_the_whole(kind: str) -> None:
    a, b, state = draw(kind, False, 2, 50)
    whole, last = ops.linear_scan(a, b, state)
    parts = []
    for chunk in b.split([1, 20, 0, 29], dim=1):
        h, state = ops.linear_scan(a, chunk, state)
        parts.append(h)
    assert close(torch.cat(parts, dim=1), whole)
    assert close(state, last)


@pytest.mark.parametrize("shape", [(1, 30, 3), (2, 1, 3), (2, 30, 1)])
def test_a_varying_transition_is_broadcast(shape: tuple[int, ...]) -> None:
    a, b = 0.9 * torch.rand(shape, dtype=torch.float64), torch.randn(2, 30, 3, dtype=torch.float64)
    full = a.expand(2, 30, 3).contiguous()
    inputs, inputs_full = [a.requires_grad_(), b.requires_grad_()], [full.requires_grad_(), b]
    h, h_full = ops.linear_scan(*inputs)[0], ops.linear_scan(*inputs_full)[0]
    assert close(h, h_full)
    slope, slope_full = (torch.autograd.grad(y.square().sum(), of)[0] for y, of in ((h, a), (h_full, full)))
    axes = [axis for axis, size in enumerate(shape) if size == 1]
    assert close(slope, slope_full.sum(axes, keepdim=True))


def saved_bytes(run: Callable[[], object]) -> int:
    saved: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        run()
    return sum(saved.values())


@pytest.mark.parametrize("kind", ["real", "complex", "blocks"])
@pytest.mark.parametrize("varies", [False, True])
def test_memory_is_linear_in_length(kind: str, varies: bool) -> None:
    sizes = []
    for length in (1000, 2000):
        a, b, state = (part.requires_grad_() for part in draw(kind, varies, 2, length))
        sizes.append(saved_bytes(lambda a=a, b=b, state=state: ops.linear_scan(a, b, state)))
    assert sizes[1] <= 2.2 * sizes[0]
    h_bytes = 2 * 2000 * 3 * {"real": 8, "complex": 16, "blocks": 16}[kind]
    a_bytes = (2 * 2000 * 3 * {"real": 8, "complex": 16, "blocks": 32}[kind]) if varies else 0
    assert sizes[1] <= 1.1 * (h_bytes + a_bytes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("varies", [False, True])
def test_float32_is_close_to_float64(kind: str, varies: bool) -> None:
    a, b, state = draw(kind, varies, 2, 3000)
    exact, final = ops.linear_scan(a, b, state)
    h, final_single = ops.linear_scan(single(a), single(b), single(state))
    assert h.dtype is (torch.complex64 if exact.is_complex() else torch.float32)
    assert final_single.dtype is torch.float32
    assert close(h.to(exact.dtype), exact, 5e-6)
    assert close(final_single.double(), final, 5e-6)


def test_powers_are_taken_in_the_precision_of_the_transition() -> None:
    a = torch.polar(torch.tensor([1 - 1e-6], dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64))
    b = torch.randn(1, 65536, 1, dtype=torch.complex128)
    exact, _ = ops.linear_scan(a, b)
    errors = [
        float((ops.linear_scan(a.to(dtype), b.to(torch.complex64))[0] - exact).abs().max() / exact.abs().max())
        for dtype in (torch.complex128, torch.complex64)
    ]
    assert errors[0] <= 2e-5
    assert errors[0] < errors[1] / 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    b, a = torch.randn(2, 60, 3).to(dtype), torch.tensor([0.9, 0.5, 0.99])
    h, final = ops.linear_scan(a, b)
    assert h.dtype is final.dtype is torch.float32
    assert torch.equal(h, ops.linear_scan(a, b.float())[0])


def test_a_wider_state_widens_the_recurrence() -> None:
    h, final = ops.linear_scan(torch.tensor([0.9]), torch.ones(1, 4, 1), torch.ones(1, 1, dtype=torch.float64))
    assert h.dtype is final.dtype is torch.float64


@pytest.mark.parametrize("kind", ["real", "complex", "blocks"])
def test_autocast_changes_nothing(kind: str) -> None:
    a, b, state = (
        part.to(torch.complex64 if part.is_complex() else torch.float32) for part in draw(kind, False, 2, 50)
    )
    plain = ops.linear_scan(a, b, state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ops.linear_scan(a, b, state)
    assert torch.equal(plain[0], cast[0])
    assert torch.equal(plain[1], cast[1])


class Scan(torch.nn.Module):
    def forward(self, a: Tensor, b: Tensor, state: Tensor, lengths: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        h, after = ops.linear_scan(a, b, state, lengths=lengths)
        packed, _ = ops.linear_scan(a, b, state, starts=starts)
        return tuple(torch.view_as_real(y) if y.is_complex() else y for y in (h, packed, after))


@pytest.mark.parametrize("kind", ["real", "complex", "blocks"])
@pytest.mark.parametrize("varies", [False, True])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch about its own tracing
def test_it_becomes_a_program(kind: str, varies: bool) -> None:
    torch.compiler.reset()
    inputs = [part.requires_grad_() for part in draw(kind, varies, 2, 11)]
    marks = torch.tensor([11, 4]), torch.rand(2, 11) < 0.3
    module = Scan()
    expected = module(*inputs, *marks)
    with torch.no_grad():
        exported = torch.export.export(module, (*inputs, *marks)).module()(*inputs, *marks)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")(*inputs, *marks)
    for found in (exported, compiled):
        assert all(close(x, y) for x, y in zip(found, expected, strict=True))
    slopes = [
        torch.autograd.grad(torch.stack([y.square().sum() for y in outputs]).sum(), inputs)
        for outputs in (expected, compiled)
    ]
    assert all(close(x, y) for x, y in zip(*slopes, strict=True))
    torch.compiler.reset()


def test_explain_names_the_backends() -> None:
    a, b, _ = draw("real", False, 2, 5)
    native, *others = ops.explain("linear_scan", a, b, None, None, None)
    assert native == ("native", "computes in float32, got float64")
    assert others == [("torch", None), ("reference", None)]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda a, b: ops.linear_scan(a[:2], b), r"`a` has shape \(2,\) and `b` \(2, 5, 3\), but a of \(P,\) or"),
        (lambda a, b: ops.linear_scan(a.expand(2, 4, 3), b), r"`a` has shape \(2, 4, 3\) and `b` \(2, 5, 3\)"),
        (lambda a, b: ops.linear_scan(a, b[0]), r"are needed; put time on axis 1"),
        (lambda a, b: ops.linear_scan(a, b[..., None]), r"or a of \(P, K, K\) or \(batch, length, P, K, K\)"),
        (lambda a, b: ops.linear_scan(a, b.long()), r"`b` is torch.int64, but a floating or complex type is needed"),
        (lambda a, b: ops.linear_scan(a.bool(), b), r"`a` is torch.bool, but .* call `a.float\(\)` first"),
        (lambda a, b: ops.linear_scan(a, b, b[:, 0, :2]), r"`state` is .* of shape \(2, 2\), but real .* \(2, 3\) are"),
        (lambda a, b: ops.linear_scan(a + 0j, b, b[:, 0]), r"shape \(2, 3, 2\) are needed; give complex numbers as"),
        (lambda a, b: ops.linear_scan(a + 0j, b, b[:, 0] + 0j), r"`state` is torch.complex128"),
        (lambda a, b: ops.linear_scan(a, b, lengths=torch.tensor([1, 6])), "between 0 and the sequence length 5"),
        (lambda a, b: ops.linear_scan(a, b, starts=torch.ones(2, 5)), "mark the first element of each packed"),
        (lambda a, b: ops.linear_scan(a, b, backend="cuda"), "but linear_scan has auto, native, torch, reference"),
    ],
)
def test_errors_say_what_to_do(call: Callable[[Tensor, Tensor], object], text: str) -> None:
    a, b, _ = draw("real", False, 2, 5)
    with pytest.raises(InputError, match=text):
        call(a, b)
