"""Tables of the layers that many language models share, by the names their authors gave the tensors."""

from longstate.models import AttentionConfig, FeedForwardConfig, Mamba2Config, Mamba3Config, MambaConfig
from longstate.pretrained.pieces import Piece

MIXER = "backbone.layers.{}.layer."
NORM = "backbone.layers.{}.norm."


def mamba_pieces(config: MambaConfig, theirs: str, ours: str) -> list[Piece]:
    """Mamba as everybody names it; its inner norms as in Jamba."""
    pieces = [
        Piece(f"{theirs}in_proj.weight", f"{ours}in_proj.weight"),
        Piece(f"{theirs}conv1d.weight", f"{ours}branch.conv_weight", conv=True),
        Piece(f"{theirs}x_proj.weight", f"{ours}branch.x_proj.weight"),
        Piece(f"{theirs}dt_proj.weight", f"{ours}branch.dt_proj.weight"),
        Piece(f"{theirs}dt_proj.bias", f"{ours}branch.dt_bias"),
        Piece(f"{theirs}A_log", f"{ours}branch.A_log"),
        Piece(f"{theirs}D", f"{ours}branch.D"),
        Piece(f"{theirs}out_proj.weight", f"{ours}out_proj.weight"),
    ]
    if config.conv_bias:
        pieces.append(Piece(f"{theirs}conv1d.bias", f"{ours}branch.conv_bias"))
    if config.bias:
        pieces += [Piece(f"{theirs}{name}.bias", f"{ours}{name}.bias") for name in ("in_proj", "out_proj")]
    if config.inner_norm == "weighted":
        norms = ("dt_layernorm", "b_layernorm", "c_layernorm")
        pieces += [
            Piece(f"{theirs}{name}.weight", f"{ours}branch.norms.{place}.weight") for place, name in enumerate(norms)
        ]
    return pieces


def mamba2_pieces(config: Mamba2Config, theirs: str, ours: str) -> list[Piece]:
    """Mamba-2 as everybody names it."""
    pieces = [
        Piece(f"{theirs}in_proj.weight", f"{ours}in_proj.weight"),
        Piece(f"{theirs}conv1d.weight", f"{ours}conv_weight", conv=True),
        Piece(f"{theirs}dt_bias", f"{ours}dt_bias"),
        Piece(f"{theirs}A_log", f"{ours}A_log"),
        Piece(f"{theirs}D", f"{ours}D"),
        Piece(f"{theirs}out_proj.weight", f"{ours}out_proj.weight"),
    ]
    if config.conv_bias:
        pieces.append(Piece(f"{theirs}conv1d.bias", f"{ours}conv_bias"))
    if config.bias:
        pieces += [Piece(f"{theirs}{name}.bias", f"{ours}{name}.bias") for name in ("in_proj", "out_proj")]
    if config.gate != "none":
        pieces.append(Piece(f"{theirs}norm.weight", f"{ours}norm.weight"))
    return pieces


def attention_pieces(config: AttentionConfig, theirs: str, ours: str) -> list[Piece]:
    """Attention by four maps, as in LLaMA."""
    parts = ("weight", "bias") if config.bias else ("weight",)
    names = [f"{name}_proj.{part}" for name in ("q", "k", "v", "o") for part in parts]
    return [Piece(f"{theirs}{name}", f"{ours}{name}") for name in names]


def mamba3_pieces(config: Mamba3Config, d_model: int, theirs: str, ours: str) -> list[Piece]:
    """Mamba-3 of the official code."""
    same = ("in_proj.weight", "dt_bias", "B_bias", "C_bias", "B_norm.weight", "C_norm.weight", "D", "out_proj.weight")
    pieces = [Piece(f"{theirs}{name}", f"{ours}{name}") for name in same]
    if config.rank > 1:
        ranks = (("mimo_x", "rank_in"), ("mimo_z", "rank_gate"), ("mimo_o", "rank_out"))
        pieces += [Piece(f"{theirs}{there}", f"{ours}{here}") for there, here in ranks]
    if config.output_norm:
        width = config.head_dim
        pieces += [
            Piece(f"{theirs}norm.weight", f"{ours}norm_weight", (h,), (slice(h * width, (h + 1) * width),))
            for h in range(config.expand * d_model // width)
        ]
    return pieces


def packed_attention_pieces(config: AttentionConfig, theirs: str, ours: str) -> list[Piece]:
    """Attention of the official Mamba code: one map for queries, keys and values, perhaps a convolution over them."""
    head_dim, heads, kv_heads = config.head_dim or 1, config.n_heads, config.n_kv_heads or config.n_heads
    ends = [count * head_dim for count in (heads, heads + kv_heads, heads + 2 * kv_heads)]
    rows = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    pieces = []
    for part in ("weight", "bias") if config.bias else ("weight",):
        pieces += [
            Piece(f"{theirs}in_proj.{part}", f"{ours}{name}_proj.{part}", (), (there,))
            for name, there in zip("qkv", rows, strict=True)
        ]
        pieces.append(Piece(f"{theirs}out_proj.{part}", f"{ours}o_proj.{part}"))
    if config.d_conv:
        pieces.append(Piece(f"{theirs}conv1d.weight", f"{ours}conv_weight", conv=True))
        pieces.append(Piece(f"{theirs}conv1d.bias", f"{ours}conv_bias"))
    return pieces


def swiglu_pieces(config: FeedForwardConfig, d_inner: int, theirs: str, ours: str) -> list[Piece]:
    """The gated feed-forward by three maps, as in LLaMA: our first map is [up; gate]."""
    parts = ("weight", "bias") if config.bias else ("weight",)
    pieces = []
    for part in parts:
        pieces += [
            Piece(f"{theirs}up_proj.{part}", f"{ours}in_proj.{part}", (slice(0, d_inner),)),
            Piece(f"{theirs}gate_proj.{part}", f"{ours}in_proj.{part}", (slice(d_inner, 2 * d_inner),)),
            Piece(f"{theirs}down_proj.{part}", f"{ours}out_proj.{part}"),
        ]
    return pieces


def expert_pieces(n_experts: int, d_inner: int, theirs: str, ours: str) -> list[Piece]:
    """Gated experts by three maps each."""
    pieces = []
    for e in range(n_experts):
        pieces += [
            Piece(f"{theirs}{e}.up_proj.weight", f"{ours}in_proj", (e, slice(0, d_inner))),
            Piece(f"{theirs}{e}.gate_proj.weight", f"{ours}in_proj", (e, slice(d_inner, 2 * d_inner))),
            Piece(f"{theirs}{e}.down_proj.weight", f"{ours}out_proj", (e,)),
        ]
    return pieces


def fused_expert_pieces(n_experts: int, d_inner: int, gate_up: str, down: str, ours: str) -> list[Piece]:
    """Gated experts in two tensors for all, [gate; up] in the first."""
    every = slice(0, n_experts)
    first, second = slice(0, d_inner), slice(d_inner, 2 * d_inner)
    return [
        Piece(gate_up, f"{ours}in_proj", (every, second), (every, first)),
        Piece(gate_up, f"{ours}in_proj", (every, first), (every, second)),
        Piece(down, f"{ours}out_proj"),
    ]
