"""State dicts as the official S4 code has written them, made from those of tests/goldens/s4_official.npz."""

import torch
from torch import Tensor

import official

StateDict = dict[str, Tensor]


def state_dict(name: str) -> StateDict:
    """The state dict of one golden case, by the names and shapes of version 4."""
    return {
        key.removeprefix("state_dict/"): value
        for key, value in official.case(name).items()
        if key.startswith("state_dict/")
    }


def as_version_3(weights: StateDict) -> StateDict:
    """A block of version 4 by the names, shapes and signs of version 3: checkpoints/convert_v3_to_v4.py backwards."""
    is_s4 = "layer.kernel.P" in weights
    real, imaginary = ("inv_w_real", "w_imag") if is_s4 else ("inv_A_real", "A_imag")
    old = {
        "D": weights["layer.D"],
        "kernel.kernel.log_dt": weights["layer.kernel.inv_dt"].squeeze(-1),
        f"kernel.kernel.{real}": weights["layer.kernel.A_real"],
        f"kernel.kernel.{imaginary}": -weights["layer.kernel.A_imag"],
        "kernel.kernel.B": weights["layer.kernel.B"] if is_s4 else weights["layer.kernel.B"].squeeze(0),
        "kernel.kernel.C": weights["layer.kernel.C"],
        "output_linear.0.weight": weights["output_linear.0.weight"].unsqueeze(-1),  # a Conv1d of width 1
        "output_linear.0.bias": weights["output_linear.0.bias"],
    }
    if is_s4:
        old["kernel.kernel.P"] = weights["layer.kernel.P"]
        old["kernel.kernel.L"] = weights["layer.kernel.l_kernel"]
    return old


def sequence_model(norm: str = "layer", n_layers: int = 2, classes: int = 5) -> StateDict:
    """A pre-norm SequenceModel of S4 blocks with three channels in, as a Lightning module of train.py has it."""
    model = {
        "encoder.0.weight": torch.randn(16, 3),
        "encoder.0.bias": torch.randn(16),
        "decoder.0.output_transform.weight": torch.randn(classes, 16),
        "decoder.0.output_transform.bias": torch.randn(classes),
    }
    for number in range(n_layers):
        block = state_dict("block/s4_legs")
        block["layer.D"] = torch.randn(1, 16)
        block["layer.kernel.inv_dt"] = block["layer.kernel.inv_dt"].roll(number, 0)
        block["output_linear.0.weight"] = block["output_linear.0.weight"].roll(number, 1)
        model |= {f"model.layers.{number}.layer.{name}": value for name, value in block.items()}
        model |= {f"model.layers.{number}.norm.norm.{name}": value for name, value in norm_tensors(norm).items()}
    return model | {f"model.norm.norm.{name}": value for name, value in norm_tensors(norm).items()}


def norm_tensors(kind: str) -> StateDict:
    affine = {"weight": 1 + 0.1 * torch.randn(16), "bias": 0.1 * torch.randn(16)}
    if kind == "transposed":
        return {f"ln.{name}": value for name, value in affine.items()}
    if kind == "batch":
        counted = {"num_batches_tracked": torch.tensor(7)}
        return {**affine, "running_mean": torch.randn(16), "running_var": 1 + torch.rand(16), **counted}
    return affine
