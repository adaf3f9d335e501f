"""Dropout by numbers of a seed and a place: against published answers, and against what chance would do."""

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from longstate import InputError, ops
from longstate.ops import _native
from longstate.ops.dropout import philox

needs_kernels = pytest.mark.skipif(not _native.is_built(), reason="the kernels were not built")


def test_philox_gives_the_published_answers() -> None:
    """Of Random123 1.14, kat_vectors, philox4x32 with ten rounds: counter and key 0; and by its own definition."""
    words = philox(torch.tensor([0]), 0)
    assert [int(word) for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    counter, seed = 0x05A308D3243F6A88, 0x299F31D0A4093822
    assert [int(word) for word in philox(torch.tensor([counter]), seed)] == plain(counter, seed)


def plain(counter: int, seed: int) -> list[int]:
    """Philox4x32-10 in Python's integers."""
    low = 0xFFFFFFFF
    a, b, c, d = counter & low, counter >> 32, 0, 0
    for n in range(10):
        key, other = ((seed & low) + n * 0x9E3779B9) & low, ((seed >> 32) + n * 0xBB67AE85) & low
        left, right = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (right >> 32) ^ b ^ key, right & low, (left >> 32) ^ d ^ other, left & low
    return [a, b, c, d]


@needs_kernels
@given(shape=st.lists(st.integers(0, 40), max_size=3), p=st.floats(0, 1), seed=st.integers(0, (1 << 63) - 1))
def test_the_kernel_drops_what_the_reference_drops(shape: list[int], p: float, seed: int) -> None:
    x = torch.randn(shape).mT if len(shape) > 1 else torch.randn(shape)
    found, expected = (ops.dropout(x, p, seed, backend=backend) for backend in ("native", "reference"))
    assert torch.equal(found, expected)


@needs_kernels
@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_of_this_machine(isa: str) -> None:
    code = (
        "import torch; from longstate import ops; x = torch.arange(100_000.0) + 1\n"
        "print(all(torch.equal(ops.dropout(x, 0.3, s), ops.dropout(x, 0.3, s, backend='reference')) for s in (0, 9)))"
    )
    environment = {**os.environ, "LONGSTATE_ISA": isa}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout == "True\n"


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_shares_and_independence(p: float, backend: str) -> None:
    """Five standard deviations of fair coins: of the share, of neighbours at several distances, and of two seeds."""
    count = 1 << 20
    kept = [(ops.dropout(torch.ones(count), p, seed, backend=backend) != 0).double() for seed in (1, 2)]
    q = 1 - p
    bound = 5 * (p * q / count) ** 0.5
    for mask in kept:
        assert abs(mask.mean() - q) < bound
        for distance in (1, 2, 16, 32, 64, 128, 1024):
            together = ((mask[distance:] - q) * (mask[:-distance] - q)).mean()
            assert abs(together) < 5 * p * q / (count - distance) ** 0.5
    assert abs(((kept[0] - q) * (kept[1] - q)).mean()) < 5 * p * q / count**0.5


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_mean_stays_and_the_gradient_is_dropped_alike(backend: str) -> None:
    x = torch.rand(300_000).requires_grad_()
    y = ops.dropout(x, 0.3, 7, backend=backend)
    assert abs(y.mean() / x.mean() - 1) < 0.01
    weights = torch.rand_like(x).requires_grad_()
    (slope,) = torch.autograd.grad((y * weights).sum(), x, create_graph=True)
    torch.testing.assert_close(slope * x, y * weights)
    (second,) = torch.autograd.grad(slope.sum(), weights)
    assert torch.equal(second != 0, y != 0)


def test_ends() -> None:
    x = torch.randn(1000)
    assert torch.equal(ops.dropout(x, 0.0, 1), x)
    assert torch.equal(ops.dropout(x, 1.0, 1), torch.zeros(1000))
    x[3] = torch.nan
    assert ops.dropout(x, 1.0, 1).isnan().nonzero().flatten().tolist() == [3]


def test_half_precision_by_the_reference() -> None:
    x = torch.randn(5000)
    for dtype in (torch.bfloat16, torch.float64):
        found = ops.dropout(x.to(dtype), 0.5, 4)
        assert found.dtype is dtype
        assert torch.equal(found, ops.dropout(x, 0.5, 4, backend="reference").to(dtype))
    reason = ops.explain("dropout", x.double(), 0.5, 4)[0][1]
    assert reason == "computes in float32, got float64"


@needs_kernels
def test_the_operator_obeys_torchs_rules() -> None:
    x = torch.randn(40, 7).requires_grad_()
    utils = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    torch.library.opcheck(torch.ops.longstate.dropout.default, (x, 0.4, 11), test_utils=utils)


@needs_kernels
def test_nothing_is_kept() -> None:
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: sizes.append(part.numel()) or part, lambda part: part):
        ops.dropout(torch.randn(1000).requires_grad_(), 0.5, 3)
    assert sizes == []


@pytest.mark.parametrize(
    ("p", "seed", "text"),
    [
        (1.5, 0, r"`p` is 1.5, but a share in \[0, 1\] is needed; 0.1 drops a tenth"),
        (0.5, -1, r"`seed` is -1, but a whole number in \[0, 2\^63\) is needed; draw one with torch.randint"),
    ],
)
def test_errors(p: float, seed: int, text: str) -> None:
    with pytest.raises(InputError, match=text):
        ops.dropout(torch.ones(3), p, seed)
