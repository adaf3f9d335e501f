"""From somebody's checkpoint to a layer or a model of longstate: who knows the format reads it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch

from longstate import models
from longstate._checks import InputError
from longstate.layers import SequenceLayer
from longstate.models import (
    BackbonePart,
    ImageClassifier,
    ImageConfig,
    LanguageModel,
    LanguageModelConfig,
    LayerPart,
    ModelConfig,
    PartConfig,
    atomic,
)
from longstate.pretrained.checkpoint import Checkpoint, Left, Used, some
from longstate.pretrained.facts import Facts
from longstate.pretrained.files import open_checkpoint
from longstate.pretrained.hugging_face import is_hugging_face, plan_hugging_face
from longstate.pretrained.image_model import OfficialImageModel
from longstate.pretrained.plan import Plan, build
from longstate.pretrained.s4_model import read_model, root_of
from longstate.pretrained.s4_official import layers_in, read_layer
from longstate.pretrained.state_spaces import is_mistral, is_state_spaces, plan_mistral, plan_state_spaces
from longstate.pretrained.vim import is_vim, read_vim
from longstate.pretrained.vmamba import is_vmamba, read_vmamba

TOKENIZER = "tokenizer.json"
"""Of Hugging Face's tokenizers; it is kept beside a model."""

Anything: TypeAlias = models.Model | LanguageModel | SequenceLayer | ImageClassifier
AnyConfig: TypeAlias = ModelConfig | LanguageModelConfig | PartConfig | ImageConfig


class Converted(NamedTuple):
    """A checkpoint as longstate has it, and where everything in it went.

    Args:
        model: The layer or model, in `eval()` mode, of the type the checkpoint has.
        config: What it is.
        source: What was recognised.
        used: Every tensor that was taken, and its name here.
        left: Every tensor that was knowingly not needed.
        assumed: What the file does not say, and how it was taken.
        tokenizer: The tokenizer's file that stands beside the checkpoint, if there is one.
    """

    model: Anything
    config: AnyConfig
    source: str
    used: tuple[Used, ...]
    left: tuple[Left, ...]
    assumed: tuple[str, ...]
    tokenizer: Path | None = None


class Read(NamedTuple):
    """What a reader makes of a checkpoint; `convert` adds the account of its tensors."""

    model: Anything
    config: AnyConfig
    title: str
    assumed: tuple[str, ...] = ()
    tokenizer: Path | None = None


class Source(NamedTuple):
    """A family of checkpoints: its name, how it is recognised by names and shapes, and who reads it.

    A reader is told the type that the parameters shall have, or None for that of the file.
    """

    name: str
    recognises: Callable[[Checkpoint], bool]
    read: Callable[[Checkpoint, Facts, torch.dtype | None], Read]


def _is_model(checkpoint: Checkpoint) -> bool:
    return root_of(checkpoint) is not None


def _model(checkpoint: Checkpoint, facts: Facts, dtype: torch.dtype | None) -> Read:
    found = read_model(checkpoint, root_of(checkpoint) or "", facts)
    config = found.config
    model = models.build_part(config) if isinstance(config, BackbonePart) else models.build(config)
    model.load_state_dict(found.tensors, assign=True)
    return Read(model.eval().to(dtype=dtype), config, found.title, found.assumed)


def _is_layer(checkpoint: Checkpoint) -> bool:
    return bool(layers_in(checkpoint))


def _layer(checkpoint: Checkpoint, facts: Facts, dtype: torch.dtype | None) -> Read:
    places = layers_in(checkpoint)
    if len(places) > 1:
        raise InputError(
            f"`{checkpoint.path}` holds {len(places)} layers ({some(places, 3)}) in no model that longstate knows, but "
            f"one is needed; take it with `layer=` (--layer), such as {places[0]}"
        )
    if facts.task or facts.names or facts.pooling:
        raise InputError(
            f"a task, names or a pooling were given, but `{checkpoint.path}` holds a layer, which has none; "
            "leave them out."
        )
    found = read_layer(checkpoint, places[0], facts)
    return Read(found.build().to(dtype=dtype), found.config, found.title, found.assumed)


def _language_model(
    plan_of: Callable[[Checkpoint], Plan],
) -> Callable[[Checkpoint, Facts, torch.dtype | None], Read]:
    def read(checkpoint: Checkpoint, facts: Facts, dtype: torch.dtype | None) -> Read:
        if facts != Facts():
            raise InputError(
                f"facts about a checkpoint were given, but the configuration of `{checkpoint.path}` says all that is "
                "needed of a language model; leave them out."
            )
        plan = plan_of(checkpoint)
        tokenizer = checkpoint.config_path.with_name(TOKENIZER)
        if tokenizer.is_file():
            plan = plan._replace(config=dataclasses.replace(plan.config, tokenizer=TOKENIZER))
        model = build(checkpoint, plan, dtype)
        return Read(model, plan.config, plan.title, plan.assumed, tokenizer if tokenizer.is_file() else None)

    return read


