"""SelectiveScan2d against the official SS2D with its own state dicts, and what directions and rates mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from longstate import InputError, SelectiveScan2d
from longstate.layers import S4ND

GOLDENS = Path(__file__).parents[1] / "goldens" / "vmamba.npz"
OFFICIAL = {
    "v0": lambda: SelectiveScan2d(6, 4),
    "v05_noz": lambda: SelectiveScan2d(6, 1, expand=1.0, conv_bias=False, gate="none"),
    "v05_noz_state4_last": lambda: SelectiveScan2d(6, 4, conv_bias=False, gate="none"),
}


def official(name: str) -> tuple[SelectiveScan2d, Tensor, Tensor]:
    """The layer with the weights of a case, its input and its output, channels last."""
    with np.load(GOLDENS) as archive:
        prefix = f"ss2d/{name}/"
        arrays = {
            key.removeprefix(prefix): torch.from_numpy(archive[key]) for key in archive.files if key.startswith(prefix)
        }
    layer = OFFICIAL[name]().double()
    names = {"x_proj": "x_proj_weight", "dt_proj": "dt_projs_weight", "dt_bias": "dt_projs_bias", "A_log": "A_logs"}
    names |= {"D": "Ds", "norm.norm.weight": "out_norm.weight", "norm.norm.bias": "out_norm.bias"}
    state = {
        ours: arrays[f"state_dict/{names.get(ours, ours.replace('conv.', 'conv2d.'))}"].reshape(tensor.shape)
        for ours, tensor in layer.state_dict().items()
    }
    layer.load_state_dict(state)
    x, y = arrays["x"], arrays["y"]
    return (layer, x.movedim(1, -1), y.movedim(1, -1)) if name == "v05_noz" else (layer, x, y)


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_layer(name: str) -> None:
    layer, x, y = official(name)
    assert close(layer(x), y, 1e-9)
    assert close(layer.float()(x.float()), y, 1e-5)


def bare(**options: object) -> SelectiveScan2d:
    """A layer whose directions all have the parameters of the first, without a convolution."""
    layer = SelectiveScan2d(3, 2, d_conv=1, norm="none", **options).double()
    with torch.no_grad():
        for name in ("x_proj", "dt_proj", "dt_bias", "A_log", "D"):
            getattr(layer, name).copy_(getattr(layer, name)[0].clone())
    return layer


def test_equal_directions_see_a_mirrored_image_mirrored() -> None:
    """A mirror on the diagonal swaps rows and columns, half a turn swaps ahead and back; a quarter turn is neither."""
    layer, x = bare(), torch.randn(2, 4, 5, 3, dtype=torch.float64)
    assert close(layer(x.transpose(1, 2)), layer(x).transpose(1, 2), 1e-12)
    assert close(layer(x.rot90(2, (1, 2))), layer(x).rot90(2, (1, 2)), 1e-12)
    assert not torch.allclose(layer(x.rot90(1, (1, 2))), layer(x).rot90(1, (1, 2)), rtol=0, atol=1e-9)


def test_one_row_is_a_sequence_read_both_ways_twice() -> None:
    """Along one row the columns are the pixels too, so the scan of a direction can be written down by itself."""
    layer, x = bare(gate="none"), torch.randn(1, 1, 6, 3, dtype=torch.float64)
    u = F.silu(layer.in_proj(x))[0, 0]
    r, B, C = (u @ layer.x_proj[0].T).split(layer.splits, dim=-1)
    dt = F.softplus(r @ layer.dt_proj[0].T + layer.dt_bias[0])
    A = -layer.A_log[0].exp()

    def scan(order: list[int]) -> Tensor:
        h, y = torch.zeros(6, 2, dtype=torch.float64), {}
        for t in order:
            h = torch.exp(dt[t, :, None] * A) * h + (dt[t] * u[t])[:, None] * B[t]
            y[t] = h @ C[t] + layer.D[0] * u[t]
        return torch.stack([y[t] for t in range(6)])

    expected = layer.out_proj(2 * (scan(list(range(6))) + scan(list(range(5, -1, -1)))))
    assert close(layer(x)[0, 0], expected, 1e-12)


def test_a_rate_of_an_axis_belongs_to_the_scans_along_it() -> None:
    layer, x = bare(), torch.randn(1, 4, 5, 3, dtype=torch.float64)
    assert close(layer(x, rate=(0.5, 3.0)).transpose(1, 2), layer(x.transpose(1, 2), rate=(3.0, 0.5)), 1e-12)
    assert not torch.allclose(layer(x, rate=(0.5, 1.0)), layer(x, rate=(1.0, 0.5)))


def test_the_rate_multiplies_the_step() -> None:
    layer, doubled = (SelectiveScan2d(4, 3).double() for _ in range(2))
    layer.dt_proj.data.zero_()
    doubled.load_state_dict(layer.state_dict())
    dt = 2 * F.softplus(layer.dt_bias)
    doubled.dt_bias.data.copy_(dt + torch.log(-torch.expm1(-dt)))
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert close(layer(x, rate=2.0), doubled(x), 1e-12)


def test_initial_parameters_are_the_papers() -> None:
    layer = SelectiveScan2d(96)
    assert torch.allclose(layer.A_log.exp(), torch.arange(1.0, 17).expand(4, 192, 16))
    assert layer.x_proj.shape == (4, 6 + 32, 192)
    dt = F.softplus(layer.dt_bias)
    assert 1e-3 * (1 - 1e-5) <= dt.min() < 3e-3
    assert 3e-2 < dt.max() <= 1e-1 * (1 + 1e-5)
    assert layer.dt_proj.abs().max() <= 6**-0.5


def test_no_pixels_are_no_outputs() -> None:
    assert SelectiveScan2d(4, 1)(torch.zeros(2, 0, 3, 4)).shape == (2, 0, 3, 4)
    assert SelectiveScan2d(4, 1)(torch.zeros(0, 2, 3, 4)).shape == (0, 2, 3, 4)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: SelectiveScan2d(8, 0), "`d_state` is 0, but a positive integer is needed"),
        (lambda: SelectiveScan2d(8, gate="relu"), "`gate` is 'relu', but one of silu, linear, none is needed"),
        (lambda: SelectiveScan2d(8, norm="batch"), "`norm` is 'batch', but one of layer, none is needed"),
        (
            lambda: SelectiveScan2d(8, expand=0.1),
            "`expand` is 0.1, but at least 1/8 is needed for a channel to be left",
        ),
        (lambda: SelectiveScan2d(8, d_conv=4), "`d_conv` is 4, but an odd size is needed, with a pixel in its middle"),
        (lambda: SelectiveScan2d(8, dt_min=0.1, dt_max=0.01), "`dt_min` is 0.1 and `dt_max` 0.01"),
        (
            lambda: SelectiveScan2d(8)(torch.zeros(2, 8, 4, 4)),
            r"`x` has shape \(2, 8, 4, 4\), but \(batch, length_1, length_2, 8\) is needed; put the features last",
        ),
        (lambda: SelectiveScan2d(8)(torch.zeros(1, 2, 2, 8), rate=-1.0), "`rate` is -1.0, but a positive number"),
    ],
)
def test_errors(build, text: str) -> None:
    with pytest.raises(InputError, match=text):
        build()


def test_the_two_layers_over_grids_take_the_same_call() -> None:
    x = torch.randn(1, 3, 4, 4)
    for layer in (S4ND(4, 4), SelectiveScan2d(4, 4)):
        assert layer(x, rate=(1.0, 2.0)).shape == x.shape
