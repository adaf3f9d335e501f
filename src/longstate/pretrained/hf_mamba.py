"""Mamba, FalconMamba and Mamba-2 as transformers names and configures them."""

import math
from collections.abc import Collection
from typing import Any

from longstate.models import LanguageModelConfig, Mamba2Config, MambaConfig
from longstate.pretrained.mixers import MIXER, NORM, mamba2_pieces, mamba_pieces
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, backbone, count
from longstate.pretrained.values import Values

_SILU = ("silu", "swish")


def plan_mamba(values: Values, names: Collection[str] | None) -> Plan:
    """MambaForCausalLM, and FalconMambaForCausalLM with its norms of r, B and C."""
    d_model, expand = values.integer("hidden_size"), values.integer("expand", default=2)
    if "intermediate_size" in values and values.integer("intermediate_size") != expand * d_model:
        raise values.contradiction("intermediate_size", f"expand times hidden_size, {expand * d_model},")
    is_falcon = values.text("model_type") == "falcon_mamba"
    layer = MambaConfig(
        d_state=values.integer("state_size", default=16),
        d_conv=values.integer("conv_kernel", default=4),
        expand=expand,
        dt_rank=rank(values, "time_step_rank", d_model),
        dt_min=values.number("time_step_min", default=1e-3),
        dt_max=values.number("time_step_max", default=1e-1),
        conv_bias=values.boolean("use_conv_bias", default=True),
        bias=values.boolean("use_bias", default=False),
        inner_norm="fixed" if is_falcon else "none",
        norm_eps=values.number("mixer_rms_eps", default=1e-6) if is_falcon else 1e-6,
    )
    title = "FalconMamba" if is_falcon else "Mamba"
    return _plan(values, names, title, layer, d_model, tied=values.boolean("tie_word_embeddings", default=True))


def plan_mamba2(values: Values, names: Collection[str] | None) -> Plan:
    """Mamba2ForCausalLM."""
    d_model, expand = values.integer("hidden_size"), values.integer("expand", default=2)
    heads, head_dim = values.integer("num_heads", default=128), values.integer("head_dim", default=64)
    if heads * head_dim != expand * d_model:
        raise values.contradiction("num_heads", f"expand hidden_size / head_dim, {expand * d_model / head_dim:g},")
    floor, ceiling = values.interval("time_step_limit", default=(0.0, math.inf))
    layer = Mamba2Config(
        d_state=values.integer("state_size", default=128),
        d_conv=values.integer("conv_kernel", default=4),
        expand=expand,
        head_dim=head_dim,
        n_groups=values.integer("n_groups", default=8),
        dt_min=values.number("time_step_min", default=1e-3),
        dt_max=values.number("time_step_max", default=1e-1),
        dt_floor=floor,
        dt_ceiling=ceiling,
        norm_eps=values.number("layer_norm_epsilon", default=1e-5),
        conv_bias=values.boolean("use_conv_bias", default=True),
        bias=values.boolean("use_bias", default=False),
    )
    return _plan(values, names, "Mamba-2", layer, d_model, tied=values.boolean("tie_word_embeddings", default=False))


def describe_mamba(config: LanguageModelConfig) -> dict[str, Any] | None:
    """The configuration of MambaForCausalLM or FalconMambaForCausalLM, if a model is one."""
    layer = config.backbone.schedule[0]
    if not isinstance(layer, MambaConfig) or layer.inner_norm == "weighted":
        return None
    is_falcon = layer.inner_norm == "fixed"
    d_model = config.backbone.d_model
    return {
        "architectures": ["FalconMambaForCausalLM" if is_falcon else "MambaForCausalLM"],
        "model_type": "falcon_mamba" if is_falcon else "mamba",
        **_described(config, layer),
        "intermediate_size": layer.expand * d_model,
        "time_step_rank": -(-d_model // 16) if layer.dt_rank is None else layer.dt_rank,
        **({"mixer_rms_eps": layer.norm_eps} if is_falcon else {}),
    }


def describe_mamba2(config: LanguageModelConfig) -> dict[str, Any] | None:
    """The configuration of Mamba2ForCausalLM, if a model is one."""
    layer = config.backbone.schedule[0]
    if not isinstance(layer, Mamba2Config):
        return None
    return {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        **_described(config, layer),
        "num_heads": layer.expand * config.backbone.d_model // layer.head_dim,
        "head_dim": layer.head_dim,
        "n_groups": layer.n_groups,
        "time_step_limit": [layer.dt_floor, upper_limit(layer.dt_ceiling)],
    }


def rank(values: Values, name: str, d_model: int) -> int:
    """The width of the map that makes the steps: a number, or "auto" for d_model / 16, rounded up."""
    is_auto = name not in values or values.is_text(name, "auto")
    return -(-d_model // 16) if is_auto else values.integer(name)


def upper_limit(ceiling: float | None) -> Any:
    """A limit as transformers 5 writes it: JSON has no infinity."""
    return {"__float__": "Infinity"} if ceiling is None else ceiling


def _plan(
    values: Values,
    names: Collection[str] | None,
    title: str,
    layer: MambaConfig | Mamba2Config,
    d_model: int,
    *,
    tied: bool,
) -> Plan:
    values.expect("hidden_act", *_SILU)
    n_layers = count(values, "num_hidden_layers", names)
    config = LanguageModelConfig(
        vocabulary_size=values.integer("vocab_size"),
        backbone=backbone(
            [layer] * n_layers,
            d_model=d_model,
            norm="rms",
            norm_eps=values.number("layer_norm_epsilon", default=1e-5),
            float32_residual=values.boolean("residual_in_fp32", default=True),
        ),
        tie_head=tied,
        tokenizer=None,
    )
    # transformers renames the embeddings of the original format in a hook, so both names are about.
    names = () if names is None else names
    singular = "backbone.embedding.weight" in names and "backbone.embeddings.weight" not in names
    pieces = [Piece(f"backbone.embedding{'' if singular else 's'}.weight", "embedding.weight")]
    for i in range(n_layers):
        theirs = f"backbone.layers.{i}."
        pieces.append(Piece(f"{theirs}norm.weight", f"{NORM.format(i)}weight"))
        if isinstance(layer, MambaConfig):
            pieces += mamba_pieces(layer, f"{theirs}mixer.", MIXER.format(i))
        else:
            pieces += mamba2_pieces(layer, f"{theirs}mixer.", MIXER.format(i))
    pieces.append(Piece("backbone.norm_f.weight", "backbone.norm.weight"))
    if not tied:
        pieces.append(Piece("lm_head.weight", "head.weight"))
    doubles = (("lm_head.weight", "embedding.weight"),) if tied else ()
    return Plan(title, config, tuple(pieces), doubles)


def _described(config: LanguageModelConfig, layer: MambaConfig | Mamba2Config) -> dict[str, Any]:
    stack = config.backbone
    return {
        "vocab_size": config.rows,
        "hidden_size": stack.d_model,
        "num_hidden_layers": len(stack.schedule),
        "state_size": layer.d_state,
        "conv_kernel": layer.d_conv,
        "expand": layer.expand,
        "use_conv_bias": layer.conv_bias,
        "use_bias": layer.bias,
        "hidden_act": "silu",
        "layer_norm_epsilon": stack.norm_eps,
        "residual_in_fp32": stack.float32_residual,
        "time_step_min": layer.dt_min,
        "time_step_max": layer.dt_max,
        "tie_word_embeddings": config.tie_head,
    }
