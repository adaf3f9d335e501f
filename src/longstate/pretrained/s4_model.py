"""Whole models of the official S4 code: the SequenceModel of its train.py, with encoder and decoder or without."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from longstate._checks import InputError
from longstate.models import (
    BackboneConfig,
    BackbonePart,
    ClassifierConfig,
    ModelConfig,
    RegressorConfig,
    TaggerConfig,
    build,
    build_part,
)
from longstate.pretrained.checkpoint import Checkpoint, some
from longstate.pretrained.facts import Facts
from longstate.pretrained.renames import Rename, translate
from longstate.pretrained.s4_official import OfficialLayer, layers_in, read_layer

_PLACE = re.compile(r"(.*?)layers\.(\d+)\.layer\.(?:layer\.)?")
_ENCODERS = ("encoder.0.", "encoder.")
_DECODERS = ("decoder.0.output_transform.", "decoder.output_transform.", "decoder.0.", "decoder.")


class OfficialModel(NamedTuple):
    """A model that was read: what it is, its tensors by our names, and what was assumed about it."""

    title: str
    config: ModelConfig | BackbonePart
    tensors: dict[str, Tensor]
    assumed: tuple[str, ...]


def root_of(checkpoint: Checkpoint) -> str | None:
    """What the names of a SequenceModel begin with ("model.", ""); None if the checkpoint is none."""
    places = [_PLACE.fullmatch(at) for at in layers_in(checkpoint)]
    roots = {place[1] for place in places if place}
    if not places or None in places or len(roots) != 1:
        return None
    root = roots.pop()
    return root if any(name.startswith(f"{root}layers.0.norm.") for name in checkpoint.names) else None


def read_model(checkpoint: Checkpoint, root: str, facts: Facts) -> OfficialModel:
    """Read a SequenceModel and the linear encoder and decoder around it.

    Args:
        checkpoint: Where it is.
        root: What its names begin with, from `root_of`.
        facts: What the file does not say.

    Returns:
        A model's configuration and tensors; those of a backbone where there is no encoder.

    Raises:
        InputError: If a tensor is missing or misshapen, or the model is of a kind that longstate does not have.
    """
    outside = root.removesuffix("model.")
    encoder = _find(checkpoint, outside, _ENCODERS)
    decoder = _find(checkpoint, outside, _DECODERS)
    if (encoder is None) != (decoder is None):
        raise InputError(
            f"`{checkpoint.path}` has {'an encoder' if encoder else 'a decoder'} and no "
            f"{'decoder' if encoder else 'encoder'} around its layers, but both or neither are needed; "
            "take one layer with `layer=` (--layer)."
        )
    ours = "" if encoder is None else "backbone."
    layers = _read_layers(checkpoint, root, facts, ours)
    kind = _norm_kind(checkpoint, root)
    first = layers[0].config
    backbone = BackboneConfig(d_model=first.d_model, n_layers=len(layers), layer=first.layer, norm=kind, dropout=0.0)
    tensors = {
        f"{ours}layers.{number}.layer.{name}": tensor
        for number, layer in enumerate(layers)
        for name, tensor in layer.tensors.items()
    }
    if encoder is None or decoder is None:
        if facts.task or facts.names or facts.pooling:
            raise InputError(
                f"a task, names or a pooling were given, but `{checkpoint.path}` has no decoder; leave them out."
            )
        config, assumed = BackbonePart(backbone=backbone), ()
    else:
        config, assumed = _model_config(checkpoint, encoder, decoder, backbone, facts)
    wanted = (build_part(config) if isinstance(config, BackbonePart) else build(config)).state_dict()
    for number in range(len(layers)):
        place = f"layers.{number}.norm."
        tensors |= _read_norm(checkpoint, root + place, kind, wanted, ours + place)
    tensors |= _read_norm(checkpoint, f"{root}norm.", kind, wanted, f"{ours}norm.")
    if encoder is not None and decoder is not None:
        tensors |= _read_linear(checkpoint, encoder, wanted, "encoder.linear.")
        head = "head.linear." if isinstance(config, RegressorConfig) else "head."
        tensors |= _read_linear(checkpoint, decoder, wanted, head)
    return OfficialModel(f"{len(layers)} layers of {layers[0].title}", config, tensors, layers[0].assumed + assumed)


def _read_layers(checkpoint: Checkpoint, root: str, facts: Facts, ours: str) -> list[OfficialLayer]:
    numbers = {int(place[2]): place[0] for place in map(_PLACE.fullmatch, layers_in(checkpoint)) if place}
    if sorted(numbers) != list(range(len(numbers))):
        raise InputError(
            f"`{checkpoint.path}` has convolutions only in the layers {some(map(str, sorted(numbers)), 6)}, but a "
            "stack of equal layers is needed; take one of them with `layer=` (--layer)."
        )
    layers = [
        read_layer(checkpoint, numbers[number], facts, ours=f"{ours}layers.{number}.layer.")
        for number in sorted(numbers)
    ]
    different = next((number for number, layer in enumerate(layers) if layer.config != layers[0].config), None)
    if different is not None:
        raise InputError(
            f"`{checkpoint.path}` has a layer {different} that is not like layer 0 ({layers[different].config.layer}, "
            f"{layers[0].config.layer}), but longstate has stacks of equal layers; take one with `layer=` (--layer)."
        )
    if layers[0].config.two_sided or _bare(layers[0]):
        what = "reads both ways inside each convolution" if layers[0].config.two_sided else "has no output maps"
        raise InputError(
            f"`{checkpoint.path}` {what}, but longstate has this form for single layers only; take one with `layer=` "
            f"(--layer), such as {numbers[0]}"
        )
    return layers


def _bare(layer: OfficialLayer) -> bool:
    return not any(name.startswith("output.") for name in layer.tensors)


def _model_config(
    checkpoint: Checkpoint, encoder: str, decoder: str, backbone: BackboneConfig, facts: Facts
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The configuration around a backbone, and what of it was assumed."""
    weight = checkpoint.shape(f"{encoder}weight")
    if f"{encoder}bias" not in checkpoint or len(weight) != 2:
        raise InputError(
            f"`{checkpoint.path}` has an encoder of shape {weight} that is no linear map with a bias (an embedding of "
            "tokens, perhaps), but one is needed; take single layers with `layer=` (--layer)."
        )
    outputs = checkpoint.shape(f"{decoder}weight")[0]
    names = facts.names or tuple(str(number) for number in range(outputs))
    if len(names) != outputs:
        raise InputError(
            f"`names` are {len(names)}, but `{checkpoint.path}` has {outputs} outputs; give one name for each."
        )
    task, pooling, d_input = facts.task or "classifier", facts.pooling or "mean", weight[1]
    assumed = []
    if facts.task is None:
        assumed.append("a classifier of whole sequences (task)")
    if facts.names is None:
        assumed.append("outputs named by their numbers (names)")
    if facts.pooling is None and task != "tagger":
        assumed.append("the mean over all steps decides (pooling)")
    if task == "tagger":
        return TaggerConfig(d_input=d_input, classes=names, backbone=backbone), tuple(assumed)
    if task == "regressor":
        config = RegressorConfig(d_input=d_input, targets=names, backbone=backbone, pooling=pooling)
        return config, tuple(assumed)
    return ClassifierConfig(d_input=d_input, classes=names, backbone=backbone, pooling=pooling), tuple(assumed)


