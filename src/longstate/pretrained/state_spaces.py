"""Language models of the official Mamba code, state-spaces/mamba, and of Mistral, which wraps them."""

import math
from collections.abc import Collection
from typing import Any

from longstate._checks import InputError
from longstate.models import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    LayerConfig,
    Mamba2Config,
    Mamba3Config,
    MambaConfig,
)
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.hf_mamba import rank
from longstate.pretrained.mixers import MIXER, NORM, mamba2_pieces, mamba3_pieces, mamba_pieces, packed_attention_pieces
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, backbone, count
from longstate.pretrained.values import Values

_WIDTHS = 128  # the feed-forward's inner width is rounded up to a multiple of this
_OF_MODEL = (
    *("d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg", "attn_layer_idx", "attn_cfg", "rms_norm"),
    *("residual_in_fp32", "fused_add_norm", "pad_vocab_size_multiple", "tie_embeddings"),
    *("architectures", "dtype", "torch_dtype", "transformers_version"),  # of no meaning there
)
_IN_TRAINING = ("dt_min", "dt_max", "dt_init_floor", "chunk_size", "use_mem_eff_path", "layer", "device", "dtype")
_OF_MAMBA = (
    *("d_state", "d_conv", "expand", "dt_rank", "dt_init", "dt_scale", "conv_bias", "bias", "use_fast_path"),
    *_IN_TRAINING,
)
_OF_MAMBA2 = (
    *("d_state", "d_conv", "expand", "headdim", "d_ssm", "ngroups", "A_init_range", "D_has_hdim", "rmsnorm"),
    *("norm_before_gate", "dt_limit", "bias", "conv_bias", "conv_init", *_IN_TRAINING),
)
_OF_MAMBA3 = (
    *("d_state", "expand", "headdim", "ngroups", "rope_fraction", "A_floor", "is_outproj_norm", "is_mimo"),
    *("mimo_rank", "dropout", *_IN_TRAINING),
)
_OF_ATTENTION = (
    *("num_heads", "num_heads_kv", "head_dim", "mlp_dim", "qkv_proj_bias", "out_proj_bias", "softmax_scale", "causal"),
    *("d_conv", "rotary_emb_dim", "rotary_emb_base", "rotary_emb_interleaved"),
)


def is_state_spaces(checkpoint: Checkpoint) -> bool:
    """Whether the configuration beside a checkpoint is one of the official Mamba code."""
    return "model_type" not in checkpoint.config and {"d_model", "n_layer"} <= checkpoint.config.keys()


def is_mistral(checkpoint: Checkpoint) -> bool:
    """Whether it is Mistral's: the official code under other names, in `params.json`."""
    return {"dim", "n_layers"} <= checkpoint.config.keys()


def plan_state_spaces(checkpoint: Checkpoint) -> Plan:
    """The plan of a MambaLMHeadModel: Mamba, Mamba-2 or Mamba-3, with attention and feed-forwards where there are some.

    Raises:
        InputError: If a value cannot be used, or means something that longstate does not have.
    """
    return _plan(Values(checkpoint.config_path, checkpoint.config), frozenset(checkpoint.names), "")


def plan_mistral(checkpoint: Checkpoint) -> Plan:
    """The plan of a Codestral-Mamba: Mamba-2 in the official code, every name behind "model.".

    Raises:
        InputError: If it is another model of Mistral, or a value cannot be used.
    """
    values = Values(checkpoint.config_path, checkpoint.config)
    values.expect("model_type", "mamba")
    values.expect("n_heads")  # a transformer has it
    official: dict[str, Any] = {
        "d_model": values.integer("dim"),
        "n_layer": values.integer("n_layers"),
        "vocab_size": values.integer("vocab_size"),
        "ssm_cfg": {"layer": "Mamba2", "ngroups": values.integer("n_groups", default=1)},
        "rms_norm": values.boolean("rms_norm", default=True),
        "residual_in_fp32": values.boolean("residual_in_fp32", default=True),
        "pad_vocab_size_multiple": values.integer("pad_vocab_size_multiple", default=1),
        "tie_embeddings": values.boolean("tie_embeddings", default=False),
    }
    return _plan(Values(checkpoint.config_path, official), frozenset(checkpoint.names), "model.")


