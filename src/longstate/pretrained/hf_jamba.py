"""Jamba as transformers names and configures it: Mamba, attention now and then, experts in every other feed-forward."""

from collections.abc import Collection
from typing import Any

from longstate.models import (
    AttentionConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    LayerConfig,
    MambaConfig,
    MixtureOfExpertsConfig,
)
from longstate.pretrained.hf_mamba import rank
from longstate.pretrained.mixers import (
    MIXER,
    NORM,
    attention_pieces,
    expert_pieces,
    fused_expert_pieces,
    mamba_pieces,
    swiglu_pieces,
)
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, backbone, count
from longstate.pretrained.values import Values


def plan_jamba(values: Values, names: Collection[str] | None) -> Plan:
    """JambaForCausalLM, its experts one by one (as on the hub) or fused (as transformers 5 holds them)."""
    values.expect("hidden_act", "silu", "swish")
    values.expect("sliding_window")
    d_model, eps = values.integer("hidden_size"), values.number("rms_norm_eps", default=1e-6)
    d_inner = values.integer("intermediate_size")
    schedule: list[LayerConfig] = []
    pieces = [Piece("model.embed_tokens.weight", "embedding.weight")]
    mamba, attention = _mamba(values, d_model, eps), _attention(values, d_model)
    dense = FeedForwardConfig(d_inner=d_inner, activation="swiglu", bias=False)
    experts = _experts(values, d_inner)
    for i in range(count(values, "num_hidden_layers", names)):
        theirs, mixer, feed = f"model.layers.{i}.", MIXER.format(2 * i), MIXER.format(2 * i + 1)
        pieces.append(Piece(f"{theirs}input_layernorm.weight", f"{NORM.format(2 * i)}weight"))
        if _falls_on(values, "attn_layer", i, 8, 4):
            schedule.append(attention)
            pieces += attention_pieces(attention, f"{theirs}self_attn.", mixer)
        else:
            schedule.append(mamba)
            pieces += mamba_pieces(mamba, f"{theirs}mamba.", mixer)
        pieces.append(Piece(f"{theirs}pre_ff_layernorm.weight", f"{NORM.format(2 * i + 1)}weight"))
        if experts is not None and _falls_on(values, "expert_layer", i, 2, 1):
            schedule.append(experts)
            pieces += _expert_pieces(values, names, experts, d_inner, f"{theirs}feed_forward.", feed)
        else:
            schedule.append(dense)
            pieces += swiglu_pieces(dense, d_inner, f"{theirs}feed_forward.", feed)
    pieces.append(Piece("model.final_layernorm.weight", "backbone.norm.weight"))
    tied = values.boolean("tie_word_embeddings", default=False)
    if not tied:
        pieces.append(Piece("lm_head.weight", "head.weight"))
    config = LanguageModelConfig(
        vocabulary_size=values.integer("vocab_size"),
        backbone=backbone(schedule, d_model=d_model, norm="rms", norm_eps=eps, float32_residual=False),
        tie_head=tied,
        tokenizer=None,
    )
    return Plan("Jamba", config, tuple(pieces), (("lm_head.weight", "embedding.weight"),) if tied else ())


