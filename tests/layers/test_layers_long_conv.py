"""Long convolutions with free taps: what they promise beyond the laws."""

import copy

import pytest
import torch

from longstate import InputError
from longstate.layers import LongConv


def bare(**options: object) -> LongConv:
    return LongConv(3, output="none", **options).double()


def test_it_is_its_equation() -> None:
    layer = bare(filter_length=6, squash=0.5)
    torch.nn.init.normal_(layer.kernel)
    x = torch.randn(2, 10, 3, dtype=torch.float64)
    K = layer.kernel[0].sign() * (layer.kernel[0].abs() - 0.5).clamp(min=0)
    for t in range(10):
        reached = sum(K[:, t - s] * x[:, s] for s in range(max(t - 5, 0), t + 1))
        assert (layer(x)[:, t] - reached - layer.D * x[:, t]).abs().max() <= 1e-12


def test_squash_makes_small_taps_exactly_zero_and_shrinks_the_others() -> None:
    layer = bare(filter_length=4, squash=0.1)
    layer.kernel.data[:] = torch.tensor([5.0, 0.05, -0.3, 0.1], dtype=torch.float64)
    layer.D.data.zero_()
    expected = torch.tensor([4.9, 0.0, -0.2, 0.0], dtype=torch.float64)
    assert torch.allclose(layer.filters()[0, 0], expected, atol=1e-15)
    layer.filters().sum().backward()
    assert torch.equal(layer.kernel.grad[0, 0], torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64))


def test_a_squash_above_all_taps_leaves_nothing_to_learn() -> None:
    layer = LongConv(8, filter_length=1024, squash=0.1)
    layer(torch.randn(1, 50, 8)).sum().backward()
    assert not layer.kernel.grad.any()
    layer = LongConv(8, filter_length=1024)
    layer(torch.randn(1, 50, 8)).sum().backward()
    assert layer.kernel.grad.any()


def test_smoothing_over_time_is_a_moving_average() -> None:
    layer = bare(filter_length=11, smooth="time", smooth_width=5, squash=0.0)
    expected = torch.nn.functional.avg_pool1d(layer.kernel, 5, stride=1, padding=2)
    expected[..., 0] += layer.D
    assert (layer.filters() - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("length", [11, 12])
def test_smoothing_over_frequency_is_a_gaussian_window_of_the_spectrum(length: int) -> None:
    layer = bare(filter_length=length, smooth="frequency", smooth_width=3, squash=0.0)
    spectrum = torch.fft.rfft(layer.kernel)
    side = torch.exp(torch.tensor(-0.5, dtype=torch.float64))
    smoothed = spectrum.clone()
    smoothed[..., 1:] += side * spectrum[..., :-1]
    smoothed[..., :-1] += side * spectrum[..., 1:]
    expected = torch.fft.irfft(smoothed, n=length)
    expected[..., 0] += layer.D
    assert (layer.filters() - expected).abs().max() <= 1e-12


def test_starting_values() -> None:
    torch.manual_seed(0)
    random = LongConv(64, filter_length=512).kernel.detach()
    assert random.std() == pytest.approx(0.002, rel=0.02)
    decaying = LongConv(64, filter_length=512, init="double_exponential", channels=8).kernel.detach()
    share = torch.arange(512) / 512
    for feature in (0, 16, 63):
        expected = 0.02 * torch.exp(-share * 32 ** (feature / 64))
        assert (decaying[:, feature] / expected).std() == pytest.approx(1.0, rel=0.05)


def test_dropout_of_the_kernel_in_training_only() -> None:
    layer = bare(filter_length=200, kernel_dropout=0.5, squash=0.0)
    kept = (layer.filters()[..., 1:] != 0).double().mean()
    assert 0.3 < kept < 0.7
    assert (layer.eval().filters()[..., 1:] != 0).all()


def test_optimiser_rules_survive_a_copy() -> None:
    rule = copy.deepcopy(LongConv(4)).optimizer_rules["kernel"]
    assert (rule.max_lr, rule.weight_decay) == (1e-3, 0.0)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: LongConv(4, filter_length=0), "`filter_length` is 0, but a positive integer"),
        (lambda: LongConv(4, init="normal"), "`init` is 'normal', but one of random, double_exponential"),
        (lambda: LongConv(4, smooth="space"), "`smooth` is 'space', but one of none, time, frequency"),
        (lambda: LongConv(4, smooth_width=4), "`smooth_width` is 4, but an odd number is needed, .* use 5"),
        (lambda: LongConv(4, squash=-0.1), "`squash` is -0.1, but a number from 0 upwards is needed"),
        (lambda: LongConv(4, channels=2, output="none"), "use output='glu'"),
        (lambda: LongConv(4)(torch.zeros(2, 9, 4), rate=2.0), "`rate` is 2.0, but LongConv counts elements"),
        (lambda: LongConv(4).step(torch.zeros(2, 1, 4), LongConv(4).initial_state(2)), "without a time axis"),
    ],
)
def test_errors_say_what_to_do(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()
