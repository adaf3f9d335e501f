"""Vim's released classifiers (hustvl/Vim): their table of names, and what the shapes say of the model.

The facts are read in `vim/models_mamba.py` of that repository. A file says nothing of the size of images and the stride
of patches, only how many patches there are.
"""

import math
import re

from torch import Tensor

from longstate._checks import InputError
from longstate.models import MambaConfig, VimConfig
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.facts import Facts
from longstate.pretrained.image_model import (
    INPUT,
    OfficialImageModel,
    class_names,
    read_tensors,
    shape_of,
)
from longstate.pretrained.renames import Rename

_LAYER = re.compile(r"layers\.(\d+)\.mixer\.")
_SIZES = (224, 384, 256, 448, 512)
"""Usual sizes of images, the likeliest first."""


def is_vim(checkpoint: Checkpoint) -> bool:
    """Whether the names are those of a Vim that reads both ways."""
    return "layers.0.mixer.A_b_log" in checkpoint and "patch_embed.proj.weight" in checkpoint


def read_vim(checkpoint: Checkpoint, facts: Facts) -> OfficialImageModel:
    """Read a VisionMamba of the official code, with `bimamba_type="v2"`.

    Args:
        checkpoint: Where it is.
        facts: What the file does not say: the names of its classes.

    Returns:
        Its configuration and tensors.

    Raises:
        InputError: If a tensor is missing or misshapen, or the model is of a kind that longstate does not have.
    """
    for name, what in (("rope.freqs_cos", "turns its patches (if_rope)"), ("cls_token_head", "has two class tokens")):
        if name in checkpoint:
            raise InputError(
                f"`{checkpoint.path}` {what}, but longstate's Vim has learned positions and one class token or none; "
                "it cannot be converted."
            )
    classes, assumed = class_names(checkpoint, facts, "head.")
    patch = shape_of(checkpoint, "patch_embed.proj.weight", 4)
    positions = shape_of(checkpoint, "pos_embed", 3)
    has_token = "cls_token" in checkpoint
    size, stride = _image(checkpoint, positions[1] - has_token, patch[-1])
    config = VimConfig(
        classes=classes,
        d_input=patch[1],
        image_size=(size, size),
        patch_size=patch[-1],
        stride=None if stride == patch[-1] else stride,
        d_model=patch[0],
        n_layers=_count(checkpoint),
        layer=_mixer(checkpoint, patch[0]),
        pooling="middle_token" if has_token else "mean",
        norm="layer" if "norm_f.bias" in checkpoint else "rms",
        drop_path=0.0,
    )
    tensors = read_tensors(checkpoint, config, _table(config))
    assumed = (
        *assumed,
        f"images of {size} x {size} in patches {stride} apart",
        "the class token stands in the middle of the patches" if has_token else "the mean over the patches decides",
        "the sum of the two directions is halved (if_divide_out)",
        INPUT,
    )
    title = f"Vim of width {patch[0]}, {config.n_layers} blocks, d_state {config.layer.d_state}"
    return OfficialImageModel(title, config, tensors, assumed)


def _image(checkpoint: Checkpoint, patches: int, patch: int) -> tuple[int, int]:
    """Height and width of square images, and the stride, that make this number of patches."""
    grid = math.isqrt(patches)
    if patches < 1 or grid**2 != patches:
        raise InputError(
            f"`{checkpoint.path}` has positions for {patches} patches, but a square number is needed, as square images "
            "have; it cannot be converted."
        )
    for size in _SIZES:
        for stride in (patch, patch // 2):
            if stride and (size - patch) % stride == 0 and (size - patch) // stride + 1 == grid:
                return size, stride
    return grid * patch, patch


def _count(checkpoint: Checkpoint) -> int:
    """Blocks of the stack."""
    found = {int(match[1]) for match in map(_LAYER.match, checkpoint.names) if match}
    if found != set(range(len(found))):
        raise InputError(
            f"`{checkpoint.path}` has blocks of Vim with gaps between their numbers, but blocks counted from 0 are "
            "needed; copy the whole file again."
        )
    return len(found)


def _mixer(checkpoint: Checkpoint, d_model: int) -> MambaConfig:
    at = "layers.0.mixer."
    d_inner, rank = shape_of(checkpoint, f"{at}D", 1)[0], shape_of(checkpoint, f"{at}dt_proj.weight", 2)[-1]
    return MambaConfig(
        d_state=shape_of(checkpoint, f"{at}A_log", 2)[-1],
        d_conv=shape_of(checkpoint, f"{at}conv1d.weight", 3)[-1],
        expand=d_inner // d_model,
        dt_rank=None if rank == -(-d_model // 16) else rank,
        conv_bias=f"{at}conv1d.bias" in checkpoint,
        bias=f"{at}in_proj.bias" in checkpoint,
    )


def _table(config: VimConfig) -> list[Rename]:
    parts = ("weight", "bias") if config.norm == "layer" else ("weight",)
    own = "norm." if config.norm == "layer" else ""
    renames = [Rename(f"patch_embed.proj.{part}", f"body.patches.{part}") for part in ("weight", "bias")]
    renames.append(Rename("pos_embed", "body.positions", lambda x: x.squeeze(0)))
    if config.pooling != "mean":
        renames.append(Rename("cls_token", "body.token", _one_vector))
    for number in range(config.n_layers):
        theirs, ours = f"layers.{number}.", f"body.blocks.{number}."
        renames += [Rename(f"{theirs}norm.{part}", f"{ours}norm.{own}{part}") for part in parts]
        for name in ("in_proj", "out_proj"):
            for part in ("weight", "bias") if config.layer.bias else ("weight",):
                renames.append(Rename(f"{theirs}mixer.{name}.{part}", f"{ours}mixer.{name}.{part}"))
        for branch, suffix, A_log in (("forward", "", "A_log"), ("backward", "_b", "A_b_log")):
            renames += _branch(f"{theirs}mixer.", f"{ours}mixer.{branch}_branch.", suffix, A_log, config.layer)
    renames += [Rename(f"norm_f.{part}", f"body.norm.{own}{part}") for part in parts]
    return renames + [Rename(f"head.{part}", f"head.{part}") for part in ("weight", "bias")]


def _branch(theirs: str, ours: str, suffix: str, A_log: str, layer: MambaConfig) -> list[Rename]:
    """One direction; the names of the second have a suffix, but for its A."""
    renames = [
        Rename(f"{theirs}conv1d{suffix}.weight", f"{ours}conv_weight", lambda x: x.squeeze(1)),
        Rename(f"{theirs}x_proj{suffix}.weight", f"{ours}x_proj.weight"),
        Rename(f"{theirs}dt_proj{suffix}.weight", f"{ours}dt_proj.weight"),
        Rename(f"{theirs}dt_proj{suffix}.bias", f"{ours}dt_bias"),
        Rename(f"{theirs}{A_log}", f"{ours}A_log"),
        Rename(f"{theirs}D{suffix}", f"{ours}D"),
    ]
    return renames + ([Rename(f"{theirs}conv1d{suffix}.bias", f"{ours}conv_bias")] if layer.conv_bias else [])


def _one_vector(x: Tensor) -> Tensor:
    """(1, 1, D) as (D,)."""
    return x.flatten()