def _plan(values: Values, names: Collection[str], root: str) -> Plan:
    values.check_known(*_OF_MODEL)
    d_model = values.integer("d_model")
    rms = values.boolean("rms_norm", default=True)
    mixer = _mixer(values.inner("ssm_cfg"), d_model)
    attention_at = values.integers("attn_layer_idx")
    attention = _attention(values.inner("attn_cfg"), d_model) if attention_at else None
    width = values.place("d_intermediate", default=0)
    feed = FeedForwardConfig(d_inner=-(-width // _WIDTHS) * _WIDTHS, activation="swiglu", bias=False) if width else None
    n_layers = count(values, "n_layer", names)
    schedule: list[LayerConfig] = []
    pieces = [Piece(f"{root}backbone.embedding.weight", "embedding.weight")]
    for i in range(n_layers):
        theirs, number = f"{root}backbone.layers.{i}.", len(schedule)
        pieces += _norm_pieces(f"{theirs}norm.", NORM.format(number), rms)
        layer = attention if attention is not None and i in attention_at else mixer
        schedule.append(layer)
        pieces += _mixer_pieces(layer, d_model, f"{theirs}mixer.", MIXER.format(number))
        if feed is not None:
            pieces += _norm_pieces(f"{theirs}norm2.", NORM.format(number + 1), rms)
            pieces.append(Piece(f"{theirs}mlp.fc1.weight", f"{MIXER.format(number + 1)}in_proj.weight"))
            pieces.append(Piece(f"{theirs}mlp.fc2.weight", f"{MIXER.format(number + 1)}out_proj.weight"))
            schedule.append(feed)
    pieces += _norm_pieces(f"{root}backbone.norm_f.", "backbone.norm.", rms)
    tied = values.boolean("tie_embeddings", default=True)
    head = f"{root}lm_head.weight"
    if not tied:
        pieces.append(Piece(head, "head.weight"))
    config = LanguageModelConfig(
        vocabulary_size=values.integer("vocab_size"),
        vocabulary_multiple=values.integer("pad_vocab_size_multiple", default=8),
        backbone=backbone(
            schedule,
            d_model=d_model,
            norm="rms" if rms else "layer",
            norm_eps=1e-5,
            float32_residual=values.boolean("residual_in_fp32", default=True),
        ),
        tie_head=tied,
        tokenizer=None,
    )
    kinds = " and ".join(_title(layer) for layer in dict.fromkeys(schedule))
    assumed = ("A of Mamba-3 by 1 + a and 1/(1 - a), as published since June 2026",)
    return Plan(
        kinds,
        config,
        tuple(pieces),
        ((head, "embedding.weight"),) if tied else (),
        assumed if isinstance(mixer, Mamba3Config) else (),
    )


def _mixer(values: Values, d_model: int) -> MambaConfig | Mamba2Config | Mamba3Config:
    layer = values.text("layer", default="Mamba1")
    readers = {"Mamba1": _mamba, "Mamba2": _mamba2, "Mamba3": _mamba3}
    if layer not in readers:
        raise values.contradiction("layer", f"one of {', '.join(readers)}")
    return readers[layer](values, d_model)


def _mamba(values: Values, d_model: int) -> MambaConfig:
    values.check_known(*_OF_MAMBA)
    return MambaConfig(
        d_state=values.integer("d_state", default=16),
        d_conv=values.integer("d_conv", default=4),
        expand=values.integer("expand", default=2),
        dt_rank=rank(values, "dt_rank", d_model),
        conv_bias=values.boolean("conv_bias", default=True),
        bias=values.boolean("bias", default=False),
    )


def _mamba2(values: Values, d_model: int) -> Mamba2Config:
    values.check_known(*_OF_MAMBA2)
    floor, ceiling = values.interval("dt_limit", default=(0.0, math.inf))
    gate = "norm_first" if values.boolean("norm_before_gate", default=False) else "gate_first"
    return Mamba2Config(
        d_state=values.integer("d_state", default=128),
        d_conv=values.integer("d_conv", default=4),
        expand=values.integer("expand", default=2),
        head_dim=values.integer("headdim", default=64),
        n_groups=values.integer("ngroups", default=1),
        d_ssm=values.integer("d_ssm") if "d_ssm" in values else None,
        dt_floor=floor,
        dt_ceiling=ceiling,
        D_per_channel=values.boolean("D_has_hdim", default=False),
        gate=gate if values.boolean("rmsnorm", default=True) else "none",
        conv_bias=values.boolean("conv_bias", default=True),
        bias=values.boolean("bias", default=False),
    )


def _mamba3(values: Values, d_model: int) -> Mamba3Config:
    values.check_known(*_OF_MAMBA3)
    values.expect("A_floor", 1e-4)
    values.expect("dropout", 0, 0.0)
    ranks = values.integer("mimo_rank", default=4) if values.boolean("is_mimo", default=False) else 1
    if ranks == 1 and values.boolean("is_mimo", default=False):
        raise values.contradiction("mimo_rank", "a rank above 1")
    return Mamba3Config(
        d_state=values.integer("d_state", default=128),
        expand=values.integer("expand", default=2),
        head_dim=values.integer("headdim", default=64),
        n_groups=values.integer("ngroups", default=1),
        rank=ranks,
        rope_fraction=values.number("rope_fraction", default=0.5),
        pairs="halves" if ranks > 1 else "adjacent",
        output_norm=values.boolean("is_outproj_norm", default=False),
    )


def _attention(values: Values, d_model: int) -> AttentionConfig:
    values.check_known(*_OF_ATTENTION)
    values.expect("causal", True)
    values.expect("mlp_dim", 0)
    values.expect("softmax_scale")
    values.expect("rotary_emb_interleaved", False)
    if not values.boolean("causal", default=False):
        raise values.contradiction("causal", "true")
    bias = values.boolean("qkv_proj_bias", default=True)
    values.expect("out_proj_bias", bias)
    if values.boolean("out_proj_bias", default=True) != bias:
        raise values.contradiction("out_proj_bias", "the same as qkv_proj_bias")
    heads = values.integer("num_heads")
    turned = values.place("rotary_emb_dim", default=0)
    return AttentionConfig(
        n_heads=heads,
        n_kv_heads=values.integer("num_heads_kv", default=heads),
        head_dim=values.integer("head_dim", default=max(d_model // heads, 1)),
        rotary_base=values.number("rotary_emb_base", default=10_000.0) if turned else None,
        rotary_dim=turned or None,
        d_conv=values.place("d_conv", default=0),
        bias=bias,
    )


def _mixer_pieces(layer: LayerConfig, d_model: int, theirs: str, ours: str) -> list[Piece]:
    if isinstance(layer, MambaConfig):
        return mamba_pieces(layer, theirs, ours)
    if isinstance(layer, Mamba2Config):
        return mamba2_pieces(layer, theirs, ours)
    if isinstance(layer, Mamba3Config):
        return mamba3_pieces(layer, d_model, theirs, ours)
    if isinstance(layer, AttentionConfig):
        return packed_attention_pieces(layer, theirs, ours)
    raise InputError(f"the layer is {layer}, but a mixer is needed; report this to longstate.")


def _norm_pieces(theirs: str, ours: str, rms: bool) -> list[Piece]:
    if rms:
        return [Piece(f"{theirs}weight", f"{ours}weight")]
    return [Piece(f"{theirs}{part}", f"{ours}norm.{part}") for part in ("weight", "bias")]


def _title(layer: LayerConfig) -> str:
    titles = {"mamba": "Mamba", "mamba2": "Mamba-2", "mamba3": "Mamba-3", "attention": "attention"}
    return titles.get(layer.kind, "feed-forwards")
