"""VMamba's released classifiers (MzeroMiko/VMamba): their tables of names, and what the shapes say of the model.

The facts are read in `classification/models/vmamba.py` of that repository. Files of its first months have other names
(`patch_embed.proj`, `ln_1`, `self_attention`, `head`), which its own loader renames; both are read here.
"""

import re
from typing import Literal

from torch import Tensor

from longstate._checks import InputError
from longstate.models import SelectiveScan2dConfig, VMambaConfig
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.facts import Facts
from longstate.pretrained.image_model import (
    INPUT,
    OfficialImageModel,
    class_names,
    flattened,
    read_tensors,
    shape_of,
)
from longstate.pretrained.renames import Rename

_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")
_OLD = {"op.": "self_attention.", "norm.": "ln_1."}
"""Parts of a block in the first files."""


def is_vmamba(checkpoint: Checkpoint) -> bool:
    """Whether the names are those of a VMamba with whole blocks."""
    return any(f"layers.0.blocks.0.{op}x_proj_weight" in checkpoint for op in ("op.", _OLD["op."]))


def read_vmamba(checkpoint: Checkpoint, facts: Facts) -> OfficialImageModel:
    """Read a VSSM of the official code.

    Args:
        checkpoint: Where it is.
        facts: What the file does not say: the names of its classes.

    Returns:
        Its configuration and tensors.

    Raises:
        InputError: If a tensor is missing or misshapen, or the model is of a kind that longstate does not have.
    """
    if any(name.endswith("running_mean") for name in checkpoint.names):
        raise InputError(
            f"`{checkpoint.path}` normalises by statistics of batches (norm_layer=bn), but longstate's VMamba has "
            "layer norms; take a model with norm_layer=ln or ln2d."
        )
    is_old = "layers.0.blocks.0.self_attention.x_proj_weight" in checkpoint
    op, norm = (_OLD[part] if is_old else part for part in ("op.", "norm."))
    depths = _depths(checkpoint)
    places = [f"layers.{stage}.blocks." for stage in range(len(depths))]
    dims = tuple(shape_of(checkpoint, f"{place}0.{norm}weight", 1)[0] for place in places)
    head, last_norm = ("head.", "norm.") if "head.weight" in checkpoint else ("classifier.head.", "classifier.norm.")
    classes, assumed = class_names(checkpoint, facts, head)
    layer, gate_assumed = _layer(checkpoint, [f"{place}0.{op}" for place in places], dims)
    has_mlp = "layers.0.blocks.0.mlp.fc1.weight" in checkpoint
    patches = {"patch_embed.0.": "patch_embed.proj.", "patch_embed.2.": "patch_embed.norm."}
    first, second = (old if f"{old}weight" in checkpoint else new for new, old in patches.items())
    patch = shape_of(checkpoint, f"{first}weight", 4)
    embedding = "convolutions" if "patch_embed.5.weight" in checkpoint else "patches"
    config = VMambaConfig(
        classes=classes,
        d_input=patch[1],
        dims=dims,
        depths=depths,
        layer=layer,
        patch_embedding=embedding,
        patch_size=4 if embedding == "convolutions" else patch[-1],
        downsampling=_downsampling(checkpoint, len(depths)),
        mlp_ratio=shape_of(checkpoint, "layers.0.blocks.0.mlp.fc1.weight", 2, 4)[0] / dims[0] if has_mlp else 0.0,
        drop_path=0.0,
    )
    renames = [*_patch_renames(config, first, second), *_downsampling_renames(config)]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"{places[stage]}{block}.", f"body.stages.{stage}.{block}."
            renames += [*_pair(f"{theirs}{norm}", f"{ours}norm.norm."), *_scan(layer, f"{theirs}{op}", f"{ours}mixer.")]
            renames += _mlp(theirs, ours) if has_mlp else ()
    renames += [*_pair(last_norm, "body.norm.norm."), *_pair(head, "head.")]
    tensors = read_tensors(checkpoint, config, renames)
    widths = f"widths {', '.join(map(str, dims))}, {', '.join(map(str, depths))} blocks, d_state {layer.d_state}"
    return OfficialImageModel(f"VMamba of {widths}", config, tensors, (*assumed, *gate_assumed, INPUT))


def _depths(checkpoint: Checkpoint) -> tuple[int, ...]:
    """Blocks of every stage."""
    found = {(int(match[1]), int(match[2])) for match in map(_BLOCK.match, checkpoint.names) if match}
    stages = max(stage for stage, _ in found) + 1
    depths = tuple(sum(stage == one for stage, _ in found) for one in range(stages))
    if found != {(stage, block) for stage, depth in enumerate(depths) for block in range(depth)} or 0 in depths:
        raise InputError(
            f"`{checkpoint.path}` has blocks of VMamba with gaps between their numbers, but stages of blocks counted "
            "from 0 are needed; copy the whole file again."
        )
    return depths


