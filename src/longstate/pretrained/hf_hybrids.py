"""Hybrids of Mamba-2 and attention as transformers names and configures them: Bamba, Granite 4, Nemotron-H."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from longstate.models import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    LayerConfig,
    Mamba2Config,
    MixtureOfExpertsConfig,
)
from longstate.pretrained.mixers import MIXER, NORM, attention_pieces, mamba2_pieces, swiglu_pieces
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, backbone, count
from longstate.pretrained.values import Values

_SILU = ("silu", "swish")
_MAMBA, _ATTENTION = ("linear_attention", "mamba"), ("full_attention", "attention")


class _Branch(NamedTuple):
    """One branch of a stack: the name of its norm, the layer, and the tensors of the layer."""

    norm: str
    layer: LayerConfig
    pieces: list[Piece]


def plan_bamba(values: Values, names: Collection[str] | None) -> Plan:
    """BambaForCausalLM: Mamba-2, attention in some layers that turns half of every head, and feed-forwards."""
    values.expect("hidden_act", *_SILU)
    d_model = values.integer("hidden_size")
    mamba = _mamba2(values, d_model)
    attention = _attention(values, d_model, rotary=_rotary(values, 0.5))
    d_inner = values.integer("intermediate_size")
    feed = FeedForwardConfig(d_inner=d_inner, activation="swiglu", bias=values.boolean("mlp_bias", default=False))
    attention_at = values.integers("attn_layer_indices")
    branches: list[_Branch] = []
    for i in range(count(values, "num_hidden_layers", names)):
        theirs = f"model.layers.{i}."
        branches.append(_mixer(mamba, attention, i in attention_at, theirs, MIXER.format(2 * i)))
        pieces = swiglu_pieces(feed, d_inner, f"{theirs}feed_forward.", MIXER.format(2 * i + 1))
        branches.append(_Branch(f"{theirs}pre_ff_layernorm.weight", feed, pieces))
    return _plan("Bamba", values, branches, ("model.embed_tokens", "model.final_layernorm"), eps="rms_norm_eps")


def plan_granite(values: Values, names: Collection[str] | None) -> Plan:
    """GraniteMoeHybridForCausalLM: Mamba-2 or attention, then experts beside a shared feed-forward, all scaled."""
    values.expect("hidden_act", *_SILU)
    d_model, n_layers = values.integer("hidden_size"), count(values, "num_hidden_layers", names)
    kinds = values.texts("layer_types") or values.texts("layers_block_type") or (_MAMBA[0],) * n_layers
    if len(kinds) != n_layers:
        raise values.contradiction("layer_types", f"a list of num_hidden_layers, {n_layers}, kinds of layers")
    _check_kinds(values, "layer_types", kinds, _MAMBA + _ATTENTION)
    values.expect("position_embedding_type", "rope", "nope")
    rotary = _rotary(values, 1.0) if values.is_text("position_embedding_type", "rope") else None
    mamba = _mamba2(values, d_model)
    attention = _attention(values, d_model, rotary=rotary, scale=values.number("attention_multiplier", default=1.0))
    feed, experts = _granite_feeds(values)
    branches: list[_Branch] = []
    for i, kind in enumerate(kinds):
        theirs, ours = f"model.layers.{i}.", MIXER.format(2 * i + 1)
        branches.append(_mixer(mamba, attention, kind in _ATTENTION, theirs, MIXER.format(2 * i)))
        inner = ours if experts is None else f"{ours}shared."
        pieces = _halves(f"{theirs}shared_mlp.input_linear.weight", f"{inner}in_proj.weight", feed.d_inner or 1)
        pieces.append(Piece(f"{theirs}shared_mlp.output_linear.weight", f"{inner}out_proj.weight"))
        if experts is not None:
            moe = f"{theirs}block_sparse_moe."
            pieces.append(Piece(f"{moe}router.layer.weight", f"{ours}router.weight"))
            width = experts.d_inner or 1
            pieces += _halves(f"{moe}input_linear.weight", f"{ours}in_proj", width, experts.n_experts)
            pieces.append(Piece(f"{moe}output_linear.weight", f"{ours}out_proj"))
        branches.append(_Branch(f"{theirs}post_attention_layernorm.weight", experts or feed, pieces))
    return _plan(
        "Granite hybrid",
        values,
        branches,
        ("model.embed_tokens", "model.norm"),
        eps="rms_norm_eps",
        branch_scale=values.number("residual_multiplier", default=1.0),
        embedding_scale=values.number("embedding_multiplier", default=1.0),
        logit_scale=1 / values.divisor("logits_scaling", default=1.0),
    )


def plan_nemotron(values: Values, names: Collection[str] | None) -> Plan:
    """NemotronHForCausalLM without experts: a written order of Mamba-2, attention and feed-forwards of relu²."""
    values.expect("mamba_hidden_act", *_SILU)
    values.expect("mlp_hidden_act", "relu2")
    values.expect("attention_bias", False)
    values.expect("sliding_window")
    values.expect("num_nextn_predict_layers", 0)
    d_model = values.integer("hidden_size")
    letters = {"M": _MAMBA[0], "*": _ATTENTION[0], "-": "mlp", "E": "moe"}
    written = values.text("hybrid_override_pattern", default="")
    kinds = values.texts("layers_block_type") or tuple(letters.get(letter, letter) for letter in written)
    _check_kinds(values, "layers_block_type", kinds, (*_MAMBA, *_ATTENTION, "mlp"))
    heads, head_dim = values.integer("mamba_num_heads", default=128), values.integer("mamba_head_dim", default=64)
    bias = values.boolean("use_bias", default=False)
    mamba = Mamba2Config(
        d_state=values.integer("ssm_state_size", default=128),
        d_conv=values.integer("conv_kernel", default=4),
        d_inner=heads * head_dim,
        head_dim=head_dim,
        n_groups=values.integer("n_groups", default=8),
        dt_floor=values.number("time_step_min", default=1e-3),
        norm_eps=values.number("layer_norm_epsilon", default=1e-5),
        conv_bias=values.boolean("use_conv_bias", default=True),
        bias=bias,
    )
    attention = _attention(values, d_model, rotary=None, head_dim=values.integer("head_dim", default=128), bias=False)
    feed_bias = values.boolean("mlp_bias", default=False)
    feed = FeedForwardConfig(d_inner=values.integer("intermediate_size"), activation="relu2", bias=feed_bias)
    root = "model." if names is not None and "model.embeddings.weight" in names else "backbone."
    branches = []
    for i, kind in enumerate(kinds):
        theirs, ours = f"{root}layers.{i}.mixer.", MIXER.format(i)
        norm = f"{root}layers.{i}.norm.weight"
        if kind in _MAMBA:
            branches.append(_Branch(norm, mamba, mamba2_pieces(mamba, theirs, ours)))
        elif kind in _ATTENTION:
            branches.append(_Branch(norm, attention, attention_pieces(attention, theirs, ours)))
        else:
            parts = ("weight", "bias") if feed_bias else ("weight",)
            maps = (("up_proj", "in_proj"), ("down_proj", "out_proj"))
            pieces = [Piece(f"{theirs}{a}.{part}", f"{ours}{b}.{part}") for a, b in maps for part in parts]
            branches.append(_Branch(norm, feed, pieces))
    assumed = "steps of Mamba-2 are at least time_step_min, as in transformers; NVIDIA's own program sets no limit"
    return _plan(
        "Nemotron-H",
        values,
        branches,
        (f"{root}embeddings", f"{root}norm_f"),
        eps="layer_norm_epsilon",
        float32_residual=values.boolean("residual_in_fp32", default=False),
        assumed=(assumed,),
    )


def _plan(
    title: str,
    values: Values,
    branches: Sequence[_Branch],
    ends: tuple[str, str],
    *,
    eps: str,
    float32_residual: bool = False,
    branch_scale: float = 1.0,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    assumed: tuple[str, ...] = (),
) -> Plan:
    pieces = [Piece(f"{ends[0]}.weight", "embedding.weight")]
    for number, branch in enumerate(branches):
        pieces += [Piece(branch.norm, f"{NORM.format(number)}weight"), *branch.pieces]
    pieces.append(Piece(f"{ends[1]}.weight", "backbone.norm.weight"))
    tied = values.boolean("tie_word_embeddings", default=False)
    if not tied:
        pieces.append(Piece("lm_head.weight", "head.weight"))
    config = LanguageModelConfig(
        vocabulary_size=values.integer("vocab_size"),
        backbone=backbone(
            [branch.layer for branch in branches],
            d_model=values.integer("hidden_size"),
            norm="rms",
            norm_eps=values.number(eps, default=1e-6 if title.startswith("Granite") else 1e-5),
            float32_residual=float32_residual,
            branch_scale=branch_scale,
        ),
        tie_head=tied,
        tokenizer=None,
        embedding_scale=embedding_scale,
        logit_scale=logit_scale,
    )
    return Plan(title, config, tuple(pieces), (("lm_head.weight", "embedding.weight"),) if tied else (), assumed)


def _mixer(mamba: Mamba2Config, attention: AttentionConfig, attends: bool, theirs: str, ours: str) -> _Branch:
    norm = f"{theirs}input_layernorm.weight"
    if attends:
        return _Branch(norm, attention, attention_pieces(attention, f"{theirs}self_attn.", ours))
    return _Branch(norm, mamba, mamba2_pieces(mamba, f"{theirs}mamba.", ours))


def _mamba2(values: Values, d_model: int) -> Mamba2Config:
    """Mamba-2 by the names of Bamba and Granite."""
    expand, heads = values.integer("mamba_expand", default=2), values.integer("mamba_n_heads", default=128)
    is_auto = "mamba_d_head" not in values or values.is_text("mamba_d_head", "auto")
    head_dim = max(expand * d_model // heads, 1) if is_auto else values.integer("mamba_d_head")
    if heads * head_dim != expand * d_model:
        raise values.contradiction("mamba_n_heads", f"a number that gives {expand * d_model} times mamba_d_head")
    floor, ceiling = values.interval("time_step_limit", default=(0.0, math.inf))
    return Mamba2Config(
        d_state=values.integer("mamba_d_state", default=256),
        d_conv=values.integer("mamba_d_conv", default=4),
        expand=expand,
        head_dim=head_dim,
        n_groups=values.integer("mamba_n_groups", default=1),
        dt_floor=floor,
        dt_ceiling=ceiling,
        norm_eps=values.number("rms_norm_eps", default=1e-5),
        conv_bias=values.boolean("mamba_conv_bias", default=True),
        bias=values.boolean("mamba_proj_bias", default=False),
    )


def _attention(
    values: Values,
    d_model: int,
    *,
    rotary: tuple[float, float] | None,
    scale: float | None = None,
    head_dim: int | None = None,
    bias: bool | None = None,
) -> AttentionConfig:
    heads = values.integer("num_attention_heads", default=32)
    if head_dim is None:
        head_dim = values.integer("head_dim", default=max(d_model // heads, 1))
    return AttentionConfig(
        n_heads=heads,
        n_kv_heads=values.integer("num_key_value_heads", default=heads),
        head_dim=head_dim,
        rotary_base=None if rotary is None else rotary[0],
        rotary_dim=None if rotary is None else int(head_dim * rotary[1]),
        scale=scale,
        bias=values.boolean("attention_bias", default=False) if bias is None else bias,
    )


def _rotary(values: Values, share: float) -> tuple[float, float]:
    """Base and share of rotary positions: in `rope_parameters` since transformers 5, before that beside the others."""
    rope = values.inner("rope_parameters")
    rope.expect("rope_type", "default")
    values.expect("rope_scaling")
    base = rope.number("rope_theta") if "rope_theta" in rope else values.number("rope_theta", default=10_000.0)
    return base, rope.number("partial_rotary_factor", default=share)


def _granite_feeds(values: Values) -> tuple[FeedForwardConfig, MixtureOfExpertsConfig | None]:
    width = values.integer("shared_intermediate_size", default=1024)
    feed = FeedForwardConfig(d_inner=width, activation="swiglu", bias=False)
    n_experts = values.place("num_local_experts", default=8)
    if n_experts == 0:
        return feed, None
    experts = MixtureOfExpertsConfig(
        d_inner=values.integer("intermediate_size"),
        n_experts=n_experts,
        top_k=values.integer("num_experts_per_tok", default=2),
        normalise=True,
        d_shared=width,
    )
    return feed, experts


def _halves(theirs: str, ours: str, d_inner: int, n_experts: int | None = None) -> list[Piece]:
    """A map [gate; up] of theirs, that of one feed-forward or of all experts; ours is [up; gate]."""
    before = () if n_experts is None else (slice(0, n_experts),)
    first, second = slice(0, d_inner), slice(d_inner, 2 * d_inner)
    return [
        Piece(theirs, ours, (*before, second), (*before, first)),
        Piece(theirs, ours, (*before, first), (*before, second)),
    ]


def _check_kinds(values: Values, name: str, kinds: Sequence[str], known: Sequence[str]) -> None:
    other = next((kind for kind in kinds if kind not in known), None)
    if other is not None or not kinds:
        raise values.contradiction(name, f"a list of {', '.join(dict.fromkeys(known))}")
