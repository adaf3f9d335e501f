"""Nemotron-H as transformers names and configures it: a written order of Mamba-2, attention and feed-forwards."""

from collections.abc import Collection

from longstate.models import FeedForwardConfig, Mamba2Config
from longstate.pretrained.hybrid_parts import ATTENTION, MAMBA, SILU, Branch, attention_config, check_kinds, hybrid_plan
from longstate.pretrained.mixers import MIXER, attention_pieces, mamba2_pieces
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan
from longstate.pretrained.values import Values


def plan_nemotron(values: Values, names: Collection[str] | None) -> Plan:
    """NemotronHForCausalLM without experts: a written order of Mamba-2, attention and feed-forwards of relu²."""
    values.expect("mamba_hidden_act", *SILU)
    values.expect("mlp_hidden_act", "relu2")
    values.expect("attention_bias", False)
    values.expect("sliding_window")
    values.expect("num_nextn_predict_layers", 0)
    d_model = values.integer("hidden_size")
    letters = {"M": MAMBA[0], "*": ATTENTION[0], "-": "mlp", "E": "moe"}
    written = values.text("hybrid_override_pattern", default="")
    kinds = values.texts("layers_block_type") or tuple(letters.get(letter, letter) for letter in written)
    check_kinds(values, "layers_block_type", kinds, (*MAMBA, *ATTENTION, "mlp"))
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
    feed = FeedForwardConfig(d_inner=values.integer("intermediate_size"), activation="relu2", bias=feed_bias)
    root = "model." if names is not None and "model.embeddings.weight" in names else "backbone."
    branches = []
    for i, kind in enumerate(kinds):
        theirs, ours = f"{root}layers.{i}.mixer.", MIXER.format(i)
        norm = f"{root}layers.{i}.norm.weight"
        if kind in MAMBA:
            branches.append(Branch(norm, mamba, mamba2_pieces(mamba, theirs, ours)))
        elif kind in ATTENTION:
            branches.append(Branch(norm, attention, attention_pieces(attention, theirs, ours)))
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
