"""Layers of the official S4 code, state-spaces/s4: the bare convolution, and the block with its output map."""

import re
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from longstate._checks import InputError
from longstate.layers import SequenceLayer
from longstate.models import LayerPart, S4Config, S4DConfig, build_part
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.facts import Facts
from longstate.pretrained.renames import Rename, translate
from longstate.pretrained.s4_kernels import DIALECTS, NOT_NEEDED, Dialect
from longstate.pretrained.s4_systems import read_systems

_C_OF_A_KERNEL = re.compile(r"(.*?)kernel\.(?:kernel\.)?C")
_INIT_OF_RANK = {1: "legs", 2: "legt"}
"""An initialisation whose P has that many rows; its values are those of the file."""


class OfficialLayer(NamedTuple):
    """A layer that was read: what it is, its tensors by our names, and what was assumed about it."""

    title: str
    config: LayerPart
    tensors: dict[str, Tensor]
    assumed: tuple[str, ...]

    def build(self) -> SequenceLayer:
        """The layer itself, in `eval()` mode."""
        layer = build_part(self.config)
        layer.load_state_dict(self.tensors, assign=True)
        return layer.eval()


def layers_in(checkpoint: Checkpoint) -> list[str]:
    """What the names of each convolution layer begin with, in the order of the file: "layers.0.layer.layer.", ..."""
    found = (_C_OF_A_KERNEL.fullmatch(name) for name in checkpoint.names)
    return list(dict.fromkeys(match[1] for match in found if match))


def read_layer(checkpoint: Checkpoint, at: str, facts: Facts, *, ours: str = "") -> OfficialLayer:
    """Read one convolution layer, and the output map after it where there is one.

    Args:
        checkpoint: Where it is.
        at: What its names begin with, one of `layers_in(checkpoint)`.
        facts: What the file does not say.
        ours: What its names begin with here, for the report.

    Returns:
        Its configuration and tensors. C is the true C, restored from the one that S4 prepares for a length.

    Raises:
        InputError: If a tensor is missing or misshapen, or the layer is of a kind that longstate does not have.
    """
    dialect = next((one for one in DIALECTS if one.is_at(checkpoint, at)), None)
    if dialect is None:
        raise InputError(
            f"`{checkpoint.path}` has {at}kernel with names of none of the versions 2.1 to 4 of S4 and S4D, but one of "
            "these is needed; load it with the code that wrote it and save it again with version 4."
        )
    d_model, two_sided, layer = _system(checkpoint, at, dialect, facts)
    output_map = _find_output_map(checkpoint, at)
    if output_map is not None:
        layer = replace(layer, output=_output(checkpoint, output_map, d_model))
    tensors = read_systems(checkpoint, at, dialect, layer, d_model, two_sided, facts, ours=ours)
    if output_map is not None:
        tensors |= _read_output_map(checkpoint, output_map, layer, d_model, ours)
    for name, why in NOT_NEEDED.items():
        if at + name in checkpoint:
            checkpoint.leave(at + name, why)
    part = LayerPart(d_model=d_model, layer=layer, two_sided=two_sided)
    return OfficialLayer(dialect.title, part, tensors, _assumed(dialect, layer, facts))