def _image_model(
    reader: Callable[[Checkpoint, Facts], OfficialImageModel],
) -> Callable[[Checkpoint, Facts, torch.dtype | None], Read]:
    def read(checkpoint: Checkpoint, facts: Facts, dtype: torch.dtype | None) -> Read:
        found = reader(checkpoint, facts)
        return Read(found.build().to(dtype=dtype), found.config, found.title, found.assumed)

    return read


SOURCES: tuple[Source, ...] = (
    Source("Mistral's Codestral-Mamba", is_mistral, _language_model(plan_mistral)),
    Source("Hugging Face transformers", is_hugging_face, _language_model(plan_hugging_face)),
    Source("state-spaces/mamba", is_state_spaces, _language_model(plan_state_spaces)),
    Source("MzeroMiko/VMamba", is_vmamba, _image_model(read_vmamba)),
    Source("hustvl/Vim", is_vim, _image_model(read_vim)),
    Source("state-spaces/s4, a SequenceModel", _is_model, _model),
    Source("state-spaces/s4, a layer", _is_layer, _layer),
)
"""Asked in this order; the first that recognises a checkpoint reads it."""


def convert(
    path: str | Path, *, layer: str | None = None, facts: Facts | None = None, dtype: torch.dtype | None = None
) -> Converted:
    """Read a published checkpoint, with an account of every tensor in it.

    The weights of a language model stay mapped to the file: they are read when they are used.

    Args:
        path: A .safetensors, .pt, .pth, .ckpt or .bin file, an index of shards, or a folder with one of these.
        layer: Take only the tensors whose names begin so: one layer of a model that cannot be converted whole.
        facts: What the file does not say.
        dtype: Type of the parameters; as in the file if None.

    Returns:
        The layer or model, and where every tensor went.

    Raises:
        InputError: If the file cannot be read, is of no known architecture, lacks a tensor, has one too many or of
            another shape, or contradicts itself or its configuration. A pickle that holds more than tensors is not
            opened.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from longstate.pretrained import convert
        >>> state_dict = {
        ...     "D": torch.ones(4),
        ...     "kernel.log_dt": torch.full((4,), -3.0),
        ...     "kernel.log_A_real": torch.zeros(4, 8),
        ...     "kernel.A_imag": torch.arange(8.0).repeat(4, 1),
        ...     "kernel.C": torch.randn(4, 8, 2),
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save(state_dict, f"{folder}/s4d.pt")
        ...     converted = convert(f"{folder}/s4d.pt")
        >>> converted.source, type(converted.model).__name__, converted.used[0].ours
        ('state-spaces/s4, a layer: S4D, the minimal file', 'S4D', 'log_dt')
    """
    checkpoint = open_checkpoint(path)
    if layer is not None:
        checkpoint = checkpoint.within(layer if layer.endswith(".") or not layer else f"{layer}.")
    source = next((source for source in SOURCES if source.recognises(checkpoint)), None)
    if source is None:
        known = "; ".join(source.name for source in SOURCES)
        raise InputError(
            f"`{checkpoint.path}` holds {some(checkpoint.names, 3)}, which is no checkpoint that longstate knows "
            f"({known}); check the file, or take one layer of it with `layer=` (--layer)."
        )
    read = source.read(checkpoint, Facts() if facts is None else facts, dtype)
    checkpoint.check_all_used(f"{source.name}: {read.title}")
    title = f"{source.name}: {read.title}"
    return Converted(read.model, read.config, title, checkpoint.used, checkpoint.left, read.assumed, read.tokenizer)


def load(
    path: str | Path, *, layer: str | None = None, facts: Facts | None = None, dtype: torch.dtype | None = None
) -> Anything:
    """The layer or model in a published checkpoint, in `eval()` mode: `convert` without its account.

    Args:
        path: As of `convert`.
        layer: As of `convert`.
        facts: As of `convert`.
        dtype: As of `convert`.

    Returns:
        An `S4`, `S4D`, `layers.TwoSided`, `Backbone`, a model, a `LanguageModel` or an `ImageClassifier`.

    Raises:
        InputError: As `convert`.
    """
    return convert(path, layer=layer, facts=facts, dtype=dtype).model


def save(converted: Converted, folder: str | Path) -> None:
    """Save what was converted, so that `longstate.load(folder)` has it; a tokenizer's file beside it.

    Args:
        converted: From `convert`.
        folder: As of `models.save`.

    Raises:
        InputError: If the system refuses to write.
    """
    config = converted.config
    if isinstance(config, LayerPart | BackbonePart) and isinstance(converted.model, SequenceLayer):
        models.save_part(converted.model, config, folder)
    elif isinstance(converted.model, models.Model | LanguageModel | ImageClassifier):
        models.save(converted.model, folder)
    if converted.tokenizer is not None:
        atomic.write(Path(folder) / TOKENIZER, converted.tokenizer.read_bytes())
