"""Reading tests/goldens/s4_official.npz: numbers that the official S4 code computed (see the README beside it)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from longstate import theory
from longstate.layers import S4, S4D

FOLDER = Path(__file__).parent / "goldens"
OPTIONS: dict[str, dict[str, Any]] = json.loads((FOLDER / "s4_official.json").read_text())


def case(name: str) -> dict[str, Tensor]:
    """The arrays of one case, by their name inside it."""
    with np.load(FOLDER / "s4_official.npz") as archive:
        return {
            key.removeprefix(f"{name}/"): torch.from_numpy(archive[key])
            for key in archive.files
            if key.startswith(f"{name}/")
        }


def load_kernel(layer: S4 | S4D, weights: dict[str, Tensor], prefix: str, *, direction: slice) -> None:
    """Copy an official kernel into a layer; `direction` picks the channels of one direction."""
    C = weights[f"{prefix}kernel.C"][direction]
    with torch.no_grad():
        layer.log_dt.copy_(weights[f"{prefix}kernel.inv_dt"][:, 0])
        layer.A_real.copy_(weights[f"{prefix}kernel.A_real"])
        layer.A_imag.copy_(-weights[f"{prefix}kernel.A_imag"])  # the official A is -exp(A_real) - i A_imag
        layer.B.copy_(weights[f"{prefix}kernel.B"].squeeze(0))
        if isinstance(layer, S4):
            layer.P.copy_(weights[f"{prefix}kernel.P"])
            layer.C.copy_(C)
            truncated = layer.system()
            restored = theory.restore_output(truncated.C, truncated.A, int(weights[f"{prefix}kernel.l_kernel"]))
            re, im = restored.chunk(2, dim=-1)
            C = torch.stack([re, -im], dim=-1) / 2**0.5
        layer.C.copy_(C)
        layer.D.copy_(weights[f"{prefix}D"])