def _system(checkpoint: Checkpoint, at: str, dialect: Dialect, facts: Facts) -> tuple[int, bool, S4Config | S4DConfig]:
    """Width, whether the kernel reaches both ways, and the configuration, as the shapes of the tensors have it."""
    kernel = at + dialect.prefix
    D = _shape(checkpoint, f"{at}D", 1, 2)
    C = _shape(checkpoint, f"{kernel}C", 3, 4)
    is_real = dialect.config.init == "real"
    channels = D[0] if len(D) == 2 else 1
    rows = C[0] if is_real or len(C) == 4 else 1
    if rows not in (channels, 2 * channels):
        raise InputError(
            f"`{checkpoint.path}` has {rows} channels in {kernel}C and {channels} in {at}D, but equally many (or twice "
            "as many for both directions) are needed; copy the whole file again."
        )
    two_sided = rows == 2 * channels
    if two_sided and channels != 1:
        raise InputError(
            f"`{checkpoint.path}` reads both ways at {at} with {channels} channels, but longstate has this form for "
            "one; train it again with channels=1."
        )
    tied = _shape(checkpoint, f"{kernel}{_theirs(dialect, 'A_real')}", 2)[0]
    layer = replace(
        dialect.config,
        d_state=C[-1] if is_real else 2 * C[-2],
        channels=channels,
        n_ssm=None if tied == D[-1] else tied,
        rule=_rule(dialect, facts),
        output="none",
    )
    if isinstance(layer, S4Config):
        rank = _shape(checkpoint, f"{kernel}P", 4)[0]
        if rank not in _INIT_OF_RANK:
            raise InputError(
                f"`{checkpoint.path}` has {kernel}P of rank {rank}, but longstate's S4 has rank 1 or 2; "
                "it cannot be converted."
            )
        layer = replace(layer, init=_INIT_OF_RANK[rank])
    return D[-1], two_sided, layer


def _rule(dialect: Dialect, facts: Facts) -> str:
    if isinstance(dialect.config, S4Config) and facts.rule not in (None, dialect.rule):
        raise InputError(
            f"`rule` is {facts.rule!r}, but the official S4 kernel is always {dialect.rule}; leave it out."
        )
    return facts.rule or dialect.rule


def _find_output_map(checkpoint: Checkpoint, at: str) -> str | None:
    """What the names of the linear map after a convolution begin with; None if it stands alone."""
    blocks = (at, at.removesuffix("layer."))
    maps = (f"{block}output_linear.{inner}" for block in blocks for inner in ("0.", ""))
    return next((name for name in maps if f"{name}weight" in checkpoint), None)


def _output(checkpoint: Checkpoint, output_map: str, d_model: int) -> str:
    rows = _shape(checkpoint, f"{output_map}weight", 2, 3)[0]
    if rows not in (d_model, 2 * d_model):
        raise InputError(
            f"`{checkpoint.path}` has {output_map}weight with {rows} rows, but {d_model} features need {2 * d_model} "
            f"(with a gate) or {d_model}; copy the whole file again."
        )
    return "glu" if rows == 2 * d_model else "linear"


def _read_output_map(
    checkpoint: Checkpoint, output_map: str, layer: S4Config | S4DConfig, d_model: int, ours: str
) -> dict[str, Tensor]:
    name = "output.linear." if layer.output == "glu" else "output.2."
    rows = 2 * d_model if layer.output == "glu" else d_model
    wanted = {f"{name}weight": torch.empty(rows, layer.channels * d_model), f"{name}bias": torch.empty(rows)}
    # A map by Conv1d has a third axis of 1, and so had the bias of an older one.
    renames = (
        Rename("weight", f"{name}weight", lambda x: x.flatten(1)),
        Rename("bias", f"{name}bias", torch.flatten),
    )
    return translate(checkpoint, renames, wanted, prefix=output_map, ours=ours)


def _shape(checkpoint: Checkpoint, name: str, *axes: int) -> tuple[int, ...]:
    shape = checkpoint.shape(name)
    if len(shape) not in axes:
        raise InputError(
            f"`{checkpoint.path}` has {name} of shape {shape}, but {' or '.join(map(str, axes))} axes are needed; "
            "it is no layer of the official S4 code."
        )
    return shape


def _theirs(dialect: Dialect, ours: str) -> str:
    return next(row.theirs for row in dialect.table if row.ours == ours)


def _assumed(dialect: Dialect, layer: S4Config | S4DConfig, facts: Facts) -> tuple[str, ...]:
    """What the file does not say, in words."""
    after = {
        "glu": "one GELU before the output map, and a gate after it",
        "linear": "one GELU before the output map, and nothing after it",
        "none": "no activation after the convolution",
    }
    said = [after[layer.output]]
    if isinstance(layer, S4DConfig) and facts.rule is None:
        said.append(f"the discretisation {layer.rule}, as is its default (rule)")
    if facts.dt_transform is None:
        said.append("dt is the exponential of the stored step (dt_transform)")
    return tuple(said)
