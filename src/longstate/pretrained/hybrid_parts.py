"""What hybrids of transformers share: branches of a stack, attention, positions, and the ends of a model."""

from collections.abc import Sequence
from typing import NamedTuple

from longstate.models import AttentionConfig, LanguageModelConfig, LayerConfig
from longstate.pretrained.mixers import NORM
from longstate.pretrained.pieces import Piece
from longstate.pretrained.plan import Plan, backbone
from longstate.pretrained.values import Values

SILU = ("silu", "swish")
MAMBA, ATTENTION = ("linear_attention", "mamba"), ("full_attention", "attention")


class Branch(NamedTuple):
    """One branch of a stack: the name of its norm, the layer, and the tensors of the layer."""

    norm: str
    layer: LayerConfig
    pieces: list[Piece]


def hybrid_plan(
    title: str,
    values: Values,
    branches: Sequence[Branch],
    ends: tuple[str, str],
    *,
    eps: str,
    float32_residual: bool = False,
    branch_scale: float = 1.0,
    embedding_scale: float = 1.0,
    logit_scale: float = 1.0,
    assumed: tuple[str, ...] = (),
) -> Plan:
    """The plan of a stack of branches between embeddings and a head; `ends` are the embeddings and the last norm."""
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


def attention_config(
    values: Values,
    d_model: int,
    *,
    rotary: tuple[float, float] | None,
    scale: float | None = None,
    head_dim: int | None = None,
    bias: bool | None = None,
) -> AttentionConfig:
    """Attention by the names of LLaMA; `rotary` is the base and the share of a head that turns."""
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


def rotary_positions(values: Values, share: float) -> tuple[float, float]:
    """Base and share of rotary positions: in `rope_parameters` since transformers 5, before that beside the others."""
    rope = values.inner("rope_parameters")
    rope.expect("rope_type", "default")
    values.expect("rope_scaling")
    base = rope.number("rope_theta") if "rope_theta" in rope else values.number("rope_theta", default=10_000.0)
    return base, rope.number("partial_rotary_factor", default=share)


def check_kinds(values: Values, name: str, kinds: Sequence[str], known: Sequence[str]) -> None:
    """Raise unless the kinds of layers, one at least, are known ones."""
    other = next((kind for kind in kinds if kind not in known), None)
    if other is not None or not kinds:
        raise values.contradiction(name, f"a list of {', '.join(dict.fromkeys(known))}")