def _layer(
    checkpoint: Checkpoint, places: list[str], dims: tuple[int, ...]
) -> tuple[SelectiveScan2dConfig, tuple[str, ...]]:
    """What the scans are, from the first of every stage, and what was assumed about them."""
    at = places[0]
    d_inner = shape_of(checkpoint, f"{at}x_proj_weight", 3)[-1]
    ranks = tuple(shape_of(checkpoint, f"{place}dt_projs_weight", 3)[-1] for place in places)
    usual = ranks == tuple(-(-dim // 16) for dim in dims)
    norm = checkpoint.shape(f"{at}out_norm.weight") if f"{at}out_norm.weight" in checkpoint else None
    if norm is not None and len(norm) != 1:
        raise InputError(
            f"`{checkpoint.path}` has {at}out_norm of shape {norm}, a convolution after the scans, but longstate has a "
            "layer norm there or nothing; it cannot be converted."
        )
    is_gated = shape_of(checkpoint, f"{at}in_proj.weight", 2, 4)[0] == 2 * d_inner
    assumed = ["the gate z goes through SiLU"] if is_gated else []
    if norm is None:
        assumed.append("nothing stands after the sum of the directions")
    convolution = f"{at}conv2d.weight"
    layer = SelectiveScan2dConfig(
        d_state=shape_of(checkpoint, f"{at}A_logs", 2)[-1],
        expand=d_inner / dims[0],
        dt_rank=None if usual else ranks[0],
        d_conv=shape_of(checkpoint, convolution, 4)[-1] if convolution in checkpoint else 1,
        conv_bias=f"{at}conv2d.bias" in checkpoint,
        gate="silu" if is_gated else "none",
        norm="none" if norm is None else "layer",
        bias=f"{at}in_proj.bias" in checkpoint,
    )
    return layer, tuple(assumed)


def _downsampling(checkpoint: Checkpoint, stages: int) -> Literal["convolutions", "patches", "merging"]:
    if stages == 1 or "layers.0.downsample.reduction.weight" in checkpoint:
        return "convolutions" if stages == 1 else "merging"
    return "convolutions" if shape_of(checkpoint, "layers.0.downsample.1.weight", 4)[-1] == 3 else "patches"


def _patch_renames(config: VMambaConfig, first: str, second: str) -> list[Rename]:
    ours = "body.patches.layers."
    renames = [*_pair(first, f"{ours}0."), *_pair(second, f"{ours}1.norm.")]
    if config.patch_embedding == "convolutions":
        renames += [*_pair("patch_embed.5.", f"{ours}3."), *_pair("patch_embed.7.", f"{ours}4.norm.")]
    return renames


def _downsampling_renames(config: VMambaConfig) -> list[Rename]:
    renames = []
    for stage in range(len(config.dims) - 1):
        theirs, ours = f"layers.{stage}.downsample.", f"body.downsamplings.{stage}."
        if config.downsampling == "merging":
            renames.append(Rename(f"{theirs}reduction.weight", f"{ours}reduction.weight"))
            renames += _pair(f"{theirs}norm.", f"{ours}norm.norm.")
        else:
            renames += [*_pair(f"{theirs}1.", f"{ours}reduction."), *_pair(f"{theirs}3.", f"{ours}norm.norm.")]
    return renames


def _scan(layer: SelectiveScan2dConfig, theirs: str, ours: str) -> list[Rename]:
    """One layer of scans; A and D of the four directions are one long axis there."""
    names = {"x_proj": "x_proj_weight", "dt_proj": "dt_projs_weight", "dt_bias": "dt_projs_bias"}
    renames = [Rename(theirs + name, ours + own) for own, name in names.items()]
    renames += [Rename(theirs + name, ours + own, _by_direction) for own, name in (("A_log", "A_logs"), ("D", "Ds"))]
    for name in ("in_proj", "out_proj"):
        renames.append(Rename(f"{theirs}{name}.weight", f"{ours}{name}.weight", flattened))
        renames += [Rename(f"{theirs}{name}.bias", f"{ours}{name}.bias")] if layer.bias else []
    if layer.d_conv > 1:
        renames.append(Rename(f"{theirs}conv2d.weight", f"{ours}conv.weight"))
        renames += [Rename(f"{theirs}conv2d.bias", f"{ours}conv.bias")] if layer.conv_bias else []
    return renames + (_pair(f"{theirs}out_norm.", f"{ours}norm.norm.") if layer.norm == "layer" else [])


def _by_direction(x: Tensor) -> Tensor:
    """(4 E, ...) as (4, E, ...); left as it is if it is something else, for the check of shapes to name it."""
    return x.unflatten(0, (4, -1)) if x.dim() > 0 and len(x) % 4 == 0 else x


def _mlp(theirs: str, ours: str) -> list[Rename]:
    renames = _pair(f"{theirs}norm2.", f"{ours}mlp_norm.norm.")
    for name, own in (("fc1", "in_proj"), ("fc2", "out_proj")):
        renames.append(Rename(f"{theirs}mlp.{name}.weight", f"{ours}mlp.{own}.weight", flattened))
        renames.append(Rename(f"{theirs}mlp.{name}.bias", f"{ours}mlp.{own}.bias"))
    return renames


def _pair(theirs: str, ours: str) -> list[Rename]:
    return [Rename(theirs + part, ours + part) for part in ("weight", "bias")]
