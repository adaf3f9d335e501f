"""The state space of one official layer: its tensors under our names, with the true C."""

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate import theory
from longstate._checks import InputError
from longstate.models import S4Config, S4DConfig, build_layer
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.facts import Facts
from longstate.pretrained.renames import Rename, translate
from longstate.pretrained.s4_kernels import Dialect


def read_systems(
    checkpoint: Checkpoint,
    at: str,
    dialect: Dialect,
    layer: S4Config | S4DConfig,
    d_model: int,
    two_sided: bool,
    facts: Facts,
    *,
    ours: str = "",
) -> dict[str, Tensor]:
    """Read dt, A, B, C, D and P of one layer.

    Args:
        checkpoint: Where they are.
        at: What the names of the layer begin with.
        dialect: How they are named.
        layer: What the layer is.
        d_model: Its width.
        two_sided: Whether C holds both directions, which share everything else.
        facts: What the file does not say.
        ours: What its names begin with here, for the report.

    Returns:
        The tensors that `build_part` of such a layer has, but for its output map.

    Raises:
        InputError: If a tensor is missing, misshapen or not finite, or C cannot be restored.
    """
    kernel = at + dialect.prefix
    try:
        like = build_layer(replace(layer, channels=1, output="none"), d_model).state_dict()
    except InputError as error:
        raise InputError(f"`{checkpoint.path}` holds a layer at {at} that cannot be built: {error}") from error
    tensors = translate(checkpoint, dialect.table, like, prefix=kernel, ours=ours)
    if "B" not in tensors:
        tensors["B"] = like["B"].to(tensors["A_real"].dtype)  # the minimal kernel has B = 1
    if facts.dt_transform == "softplus":
        tensors["log_dt"] = F.softplus(tensors["log_dt"].double()).log().to(tensors["log_dt"].dtype)
    rows = layer.channels * (2 if two_sided else 1)
    C_like, D_like = like["C"].expand(rows, *like["C"].shape[1:]), like["D"].expand(layer.channels, d_model)
    C = _take(checkpoint, f"{kernel}C", "C", C_like, ours) * dialect.C_factor
    D = _take(checkpoint, f"{at}D", "D", D_like, ours)
    if dialect.length is not None:
        C = _true_output(checkpoint, kernel, C, tensors, _length(checkpoint, kernel, dialect.length, facts, ours))
    if not two_sided:
        return {**tensors, "C": C, "D": D}
    halves = {"forward_layer": (C[:1], D), "backward_layer": (C[1:], torch.zeros_like(D))}
    return {
        f"directions.{name}.{key}": value.clone()
        for name, (half, skip) in halves.items()
        for key, value in {**tensors, "C": half, "D": skip}.items()
    }


def _take(checkpoint: Checkpoint, name: str, becomes: str, like: Tensor, ours: str) -> Tensor:
    """A tensor whose first axis, that of the channels, may be left out."""
    row = Rename(name, becomes, lambda x: x if x.dim() == like.dim() else x.unsqueeze(0))
    return translate(checkpoint, [row], {becomes: like}, ours=ours)[becomes]


def _length(checkpoint: Checkpoint, kernel: str, name: str, facts: Facts, ours: str) -> int:
    """The length for which C was prepared; 0 if it was not."""
    if kernel + name not in checkpoint:
        if facts.length is None:
            raise InputError(
                f"`{checkpoint.path}` lacks {kernel}{name}, the length for which its C was prepared, but C cannot be "
                "restored without it; give the l_max of its training as `length` (--length)."
            )
        return facts.length
    found = checkpoint.take(kernel + name, becomes=f"{ours}C")
    if found.numel() != 1 or found.is_floating_point() or int(found) < 0:
        raise InputError(
            f"`{checkpoint.path}` has {found.tolist()} as {kernel}{name}, but a length is needed; "
            "copy the whole file again."
        )
    if facts.length not in (None, int(found)):
        raise InputError(
            f"`length` is {facts.length}, but {kernel}{name} of `{checkpoint.path}` is {int(found)}; leave it out."
        )
    return int(found)


def _true_output(checkpoint: Checkpoint, kernel: str, C: Tensor, tensors: dict[str, Tensor], length: int) -> Tensor:
    """C (channels, H, N/2, 2) from C (I - Ā^L), in float64; as it is for a length of 0, which nothing has prepared."""
    if length == 0:
        return C
    features = len(tensors["log_dt"])
    A = torch.complex(-tensors["A_real"].double().exp(), tensors["A_imag"].double())
    P, B = (torch.view_as_complex(tensors[name].double().contiguous()) for name in ("P", "B"))
    times = features // len(A)
    A, B, P = A.repeat(times, 1), B.repeat(times, 1), P.repeat(1, times, 1)
    A_bar, _ = theory.discretize_dplr(A, P, B, tensors["log_dt"].double().exp(), "bilinear")
    prepared = theory.real_vector(torch.view_as_complex(C.double().contiguous()).conj_physical())
    try:
        restored = theory.restore_output(prepared, A_bar, length)
    except InputError as error:
        raise InputError(f"C of {kernel} in `{checkpoint.path}` cannot be restored: {error}") from error
    re, im = restored.chunk(2, dim=-1)
    return (torch.stack([re, -im], dim=-1) / math.sqrt(2)).to(C.dtype)