def describe_jamba(config: LanguageModelConfig) -> dict[str, Any] | None:
    """The configuration of JambaForCausalLM, if a model is one: mixers and feed-forwards by turns, at even periods."""
    stack = config.backbone
    mixers, feeds = stack.schedule[::2], stack.schedule[1::2]
    mamba = next((layer for layer in mixers if isinstance(layer, MambaConfig)), None)
    attention = next((layer for layer in mixers if isinstance(layer, AttentionConfig)), AttentionConfig(n_heads=1))
    dense = next((layer for layer in feeds if isinstance(layer, FeedForwardConfig)), None)
    experts = next((layer for layer in feeds if isinstance(layer, MixtureOfExpertsConfig)), None)
    if mamba is None or mamba.inner_norm != "weighted" or len(mixers) != len(feeds) or not (dense or experts):
        return None
    attention_at = [i for i, layer in enumerate(mixers) if isinstance(layer, AttentionConfig)]
    experts_at = [i for i, layer in enumerate(feeds) if isinstance(layer, MixtureOfExpertsConfig)]
    period, offset = _period(attention_at, len(mixers))
    expert_period, expert_offset = _period(experts_at, len(feeds))
    d_inner = (dense or experts or FeedForwardConfig()).d_inner
    return {
        "architectures": ["JambaForCausalLM"],
        "model_type": "jamba",
        "vocab_size": config.rows,
        "hidden_size": stack.d_model,
        "intermediate_size": 4 * stack.d_model if d_inner is None else d_inner,
        "num_hidden_layers": len(mixers),
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_heads if attention.n_kv_heads is None else attention.n_kv_heads,
        **({} if attention.head_dim is None else {"head_dim": attention.head_dim}),
        "attn_layer_period": period,
        "attn_layer_offset": offset,
        "expert_layer_period": expert_period,
        "expert_layer_offset": expert_offset,
        "num_experts": 1 if experts is None else experts.n_experts,
        "num_experts_per_tok": 1 if experts is None else experts.top_k,
        "hidden_act": "silu",
        "rms_norm_eps": stack.norm_eps,
        "mamba_d_state": mamba.d_state,
        "mamba_d_conv": mamba.d_conv,
        "mamba_expand": mamba.expand,
        "mamba_dt_rank": -(-stack.d_model // 16) if mamba.dt_rank is None else mamba.dt_rank,
        "mamba_conv_bias": mamba.conv_bias,
        "mamba_proj_bias": mamba.bias,
        "tie_word_embeddings": config.tie_head,
    }


def _mamba(values: Values, d_model: int, eps: float) -> MambaConfig:
    return MambaConfig(
        d_state=values.integer("mamba_d_state", default=16),
        d_conv=values.integer("mamba_d_conv", default=4),
        expand=values.integer("mamba_expand", default=2),
        dt_rank=rank(values, "mamba_dt_rank", d_model),
        conv_bias=values.boolean("mamba_conv_bias", default=True),
        bias=values.boolean("mamba_proj_bias", default=False),
        inner_norm="weighted",
        norm_eps=eps,
    )


def _attention(values: Values, d_model: int) -> AttentionConfig:
    heads = values.integer("num_attention_heads", default=32)
    return AttentionConfig(
        n_heads=heads,
        n_kv_heads=values.integer("num_key_value_heads", default=heads),
        head_dim=values.integer("head_dim", default=max(d_model // heads, 1)),
    )


def _experts(values: Values, d_inner: int) -> MixtureOfExpertsConfig | None:
    n_experts = values.integer("num_experts", default=16)
    if n_experts == 1:
        return None
    top_k = values.integer("num_experts_per_tok", default=2)
    return MixtureOfExpertsConfig(d_inner=d_inner, n_experts=n_experts, top_k=top_k)


def _expert_pieces(
    values: Values, names: Collection[str] | None, config: MixtureOfExpertsConfig, d_inner: int, theirs: str, ours: str
) -> list[Piece]:
    router = Piece(f"{theirs}router.weight", f"{ours}router.weight")
    fused = f"{theirs}experts.gate_up_proj"
    if names is not None and fused in names:
        down = f"{theirs}experts.down_proj"
        return [router, *fused_expert_pieces(config.n_experts, d_inner, fused, down, ours)]
    count(values, "num_experts", names)
    return [router, *expert_pieces(config.n_experts, d_inner, f"{theirs}experts.", ours)]


def _falls_on(values: Values, name: str, i: int, period: int, offset: int) -> bool:
    return i % values.integer(f"{name}_period", default=period) == values.place(f"{name}_offset", default=offset)


def _period(places: list[int], total: int) -> tuple[int, int]:
    """Period and offset of the layers of one kind; beyond the last one where there are none."""
    if not places:
        return total + 1, total
    return (places[1] - places[0] if len(places) > 1 else total), places[0]
