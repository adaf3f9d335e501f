"""Falcon-H1 as transformers names and configures it: attention beside Mamba-2 in every layer, and many multipliers."""

import math
from collections.abc import Collection, Mapping, Sequence

from longstate.models import AttentionConfig, FeedForwardConfig, Mamba2Config, ParallelHybridConfig
from longstate.pretrained.hybrid_parts import SILU, Branch, attention_config, hybrid_plan, rotary_positions
from longstate.pretrained.mixers import MIXER, attention_pieces, mamba2_pieces, swiglu_pieces
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, count
from longstate.pretrained.values import Values


def plan_falcon_h1(values: Values, names: Collection[str] | None) -> Plan:
    """FalconH1ForCausalLM: `ParallelHybrid` and a feed-forward in turn.

    Its multipliers stand before or after linear maps, so they are multiplied into the weights; those of the embeddings
    and of the logits, which may share their weights, are scales of the model.
    """
    values.expect("hidden_act", *SILU)
    d_model = values.integer("hidden_size")
    attention = attention_config(values, d_model, rotary=rotary_positions(values, 1.0))
    mamba = _mamba2(values, d_model)
    layer = ParallelHybridConfig(
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_kv_heads,
        head_dim=attention.head_dim,
        rotary_base=attention.rotary_base,
        bias=attention.bias,
        d_state=mamba.d_state,
        d_conv=mamba.d_conv,
        d_inner=mamba.d_inner,
        ssm_head_dim=mamba.head_dim,
        n_groups=mamba.n_groups,
        dt_floor=mamba.dt_floor,
        dt_ceiling=mamba.dt_ceiling,
        gate=mamba.gate,
        norm_eps=mamba.norm_eps,
        conv_bias=mamba.conv_bias,
        ssm_bias=mamba.bias,
    )
    d_inner = values.integer("intermediate_size")
    feed = FeedForwardConfig(d_inner=d_inner, activation="swiglu", bias=values.boolean("mlp_bias", default=False))
    gate, down = values.numbers("mlp_multipliers", 2, default=1.0)
    feed_factors = {"gate_proj.weight": gate, "gate_proj.bias": gate, "down_proj.weight": down, "down_proj.bias": down}
    branches: list[Branch] = []
    for i in range(count(values, "num_hidden_layers", names)):
        theirs, ours = f"model.layers.{i}.", MIXER.format(2 * i)
        pieces = _attention_pieces(values, attention, f"{theirs}self_attn.", f"{ours}attention.")
        pieces += _mamba2_pieces(values, mamba, f"{theirs}mamba.", f"{ours}ssm.")
        branches.append(Branch(f"{theirs}input_layernorm.weight", layer, pieces))
        pieces = swiglu_pieces(feed, d_inner, f"{theirs}feed_forward.", MIXER.format(2 * i + 1))
        branches.append(Branch(f"{theirs}pre_ff_layernorm.weight", feed, _scaled(pieces, feed_factors)))
    return hybrid_plan(
        "Falcon-H1",
        values,
        branches,
        ("model.embed_tokens", "model.final_layernorm"),
        eps="rms_norm_eps",
        embedding_scale=values.number("embedding_multiplier", default=1.0),
        logit_scale=values.number("lm_head_multiplier", default=1.0),
    )


def _mamba2(values: Values, d_model: int) -> Mamba2Config:
    d_inner = values.integer("mamba_d_ssm", default=values.integer("mamba_expand", default=2) * d_model)
    heads = values.integer("mamba_n_heads", default=128)
    is_auto = "mamba_d_head" not in values or values.is_text("mamba_d_head", "auto")
    head_dim = max(d_inner // heads, 1) if is_auto else values.integer("mamba_d_head")
    if heads * head_dim != d_inner:
        raise values.contradiction("mamba_n_heads", f"a number that gives {d_inner} times mamba_d_head")
    bias = values.boolean("mamba_proj_bias", default=False)
    if values.boolean("projectors_bias", default=False) != bias:
        raise values.contradiction("projectors_bias", f"the same as mamba_proj_bias, {bias},")
    first = values.boolean("mamba_norm_before_gate", default=True)
    gate = ("norm_first" if first else "gate_first") if values.boolean("mamba_rms_norm", default=False) else "none"
    floor, ceiling = values.interval("time_step_limit", default=(0.0, math.inf))
    return Mamba2Config(
        d_state=values.integer("mamba_d_state", default=256),
        d_conv=values.integer("mamba_d_conv", default=4),
        d_inner=d_inner,
        head_dim=head_dim,
        n_groups=values.integer("mamba_n_groups", default=1),
        dt_floor=floor,
        dt_ceiling=ceiling,
        gate=gate,
        norm_eps=values.number("rms_norm_eps", default=1e-5),
        conv_bias=values.boolean("mamba_conv_bias", default=True),
        bias=bias,
    )


def _attention_pieces(values: Values, config: AttentionConfig, theirs: str, ours: str) -> list[Piece]:
    before = values.number("attention_in_multiplier", default=1.0)
    after = values.number("attention_out_multiplier", default=1.0)
    key = values.number("key_multiplier", default=1.0)
    factors = {"q_proj.weight": before, "k_proj.weight": before * key, "v_proj.weight": before}
    factors |= {"k_proj.bias": key, "o_proj.weight": after, "o_proj.bias": after}
    return _scaled(attention_pieces(config, theirs, ours), factors)


def _mamba2_pieces(values: Values, config: Mamba2Config, theirs: str, ours: str) -> list[Piece]:
    before = values.number("ssm_in_multiplier", default=1.0)
    after = values.number("ssm_out_multiplier", default=1.0)
    parts = values.numbers("ssm_multipliers", 5, default=1.0)
    pieces = _scaled(mamba2_pieces(config, theirs, ours), {"out_proj.weight": after, "out_proj.bias": after})
    d_inner, vectors = config.d_inner or 1, config.n_groups * config.d_state
    sizes = (d_inner, d_inner, vectors, vectors, d_inner // config.head_dim)
    result: list[Piece] = []
    for piece in pieces:
        if piece.theirs == f"{theirs}in_proj.weight":
            result += _rows(piece, sizes, [before * part for part in parts])
        elif piece.theirs == f"{theirs}in_proj.bias":
            result += _rows(piece, sizes, parts)
        else:
            result.append(piece)
    return result


def _scaled(pieces: Sequence[Piece], factors: Mapping[str, float]) -> list[Piece]:
    """Pieces with the factors of the maps by the last two parts of their names."""
    return [piece._replace(factor=factors.get(".".join(piece.theirs.split(".")[-2:]), 1.0)) for piece in pieces]


def _rows(piece: Piece, sizes: Sequence[int], factors: Sequence[float]) -> list[Piece]:
    """A piece cut into runs of rows with a factor each; whole where all have the same."""
    if len(set(factors)) == 1:
        return [piece._replace(factor=factors[0])]
    result, begin = [], 0
    for size, factor in zip(sizes, factors, strict=True):
        rows = slice(begin, begin + size)
        result.append(piece._replace(at=(rows,), there=(rows,), factor=factor))
        begin += size
    return result
