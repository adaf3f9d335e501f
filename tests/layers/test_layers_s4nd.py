"""S4ND: its kernels by explicit sums, its axes one by one, its directions, and other resolutions."""

import math

import pytest
import torch
from torch import Tensor

from longstate import InputError, ops
from longstate.layers import S4, S4D, S4ND, SLOW, TwoSided

DOUBLE = {"dtype": torch.float64}


def bare(*args: int, **options: object) -> S4ND:
    return S4ND(*args, output="none", **options).double()


def at_lag(kernel: Tensor, lag: int, both_ways: bool) -> Tensor:
    """K (rank, d_model) of an axis at a lag, 0 where it does not reach."""
    index = lag + kernel.shape[-1] // 2 if both_ways else lag
    return kernel[..., index] if 0 <= index < kernel.shape[-1] else torch.zeros_like(kernel[..., 0])


@pytest.mark.parametrize("system", ["s4d", "s4"])
@pytest.mark.parametrize("grid", [(5, 8), (7, 3), (1, 6)], ids=str)
def test_image_is_the_sum_over_all_pairs_of_pixels(system: str, grid: tuple[int, int]) -> None:
    layer = bare(2, 4, layer=system, rank=2, bidirectional=(True, False))
    x = torch.randn(1, *grid, 2, **DOUBLE)
    down, across = (layer.axis_kernel(axis, n, **DOUBLE) for axis, n in enumerate(grid))
    expected = layer.D * x
    for t1, t2, s1, s2 in torch.cartesian_prod(*(torch.arange(n) for n in (*grid, *grid))).tolist():
        weight = at_lag(down, t1 - s1, True) * at_lag(across, t2 - s2, False)
        expected[0, t1, t2] += weight.mean(0) * x[0, s1, s2]
    assert (layer(x) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("bidirectional", [False, True])
def test_image_is_one_axis_after_the_other(bidirectional: bool) -> None:
    layer = bare(3, 4, bidirectional=bidirectional)
    torch.nn.init.zeros_(layer.D)
    x = torch.randn(2, 9, 6, 3, **DOUBLE)
    expected = x
    for axis, n in ((1, 9), (2, 6)):
        K = layer.axis_kernel(axis - 1, n, **DOUBLE)
        lines = expected.movedim(axis, -2)
        rows = lines.flatten(0, -3)
        origins = [n - 1] if bidirectional else [0]
        expected = ops.fft_conv_nd(rows, [K], origins=origins, backend="reference").reshape(lines.shape)
        expected = expected.movedim(-2, axis)
    assert (layer(x) - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_flipped_axis_swaps_its_directions(axis: int) -> None:
    layer, twin = bare(2, 4), bare(2, 4)
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(1, 6, 7, 2, **DOUBLE)
    with torch.no_grad():
        twin.axes[axis].C.copy_(layer.axes[axis].C.flip(0))
        K, K_twin = (each.axis_kernel(axis, 5, **DOUBLE) for each in (layer, twin))
    # The halves are not mirror images: the backward one begins a step away from the present.
    assert (K_twin[..., 4:-1] - K.flip(-1)[..., 5:]).abs().max() <= 1e-14
    assert (K_twin[..., :4] - K.flip(-1)[..., 1:5]).abs().max() <= 1e-14
    factors = [layer.axis_kernel(a, n, **DOUBLE) for a, n in ((0, 6), (1, 7))]
    factors[axis] = factors[axis].flip(-1)
    mirrored = ops.fft_conv_nd(x, factors, origins=[5, 6], skip=layer.D, backend="reference")
    flipped = layer(x.flip(axis + 1)).flip(axis + 1)
    assert (flipped - mirrored).abs().max() <= 1e-12 * flipped.abs().max()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_causal_axis_never_looks_ahead(axis: int) -> None:
    layer = bare(2, 4, bidirectional=tuple(other != axis for other in (0, 1)))
    x = torch.randn(1, 5, 6, 2, **DOUBLE).requires_grad_()
    last = 4 + axis
    for t in range(last):
        (slope,) = torch.autograd.grad(layer(x).select(axis + 1, t).sum(), x)
        assert slope.narrow(axis + 1, t + 1, last - t).abs().max() <= 1e-12 * slope.abs().max()
        assert slope.select(axis + 1, t).abs().max() > 1e-3


@pytest.mark.parametrize("system", ["s4d", "s4"])
def test_one_axis_is_the_bidirectional_layer(system: str) -> None:
    cls = S4D if system == "s4d" else S4
    grid_layer = S4ND(4, 8, dim=1, layer=system).double()
    forward, backward = (cls(4, 8, output="none").double() for _ in range(2))
    sequence_layer = TwoSided(forward, backward).double()
    with torch.no_grad():
        for direction, layer in enumerate((forward, backward)):
            for name, value in grid_layer.axes[0].named_parameters():
                if name not in ("C", "D"):
                    layer.get_parameter(name).copy_(value)
            layer.C.copy_(grid_layer.axes[0].C[direction : direction + 1])
        forward.D.copy_(grid_layer.D[None])
        sequence_layer.output.load_state_dict(grid_layer.output.state_dict())
        x = torch.randn(2, 50, 4, **DOUBLE)
        for rate in (1.0, 0.5):
            expected = sequence_layer(x, rate=rate)
            assert (grid_layer(x, rate=rate) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_video() -> None:
    layer = bare(2, 4, dim=3, rank=2)
    x = torch.randn(1, 4, 3, 5, 2, **DOUBLE)
    factors = [layer.axis_kernel(axis, n, **DOUBLE) for axis, n in enumerate((4, 3, 5))]
    factors[1] = factors[1] / 2
    expected = ops.fft_conv_nd(x, factors, origins=[3, 2, 4], skip=layer.D, backend="reference")
    assert (layer(x) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_a_shifted_image_gives_the_shifted_answer() -> None:
    layer = bare(2, 8)
    x = torch.zeros(1, 12, 15, 2, **DOUBLE)
    x[:, 2:6, 3:8] = torch.randn(1, 4, 5, 2, **DOUBLE)
    y = layer(x)
    moved = layer(x.roll((3, 4), dims=(1, 2)))
    assert (moved[:, 3:, 4:] - y[:, :-3, :-4]).abs().max() <= 1e-12 * y.abs().max()


@pytest.mark.parametrize("system", ["s4d", "s4"])
def test_rate_keeps_the_mass_of_every_axis(system: str) -> None:
    layer = bare(4, 16, layer=system, dt_min=1e-2, dt_max=2e-2, bidirectional=(False, True))
    for axis in (0, 1):
        fine = layer.axis_kernel(axis, 8192, **DOUBLE)
        coarse = layer.axis_kernel(axis, 4096, rate=2.0, **DOUBLE)
        assert (fine.sum(-1) - coarse.sum(-1)).abs().max() <= 1e-2 * fine.abs().sum(-1).max()


def test_axes_have_rates_of_their_own() -> None:
    layer = bare(2, 4)
    x = torch.randn(1, 6, 8, 2, **DOUBLE)
    factors = [layer.axis_kernel(0, 6, rate=0.5, **DOUBLE), layer.axis_kernel(1, 8, rate=2.0, **DOUBLE)]
    expected = ops.fft_conv_nd(x, factors, origins=[5, 7], skip=layer.D)
    assert torch.equal(layer(x, rate=(0.5, 2.0)), expected)


def test_a_finer_image_of_the_same_scene_gives_the_same_answer() -> None:
    """What S4ND is for: training at one resolution, use at another. The scene varies slowly against both grids."""
    layer = bare(2, 16, dt_min=0.05, dt_max=0.1, bandlimit=0.4)
    torch.nn.init.zeros_(layer.D)

    def scene(n: int) -> Tensor:
        t = (torch.arange(n, **DOUBLE) + 0.5) / n
        bump = torch.exp(-((t[:, None] - 0.4) ** 2 + (t - 0.6) ** 2) / 0.02)
        return torch.stack([bump, -2 * bump], dim=-1)[None]

    coarse, fine = layer(scene(64)), layer(scene(128), rate=0.5)
    pooled = fine.unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean((2, 4))
    assert (pooled - coarse).abs().max() <= 0.05 * coarse.abs().max()
    unaware = layer(scene(128)).unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean((2, 4))
    assert (unaware - coarse).abs().max() >= 0.3 * coarse.abs().max()


@pytest.mark.parametrize("system", ["s4d", "s4"])
def test_bandlimit_leaves_out_fast_modes_whatever_the_rate(system: str) -> None:
    layer = S4ND(4, 16, layer=system, bandlimit=0.2, dt_min=0.02, dt_max=0.1, n_ssm=2)
    axis = layer.axes[0]
    frequency = axis.A_imag.abs().repeat(2, 1) * axis.log_dt.exp()[:, None] / (2 * math.pi)
    kept = frequency < 0.1
    assert kept.any()
    assert not kept.all()
    free = S4ND(4, 16, layer=system, n_ssm=2)
    free.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for twin in free.axes:
            twin.C.mul_((twin.A_imag.abs().repeat(2, 1) * twin.log_dt.exp()[:, None] / (2 * math.pi) < 0.1)[..., None])
        x = torch.randn(1, 8, 9, 4)
        for rate in (1.0, 0.25):
            assert torch.equal(layer(x, rate=rate), free(x, rate=rate))


def test_real_modes_know_no_band() -> None:
    layer = S4ND(2, 4, init="real", bandlimit=1e-9)
    free = S4ND(2, 4, init="real")
    free.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 5, 2)
    assert torch.equal(layer(x), free(x))


def test_systems_learn_slowly_and_their_skip_not_at_all() -> None:
    layer = S4ND(4, 8)
    assert all(not axis.D.requires_grad and not axis.D.any() for axis in layer.axes)
    assert all(
        {n for n, rule in axis.optimizer_rules.items() if rule is SLOW} >= {"log_dt", "B"} for axis in layer.axes
    )
    layer(torch.randn(1, 4, 5, 4)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if p.requires_grad)


def test_an_empty_grid_is_an_empty_answer() -> None:
    layer = S4ND(4, 8)
    assert layer(torch.zeros(2, 0, 5, 4)).shape == (2, 0, 5, 4)
    assert layer(torch.zeros(0, 3, 5, 4)).shape == (0, 3, 5, 4)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: S4ND(0), "`d_model` is 0, but a positive integer is needed"),
        (lambda: S4ND(4, dim=0), "`dim` is 0, but a positive integer is needed"),
        (lambda: S4ND(4, rank=0), "`rank` is 0, but a positive integer is needed"),
        (lambda: S4ND(4, layer="dss"), "`layer` is 'dss', but one of s4d, s4 is needed"),
        (lambda: S4ND(4, init="hippo"), "`init` is 'hippo', but one of lin"),
        (
            lambda: S4ND(4, bidirectional=(True,)),
            r"`bidirectional` is \(True,\), but one choice for all or one for each",
        ),
        (lambda: S4ND(4, bandlimit=0.0), r"`bandlimit` is 0.0, but a positive number is needed; 0.5 keeps"),
        (lambda: S4ND(4)(torch.zeros(2, 9, 4)), r"\(2, 9, 4\), but \(batch, length_1, length_2, 4\) is needed; put"),
        (lambda: S4ND(4)(torch.zeros(2, 9, 9, 4, dtype=torch.int64)), "is torch.int64, but a floating type is needed"),
        (
            lambda: S4ND(4)(torch.zeros(2, 9, 9, 4), rate=(1.0,)),
            r"`rate` is \(1.0,\), but a positive number or one for",
        ),
        (lambda: S4ND(4)(torch.zeros(2, 9, 9, 4), rate=0.0), "`rate` is 0.0, but a positive number or one for each of"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
