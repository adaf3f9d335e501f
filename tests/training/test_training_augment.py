import math

import pytest
import torch
from torch import Generator

from longstate import InputError
from longstate.training.augment import add_noise, flip_channels, random_rate, scale_channels
from longstate.training.module import flipped_channels


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


X = torch.arange(24.0).reshape(2, 4, 3)


def test_noise_has_the_deviation_of_each_channel() -> None:
    x = torch.zeros(8, 4000, 2)
    noise = add_noise(x, torch.tensor([2.0, 5.0]), 0.5, generator())
    assert noise.std(dim=(0, 1)).tolist() == pytest.approx([1.0, 2.5], rel=0.02)
    assert noise.mean(dim=(0, 1)).tolist() == pytest.approx([0.0, 0.0], abs=0.05)


def test_gain_is_one_number_a_channel_and_row_about_the_mean() -> None:
    mean = torch.tensor([1.0, 2.0, 3.0])
    gain = (scale_channels(X, mean, 0.3, generator()) - mean) / (X - mean)
    per_row = gain.nanmean(dim=1, keepdim=True)
    torch.testing.assert_close(gain, per_row.expand_as(gain), equal_nan=False, rtol=1e-4, atol=1e-4)
    assert len(set(per_row.flatten().tolist())) == 6


def test_the_logarithm_of_gain_and_rate_has_the_amount_as_deviation() -> None:
    gains = scale_channels(torch.ones(5000, 1, 1), torch.zeros(1), 0.3, generator()).log()
    assert float(gains.std()) == pytest.approx(0.3, rel=0.05)
    shared = generator()
    rates = torch.tensor([math.log(random_rate(0.2, shared)) for _ in range(2000)])
    assert float(rates.std()) == pytest.approx(0.2, rel=0.05)
    assert float(rates.mean()) == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: add_noise(X, torch.ones(3), 0.1, g),
        lambda g: scale_channels(X, torch.zeros(3), 0.1, g),
        lambda g: flip_channels(X.repeat(9, 1, 1), torch.tensor([True, False, True]), g),
        lambda g: torch.tensor(random_rate(0.1, g)),
    ],
    ids=["noise", "scale", "flip", "rate"],
)
def test_the_seed_decides_and_the_input_stays(change) -> None:
    before = X.clone()
    assert torch.equal(change(generator(1)), change(generator(1)))
    assert not torch.equal(change(generator(1)), change(generator(2)))
    assert torch.equal(X, before)


def test_the_named_channels_flip_together_in_half_of_the_rows() -> None:
    x = torch.rand(2000, 3, 3) + 1
    y = flip_channels(x, flipped_channels(("ax", "3"), ("ax", "ay", "az")), generator())
    signs = (y / x).round()
    assert torch.equal(signs[..., 0], signs[..., 2])
    assert (signs[..., 1] == 1).all()
    assert torch.equal(signs, signs[:, :1].expand_as(signs))
    assert float((signs[:, 0, 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_a_channel_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match="`flip` names the channel 'wx', but there are ax, ay; name one"):
        flipped_channels(("wx",), ("ax", "ay"))