def _norm_kind(checkpoint: Checkpoint, root: str) -> Literal["layer", "batch"]:
    """The kind of the last norm. There is none in a model that normalises after its residuals."""
    names = [name for name in checkpoint.names if name.startswith(f"{root}norm.")]
    if not names:
        raise InputError(
            f"`{checkpoint.path}` has no norm after its last layer, so it normalises after every residual "
            "(prenorm=false), but longstate normalises before; take single layers with `layer=` (--layer)."
        )
    if f"{root}norm.norm.m" in names:
        raise InputError(
            f"`{checkpoint.path}` normalises with one scale and one shift for all features (transposed=true with "
            "norm=layer), but longstate has one for each; take single layers with `layer=` (--layer)."
        )
    return "batch" if f"{root}norm.norm.running_mean" in names else "layer"


def _read_norm(
    checkpoint: Checkpoint, place: str, kind: str, wanted: dict[str, Tensor], ours: str
) -> dict[str, Tensor]:
    inner = "norm.ln." if f"{place}norm.ln.weight" in checkpoint else "norm."
    own = ours if kind == "batch" else f"{ours}norm."
    parts = ("weight", "bias", "running_mean", "running_var") if kind == "batch" else ("weight", "bias")
    counter = f"{place}norm.num_batches_tracked"
    if kind == "batch" and counter in checkpoint:
        checkpoint.leave(counter, "counts batches; the averages are kept without it")
    return translate(checkpoint, [Rename(part, own + part) for part in parts], wanted, prefix=place + inner)


def _read_linear(checkpoint: Checkpoint, theirs: str, wanted: dict[str, Tensor], ours: str) -> dict[str, Tensor]:
    renames = [Rename(part, ours + part) for part in ("weight", "bias")]
    return translate(checkpoint, renames, wanted, prefix=theirs)


def _find(checkpoint: Checkpoint, outside: str, places: Sequence[str]) -> str | None:
    return next((outside + place for place in places if f"{outside}{place}weight" in checkpoint), None)
