"""S4 and S4D against whole blocks of the official code, from its own state dicts."""

import pytest
import torch

import official
from longstate.layers import S4, S4D, Bidirectional, GatedOutput

BLOCKS = {
    "block/s4_legs": lambda: S4(16, 64, init="legs"),
    "block/s4_tied_nssm": lambda: S4(16, 64, init="legs", n_ssm=1),
    "block/s4d_lin": lambda: S4D(16, 64, init="lin"),
}


def weights_of(arrays: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix("state_dict/"): value.double() for key, value in arrays.items() if "state_dict" in key}


@pytest.mark.parametrize(("name", "tolerance"), [(name, 2e-4 if "/s4_" in name else 2e-5) for name in BLOCKS])
def test_block(name: str, tolerance: float) -> None:
    arrays = official.case(name)
    weights = weights_of(arrays)
    layer = BLOCKS[name]().double()
    official.load_kernel(layer, weights, "layer.", direction=slice(None))
    layer.output.linear.weight.data.copy_(weights["output_linear.0.weight"])
    layer.output.linear.bias.data.copy_(weights["output_linear.0.bias"])
    y = layer(arrays["x"].double())
    assert (y - arrays["y"]).abs().max() <= tolerance * arrays["y"].abs().max()


def test_bidirectional_block() -> None:
    arrays = official.case("block/s4d_bidirectional")
    weights = weights_of(arrays)
    forward, backward = (S4D(16, 32, init="inv", rule="bilinear", output="none").double() for _ in range(2))
    official.load_kernel(forward, weights, "layer.", direction=slice(0, 1))
    official.load_kernel(backward, weights, "layer.", direction=slice(1, 2))
    torch.nn.init.zeros_(backward.D)
    output = GatedOutput(16, 16).double()
    output.linear.weight.data.copy_(weights["output_linear.0.weight"])
    output.linear.bias.data.copy_(weights["output_linear.0.bias"])
    y = output(Bidirectional(forward, backward, strict=True)(arrays["x"].double()))
    assert (y - arrays["y"]).abs().max() <= 2e-5 * arrays["y"].abs().max()


def test_stream() -> None:
    arrays = official.case("stream/s4d")
    H, modes = arrays["state_dict/kernel.A_real"].shape
    layer = S4D(H, 2 * modes, output="none").double()
    official.load_kernel(layer, weights_of(arrays), "", direction=slice(None))
    x = arrays["x"].double()
    y, state = layer.forward_with_state(x, layer.initial_state(len(x)))
    assert (y - arrays["y"]).abs().max() <= 2e-5 * arrays["y"].abs().max()
    final = torch.view_as_real(arrays["final_state"].to(torch.complex128))
    assert (state.x - final).abs().max() <= 2e-5 * final.abs().max()
