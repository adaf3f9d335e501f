"""Hybrids of Mamba-2 and attention as transformers names and configures them: Bamba, Granite 4."""

import math
from collections.abc import Collection

from longstate.models import AttentionConfig, FeedForwardConfig, Mamba2Config, MixtureOfExpertsConfig
from longstate.pretrained.hybrid_parts import (
    ATTENTION,
    MAMBA,
    SILU,
    Branch,
    attention_config,
    check_kinds,
    hybrid_plan,
    rotary_positions,
)
from longstate.pretrained.mixers import MIXER, attention_pieces, mamba2_pieces, swiglu_pieces
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, count
from longstate.pretrained.values import Values


def plan_bamba(values: Values, names: Collection[str] | None) -> Plan:
    """BambaForCausalLM: Mamba-2, attention in some layers that turns half of every head, and feed-forwards."""
    values.expect("hidden_act", *SILU)
    d_model = values.integer("hidden_size")
    mamba = _mamba2(values, d_model)
    attention = attention_config(values, d_model, rotary=rotary_positions(values, 0.5))
    d_inner = values.integer("intermediate_size")
    feed = FeedForwardConfig(d_inner=d_inner, activation="swiglu", bias=values.boolean("mlp_bias", default=False))
    attention_at = values.integers("attn_layer_indices")
    branches: list[Branch] = []
    for i in range(count(values, "num_hidden_layers", names)):
        theirs = f"model.layers.{i}."
        branches.append(_mixer(mamba, attention, i in attention_at, theirs, MIXER.format(2 * i)))
        pieces = swiglu_pieces(feed, d_inner, f"{theirs}feed_forward.", MIXER.format(2 * i + 1))
        branches.append(Branch(f"{theirs}pre_ff_layernorm.weight", feed, pieces))
    return hybrid_plan("Bamba", values, branches, ("model.embed_tokens", "model.final_layernorm"), eps="rms_norm_eps")


def plan_granite(values: Values, names: Collection[str] | None) -> Plan:
    """GraniteMoeHybridForCausalLM: Mamba-2 or attention, then experts beside a shared feed-forward, all scaled."""
    values.expect("hidden_act", *SILU)
    d_model, n_layers = values.integer("hidden_size"), count(values, "num_hidden_layers", names)
    kinds = values.texts("layer_types") or values.texts("layers_block_type") or (MAMBA[0],) * n_layers
    if len(kinds) != n_layers:
        raise values.contradiction("layer_types", f"a list of num_hidden_layers, {n_layers}, kinds of layers")
    check_kinds(values, "layer_types", kinds, MAMBA + ATTENTION)
    values.expect("position_embedding_type", "rope", "nope")
    rotary = rotary_positions(values, 1.0) if values.is_text("position_embedding_type", "rope") else None
    mamba = _mamba2(values, d_model)
    attention = attention_config(
        values, d_model, rotary=rotary, scale=values.number("attention_multiplier", default=1.0)
    )
    feed, experts = _granite_feeds(values)
    branches: list[Branch] = []
    for i, kind in enumerate(kinds):
        theirs, ours = f"model.layers.{i}.", MIXER.format(2 * i + 1)
        branches.append(_mixer(mamba, attention, kind in ATTENTION, theirs, MIXER.format(2 * i)))
        inner = ours if experts is None else f"{ours}shared."
        pieces = _halves(f"{theirs}shared_mlp.input_linear.weight", f"{inner}in_proj.weight", feed.d_inner or 1)
        pieces.append(Piece(f"{theirs}shared_mlp.output_linear.weight", f"{inner}out_proj.weight"))
        if experts is not None:
            moe = f"{theirs}block_sparse_moe."
            pieces.append(Piece(f"{moe}router.layer.weight", f"{ours}router.weight"))
            width = experts.d_inner or 1
            pieces += _halves(f"{moe}input_linear.weight", f"{ours}in_proj", width, experts.n_experts)
            pieces.append(Piece(f"{moe}output_linear.weight", f"{ours}out_proj"))
        branches.append(Branch(f"{theirs}post_attention_layernorm.weight", experts or feed, pieces))
    return hybrid_plan(
        "Granite hybrid",
        values,
        branches,
        ("model.embed_tokens", "model.norm"),
        eps="rms_norm_eps",
        branch_scale=values.number("residual_multiplier", default=1.0),
        embedding_scale=values.number("embedding_multiplier", default=1.0),
        logit_scale=1 / values.divisor("logits_scaling", default=1.0),
    )


def _mixer(mamba: Mamba2Config, attention: AttentionConfig, attends: bool, theirs: str, ours: str) -> Branch:
    norm = f"{theirs}input_layernorm.weight"
    if attends:
        return Branch(norm, attention, attention_pieces(attention, f"{theirs}self_attn.", ours))
    return Branch(norm, mamba, mamba2_pieces(mamba, f"{theirs}mamba.", ours))


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
