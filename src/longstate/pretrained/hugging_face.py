"""Language models in folders of Hugging Face transformers, read and written back bit by bit."""

import dataclasses
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

from longstate._checks import InputError
from longstate.models import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModel,
    LanguageModelConfig,
    LayerConfig,
    Mamba2Config,
    MambaConfig,
    MixtureOfExpertsConfig,
    atomic,
    tensors,
)
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.hf_falcon_h1 import plan_falcon_h1
from longstate.pretrained.hf_hybrids import plan_bamba, plan_granite
from longstate.pretrained.hf_jamba import describe_jamba, plan_jamba
from longstate.pretrained.hf_mamba import describe_mamba, describe_mamba2, plan_mamba, plan_mamba2
from longstate.pretrained.hf_nemotron import plan_nemotron
from longstate.pretrained.pieces import scatter
from longstate.pretrained.plan import Plan
from longstate.pretrained.values import Values


class Architecture(NamedTuple):
    """How to read a `model_type`, and how to say that a model is one; None if it is only read."""

    plan: Callable[[Values, Collection[str] | None], Plan]
    describe: Callable[[LanguageModelConfig], dict[str, Any] | None] | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "mamba": Architecture(plan_mamba, describe_mamba),
    "falcon_mamba": Architecture(plan_mamba, describe_mamba),
    "mamba2": Architecture(plan_mamba2, describe_mamba2),
    "jamba": Architecture(plan_jamba, describe_jamba),
    "bamba": Architecture(plan_bamba),
    "falcon_h1": Architecture(plan_falcon_h1),
    "granitemoehybrid": Architecture(plan_granite),
    "nemotron_h": Architecture(plan_nemotron),
}
"""By `model_type`."""


def is_hugging_face(checkpoint: Checkpoint) -> bool:
    """Whether the configuration beside a checkpoint is one of transformers."""
    return isinstance(checkpoint.config.get("model_type"), str)


def plan_hugging_face(checkpoint: Checkpoint) -> Plan:
    """The plan of the model that the configuration beside a checkpoint describes.

    Raises:
        InputError: If its `model_type` is not one of those that longstate reads, or a value cannot be used.
    """
    values = Values(checkpoint.config_path, checkpoint.config)
    model_type = values.text("model_type")
    if model_type not in ARCHITECTURES:
        raise InputError(
            f"`{checkpoint.path}` is a model of type {model_type!r}, but longstate reads {', '.join(ARCHITECTURES)}; "
            "load it with transformers."
        )
    if "quantization_config" in values:
        raise InputError(
            f"`{checkpoint.path}` is quantised, but weights in float32, float16 or bfloat16 are needed; take the "
            "checkpoint that it was made of."
        )
    plan = ARCHITECTURES[model_type].plan(values, frozenset(checkpoint.names))
    size = plan.config.vocabulary_size
    end_ids = tuple(token for token in values.integers("eos_token_id") if token < size)
    return plan._replace(config=dataclasses.replace(plan.config, end_ids=end_ids))


def save_hugging_face(model: LanguageModel, folder: str | Path) -> None:
    """Write a language model as transformers reads it: `config.json` and `model.safetensors`.

    A model that `load` read from such a folder gives its tensors back with the same names, shapes, types and bits.

    Args:
        model: Mamba, FalconMamba, Mamba-2 or Jamba, by its layers.
        folder: Made if needed; a model in it is replaced.

    Raises:
        InputError: If transformers has no model with these layers, or the system refuses to write.

    Example:
        >>> import tempfile
        >>> from longstate import LanguageModel, pretrained
        >>> from longstate.models import BackboneConfig, LanguageModelConfig, MambaConfig
        >>> backbone = BackboneConfig(d_model=8, n_layers=2, layer=MambaConfig(), norm="rms")
        >>> model = LanguageModel(LanguageModelConfig(backbone=backbone))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pretrained.save_hugging_face(model, folder)
        ...     pretrained.convert(folder).source
        'Hugging Face transformers: Mamba'
    """
    description, plan = _described(model.config)
    description["dtype"] = str(model.embedding.weight.dtype).removeprefix("torch.")
    if model.config.end_ids:
        description["eos_token_id"] = list(model.config.end_ids)
        if len(model.config.end_ids) == 1:
            description["eos_token_id"] = model.config.end_ids[0]
    weights = tensors.parts(scatter(model.state_dict(), plan.pieces), {"format": "pt"})
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise atomic.refused(folder, error) from error
    atomic.write(folder / "config.json", (json.dumps(description, indent=2) + "\n").encode())
    atomic.write(folder / "model.safetensors", weights)


def _described(config: LanguageModelConfig) -> tuple[dict[str, Any], Plan]:
    """The configuration of transformers that means exactly this model."""
    for architecture in dict.fromkeys(ARCHITECTURES.values()):
        description = architecture.describe(config) if architecture.describe else None
        if description is None:
            continue
        # JSON there and back, as whoever reads the file has it.
        plan = architecture.plan(Values(Path("config.json"), json.loads(json.dumps(description))), None)
        if _meaning(plan.config) == _meaning(config):
            return description, plan
    kinds = ", ".join(dict.fromkeys(layer.kind for layer in config.backbone.schedule))
    written = ", ".join(name for name, architecture in ARCHITECTURES.items() if architecture.describe)
    raise InputError(
        f"`model` has the layers {kinds} in a form that is none of {written}, but one of these is needed for "
        "transformers; keep it with `longstate.save`."
    )


def _meaning(config: LanguageModelConfig) -> tuple[Any, ...]:
    """What of a configuration changes the numbers of a model, defaults written out."""
    stack = config.backbone
    layers = tuple(_resolved(layer, stack.d_model) for layer in stack.schedule)
    scales = (config.embedding_scale, config.logit_scale, stack.branch_scale)
    sums = (stack.norm, stack.norm_eps, stack.float32_residual)
    return config.rows, config.tie_head, stack.d_model, *sums, *scales, layers


def _resolved(layer: LayerConfig, d_model: int) -> LayerConfig:
    if isinstance(layer, MambaConfig):
        rank = -(-d_model // 16) if layer.dt_rank is None else layer.dt_rank
        eps = layer.norm_eps if layer.inner_norm != "none" else 0.0
        return dataclasses.replace(layer, dt_rank=rank, norm_eps=eps, dt_min=1e-3, dt_max=1e-1)
    if isinstance(layer, Mamba2Config):
        d_inner = layer.expand * d_model if layer.d_inner is None else layer.d_inner
        d_ssm = d_inner if layer.d_ssm is None else layer.d_ssm
        eps = layer.norm_eps if layer.gate != "none" else 0.0
        drawn = {"dt_min": 1e-3, "dt_max": 1e-1, "A_min": 1.0, "A_max": 16.0}
        return dataclasses.replace(layer, expand=1, d_inner=d_inner, d_ssm=d_ssm, norm_eps=eps, **drawn)
    if isinstance(layer, AttentionConfig):
        n_kv_heads = layer.n_heads if layer.n_kv_heads is None else layer.n_kv_heads
        head_dim = d_model // layer.n_heads if layer.head_dim is None else layer.head_dim
        return dataclasses.replace(layer, n_kv_heads=n_kv_heads, head_dim=head_dim)
    if isinstance(layer, FeedForwardConfig | MixtureOfExpertsConfig):
        layer = dataclasses.replace(layer, d_inner=4 * d_model if layer.d_inner is None else layer.d_inner)
    return dataclasses.replace(layer, dropout=0.0) if isinstance(layer, FeedForwardConfig) else layer
