"""Nemotron-H as transformers names and configures it: a written order of Mamba-2, attention and feed-forwards."""

from collections.abc import Collection

from longstate.models import FeedForwardConfig, Mamba2Config, MixtureOfExpertsConfig
from longstate.pretrained.hybrid_parts import ATTENTION, MAMBA, SILU, Branch, attention_config, check_kinds, hybrid_plan
from longstate.pretrained.mixers import MIXER, attention_pieces, mamba2_pieces
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, count
from longstate.pretrained.values import Values


def plan_nemotron(values: Values, names: Collection[str] | None) -> Plan:
    """NemotronHForCausalLM: a written order of Mamba-2, attention, and feed-forwards or experts of relu²."""
    values.expect("mamba_hidden_act", *SILU)
    values.expect("mlp_hidden_act", "relu2")
    values.expect("attention_bias", False)
    values.expect("sliding_window")
    values.expect("num_nextn_predict_layers", 0)
    d_model = values.integer("hidden_size")
    letters = {"M": MAMBA[0], "*": ATTENTION[0], "-": "mlp", "E": "moe"}
    written = values.text("hybrid_override_pattern", default="")
    kinds = values.texts("layers_block_type") or tuple(letters.get(letter, letter) for letter in written)
    check_kinds(values, "layers_block_type", kinds, (*MAMBA, *ATTENTION, "mlp", "moe"))
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
    attention = attention_config(
        values, d_model, rotary=None, head_dim=values.integer("head_dim", default=128), bias=False
    )
    feed_bias = values.boolean("mlp_bias", default=False)
    feed = FeedForwardConfig(
        d_inner=values.integer("intermediate_size", default=21_504), activation="relu2", bias=feed_bias
    )
    experts = _experts(values) if "moe" in kinds else None
    root = "model." if names is not None and "model.embeddings.weight" in names else "backbone."
    branches = []
    for i, kind in enumerate(kinds):
        theirs, ours = f"{root}layers.{i}.mixer.", MIXER.format(i)
        norm = f"{root}layers.{i}.norm.weight"
        if kind in MAMBA:
            branches.append(Branch(norm, mamba, mamba2_pieces(mamba, theirs, ours)))
        elif kind in ATTENTION:
            branches.append(Branch(norm, attention, attention_pieces(attention, theirs, ours)))
        elif experts is not None and kind == "moe":
            branches.append(Branch(norm, experts, _expert_pieces(values, names, experts, theirs, ours)))
        else:
            parts = ("weight", "bias") if feed_bias else ("weight",)
            maps = (("up_proj", "in_proj"), ("down_proj", "out_proj"))
            pieces = [Piece(f"{theirs}{a}.{part}", f"{ours}{b}.{part}") for a, b in maps for part in parts]
            branches.append(Branch(norm, feed, pieces))
    assumed = "steps of Mamba-2 are at least time_step_min, as in transformers; NVIDIA's own program sets no limit"
    return hybrid_plan(
        "Nemotron-H",
        values,
        branches,
        (f"{root}embeddings", f"{root}norm_f"),
        eps="layer_norm_epsilon",
        float32_residual=values.boolean("residual_in_fp32", default=False),
        assumed=(assumed,),
    )


def _experts(values: Values) -> MixtureOfExpertsConfig:
    values.expect("n_group", 1)
    values.expect("topk_group", 1)
    values.expect("mlp_bias", False)
    return MixtureOfExpertsConfig(
        d_inner=values.integer("moe_intermediate_size", default=7_688),
        n_experts=values.integer("n_routed_experts"),
        top_k=values.integer("num_experts_per_tok", default=2),
        activation="relu2",
        normalise=values.boolean("norm_topk_prob", default=True),
        d_shared=values.integer("moe_shared_expert_intermediate_size", default=7_688),
        scores="sigmoid",
        scale=values.number("routed_scaling_factor", default=1.0),
        d_latent=values.integer("moe_latent_size") if "moe_latent_size" in values else None,
    )


def _expert_pieces(
    values: Values, names: Collection[str] | None, config: MixtureOfExpertsConfig, theirs: str, ours: str
) -> list[Piece]:
    """One tensor an expert, as on the hub, or one for all of them, as in transformers 5."""
    pieces = [
        Piece(f"{theirs}gate.weight", f"{ours}router.weight"),
        Piece(f"{theirs}gate.e_score_correction_bias", f"{ours}score_bias"),
        Piece(f"{theirs}shared_experts.up_proj.weight", f"{ours}shared.in_proj.weight"),
        Piece(f"{theirs}shared_experts.down_proj.weight", f"{ours}shared.out_proj.weight"),
    ]
    if config.d_latent is not None:
        pieces.append(Piece(f"{theirs}fc1_latent_proj.weight", f"{ours}latent_in.weight"))
        pieces.append(Piece(f"{theirs}fc2_latent_proj.weight", f"{ours}latent_out.weight"))
    maps = (("up_proj", "in_proj"), ("down_proj", "out_proj"))
    if names is not None and f"{theirs}experts.up_proj" in names:
        return pieces + [Piece(f"{theirs}experts.{a}", f"{ours}{b}") for a, b in maps]
    each = range(count(values, "n_routed_experts", names))
    return pieces + [Piece(f"{theirs}experts.{e}.{a}.weight", f"{ours}{b}", (e,)) for e in each for a, b in maps]
