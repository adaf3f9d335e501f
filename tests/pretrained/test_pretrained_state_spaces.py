"""The official Mamba code's models beyond the golden ones, by hand: feed-forwards, attention, LayerNorm, Mistral's."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from longstate import InputError, LanguageModel, pretrained

D, E, N, R, HEADS, KV_HEADS, HEAD_DIM, TURNED = 16, 32, 4, 1, 4, 2, 8, 4
ATTENTION = {"causal": True, "num_heads": HEADS, "num_heads_kv": KV_HEADS, "head_dim": HEAD_DIM}
Weights = dict[str, Tensor]


def draw(*shape: int, scale: float = 0.3) -> Tensor:
    return scale * torch.randn(*shape)


def mamba_weights() -> Weights:
    return {
        "in_proj.weight": draw(2 * E, D),
        "conv1d.weight": draw(E, 1, 4),
        "conv1d.bias": draw(E),
        "x_proj.weight": draw(R + 2 * N, E),
        "dt_proj.weight": draw(E, R),
        "dt_proj.bias": draw(E) - 2,
        "A_log": draw(E, N),
        "D": draw(E),
        "out_proj.weight": draw(D, E),
    }


def attention_weights(d_conv: int, bias: bool) -> Weights:
    rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    weights = {"in_proj.weight": draw(rows, D), "out_proj.weight": draw(D, HEADS * HEAD_DIM)}
    if bias:
        weights |= {"in_proj.bias": draw(rows), "out_proj.bias": draw(D)}
    if d_conv:
        weights |= {"conv1d.weight": draw(rows, 1, d_conv), "conv1d.bias": draw(rows)}
    return weights


def norm_weights(rms: bool) -> Weights:
    return {"weight": 1 + draw(D)} | ({} if rms else {"bias": draw(D)})


def mamba(x: Tensor, w: Weights) -> Tensor:
    """The layer of arXiv 2312.00752 as a loop."""
    u, z = (x @ w["in_proj.weight"].T).chunk(2, -1)
    u = F.silu(F.conv1d(u.mT, w["conv1d.weight"], w["conv1d.bias"], padding=3, groups=E)[..., : x.shape[1]].mT)
    r, B, C = (u @ w["x_proj.weight"].T).split([R, N, N], -1)
    dt = F.softplus(r @ w["dt_proj.weight"].T + w["dt_proj.bias"])
    h, y = torch.zeros(len(x), E, N, dtype=x.dtype), []
    for t in range(x.shape[1]):
        h = (dt[:, t, :, None] * -w["A_log"].exp()).exp() * h + (dt * u)[:, t, :, None] * B[:, t, None]
        y.append((h * C[:, t, None]).sum(-1) + w["D"] * u[:, t])
    return (torch.stack(y, 1) * F.silu(z)) @ w["out_proj.weight"].T


def attention(x: Tensor, w: Weights, turned: int, base: float) -> Tensor:
    """The MHA of mamba_ssm/modules/mha.py: rows [q, k, v], a convolution over them, a part of each head turned."""
    length = x.shape[1]
    qkv = F.linear(x, w["in_proj.weight"], w.get("in_proj.bias"))
    if "conv1d.weight" in w:
        weight = w["conv1d.weight"]
        qkv = F.conv1d(qkv.mT, weight, w["conv1d.bias"], padding=weight.shape[-1] - 1, groups=len(weight))
        qkv = qkv[..., :length].mT
    q, k, v = qkv.unflatten(-1, (-1, HEAD_DIM)).split([HEADS, KV_HEADS, KV_HEADS], -2)
    if turned:
        turn = base ** (-torch.arange(0, turned, 2, dtype=x.dtype) / turned)
        angle = (torch.arange(length, dtype=x.dtype)[:, None] * turn)[:, None]
        q, k = (turn_by(part, angle) for part in (q, k))
    k, v = (part.repeat_interleave(HEADS // KV_HEADS, -2) for part in (k, v))
    y = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True)
    return F.linear(y.transpose(1, 2).flatten(2), w["out_proj.weight"], w.get("out_proj.bias"))


def turn_by(x: Tensor, angle: Tensor) -> Tensor:
    half = angle.shape[-1]
    pair = torch.complex(x[..., :half], x[..., half : 2 * half]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([pair.real, pair.imag, x[..., 2 * half :]], -1)


def normalise(x: Tensor, w: Weights) -> Tensor:
    if "bias" in w:
        return F.layer_norm(x, (D,), w["weight"], w["bias"])
    return F.rms_norm(x, (D,), w["weight"], eps=1e-5)


def within(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def weights_of(config: dict[str, Any], n_layers: int = 3) -> Weights:
    rms, width = config.get("rms_norm", True), config.get("d_intermediate", 0)
    cfg = config.get("attn_cfg", {})
    rows = -(-config["vocab_size"] // config.get("pad_vocab_size_multiple", 8))
    weights = {"backbone.embedding.weight": draw(rows * config.get("pad_vocab_size_multiple", 8), D, scale=1.0)}
    for i in range(n_layers):
        is_attention = i in config.get("attn_layer_idx", [])
        d_conv, bias = cfg.get("d_conv", 0), cfg.get("qkv_proj_bias", True)
        mixer = attention_weights(d_conv, bias) if is_attention else mamba_weights()
        weights |= {f"backbone.layers.{i}.mixer.{name}": tensor for name, tensor in mixer.items()}
        weights |= {f"backbone.layers.{i}.norm.{name}": tensor for name, tensor in norm_weights(rms).items()}
        if width:
            inner = -(-width // 128) * 128
            weights |= {f"backbone.layers.{i}.norm2.{name}": tensor for name, tensor in norm_weights(rms).items()}
            weights[f"backbone.layers.{i}.mlp.fc1.weight"] = draw(2 * inner, D)
            weights[f"backbone.layers.{i}.mlp.fc2.weight"] = draw(D, inner, scale=0.05)
    weights |= {f"backbone.norm_f.{name}": tensor for name, tensor in norm_weights(rms).items()}
    tied = config.get("tie_embeddings", True)
    embedding = weights["backbone.embedding.weight"]
    return weights | {"lm_head.weight": embedding.clone() if tied else draw(*embedding.shape)}


def by_hand(weights: Weights, config: dict[str, Any], ids: Tensor) -> Tensor:
    weights = {name: tensor.double() for name, tensor in weights.items()}
    cfg = config.get("attn_cfg", {})
    h = weights["backbone.embedding.weight"][ids]
    for i in range(config["n_layer"]):
        at = f"backbone.layers.{i}."
        w, x = within(weights, f"{at}mixer."), normalise(h, within(weights, f"{at}norm."))
        if i in config.get("attn_layer_idx", []):
            h = h + attention(x, w, cfg.get("rotary_emb_dim", 0), cfg.get("rotary_emb_base", 10_000.0))
        else:
            h = h + mamba(x, w)
        if config.get("d_intermediate", 0):
            x = normalise(h, within(weights, f"{at}norm2."))
            y, gate = (x @ weights[f"{at}mlp.fc1.weight"].T).chunk(2, -1)
            h = h + (y * F.silu(gate)) @ weights[f"{at}mlp.fc2.weight"].T
    return normalise(h, within(weights, "backbone.norm_f.")) @ weights["lm_head.weight"].T


def write(config: dict[str, Any], weights: Weights, folder: Path, kind: str = "bin") -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if kind == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(weights, folder / "model.safetensors")
    return folder


BASE: dict[str, Any] = {"d_model": D, "n_layer": 3, "vocab_size": 45, "ssm_cfg": {"d_state": N}}
NAMED = {"layer": "Mamba1", "d_state": N}
ROTARY = {**ATTENTION, "rotary_emb_dim": HEAD_DIM}
HYBRID = {**ATTENTION, "d_conv": 4, "rotary_emb_dim": TURNED, "qkv_proj_bias": False, "out_proj_bias": False}
CONFIGS = {
    "old": {**BASE, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8},
    "layer norm": {**BASE, "rms_norm": False, "residual_in_fp32": False},
    "own head": {**BASE, "tie_embeddings": False, "pad_vocab_size_multiple": 16, "ssm_cfg": NAMED},
    "feed-forward": {**BASE, "d_intermediate": 100},
    "hybrid as published": {**BASE, "attn_layer_idx": [1], "attn_cfg": HYBRID},
    "transformer": {**BASE, "d_intermediate": 128, "attn_layer_idx": [0, 1, 2], "attn_cfg": ROTARY},
    "no positions": {**BASE, "attn_layer_idx": [0, 2], "attn_cfg": ATTENTION, "rms_norm": False, "d_intermediate": 129},
    "other base": {**BASE, "attn_layer_idx": [2], "attn_cfg": {**HYBRID, "rotary_emb_base": 500.0, "d_conv": 2}},
}


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_form_gives_the_logits_of_the_program_by_hand(name: str, kind: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    weights = weights_of(config)
    converted = pretrained.convert(write(config, weights, tmp_path, kind), dtype=torch.float64)
    ids = torch.randint(45, (2, 17))
    wanted = by_hand(weights, config, ids)[..., :45]
    assert isinstance(converted.model, LanguageModel)
    found = converted.model(ids).detach()
    assert float((found - wanted).abs().max()) <= 1e-10 * float(wanted.abs().max())
    assert {used.name for used in converted.used} == set(weights)
    state = converted.model.initial_state(2)
    chunks = []
    for chunk in ids.split([2, 1, 14], 1):
        logits, state = converted.model.forward_with_state(chunk, state)
        chunks.append(logits.detach())
    assert float((torch.cat(chunks, 1) - wanted).abs().max()) <= 1e-10 * float(wanted.abs().max())


def test_the_schedule_is_said(tmp_path: Path) -> None:
    config = CONFIGS["no positions"]
    converted = pretrained.convert(write(config, weights_of(config), tmp_path))
    assert converted.source == "state-spaces/mamba: attention and feed-forwards and Mamba"
    kinds = [layer.kind for layer in converted.model.config.backbone.schedule]
    assert kinds == ["attention", "feed_forward", "mamba", "feed_forward", "attention", "feed_forward"]


def test_a_tied_head_in_a_pickle_shares_its_memory_and_is_not_compared(tmp_path: Path) -> None:
    weights = weights_of(BASE)
    weights["lm_head.weight"] = weights["backbone.embedding.weight"]
    assert isinstance(pretrained.load(write(BASE, weights, tmp_path)), LanguageModel)
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    with pytest.raises(
        InputError, match=r"has a head lm_head.weight of shape \(48, 16\) that is not its embeddings, but"
    ):
        pretrained.load(write(BASE, weights, tmp_path))


def test_mamba_3_with_ranks_and_a_norm(tmp_path: Path) -> None:
    heads, rank, P = 4, 2, 8
    config = {**BASE, "n_layer": 1, "ssm_cfg": {"layer": "Mamba3", "d_state": 8, "headdim": P, "is_mimo": True}}
    config["ssm_cfg"] |= {"mimo_rank": rank, "is_outproj_norm": True, "rope_fraction": 1.0}
    mixer = {
        "in_proj.weight": draw(2 * E + 2 * rank * 8 + 3 * heads + 4, D),
        "dt_bias": draw(heads),
        "B_bias": draw(heads, rank, 8),
        "C_bias": draw(heads, rank, 8),
        "B_norm.weight": draw(8),
        "C_norm.weight": draw(8),
        "D": draw(heads),
        "mimo_x": draw(heads, rank, P),
        "mimo_z": draw(heads, rank, P),
        "mimo_o": draw(heads, rank, P),
        "norm.weight": draw(E),
        "out_proj.weight": draw(D, E),
    }
    weights = {"backbone.embedding.weight": draw(48, D), "backbone.layers.0.norm.weight": draw(D)}
    weights |= {f"backbone.layers.0.mixer.{name}": tensor for name, tensor in mixer.items()}
    weights |= {"backbone.norm_f.weight": draw(D), "lm_head.weight": weights["backbone.embedding.weight"]}
    model = pretrained.load(write(config, weights, tmp_path))
    assert isinstance(model, LanguageModel)
    layer = model.backbone.layers[0].layer
    assert (layer.pairs, layer.rank) == ("halves", 2)
    assert torch.equal(layer.norm_weight.flatten(), mixer["norm.weight"])
    assert torch.equal(layer.rank_out, mixer["mimo_o"])


def mistral(tmp_path: Path, **changes: Any) -> tuple[Path, Weights]:
    """Mamba-2 weights behind "model.", with params.json, and the same in the official form."""
    official = Path(__file__).parents[1] / "goldens" / "checkpoints" / "ssm_format_mamba2_tiny" / "pytorch_model.bin"
    weights = torch.load(official, weights_only=True)
    params = {"dim": D, "n_layers": 2, "vocab_size": 45, "n_groups": 2, "rms_norm": True, "residual_in_fp32": True}
    params |= {"fused_add_norm": True, "pad_vocab_size_multiple": 16, "tie_embeddings": True, "model_type": "mamba"}
    named = {f"model.{name}": tensor.clone() for name, tensor in weights.items()}
    safetensors.torch.save_file(named, tmp_path / "consolidated.safetensors")
    (tmp_path / "params.json").write_text(json.dumps(params | changes))
    return tmp_path, named


def test_mistral_says_less_than_its_code_so_other_sizes_are_refused(tmp_path: Path) -> None:
    """Codestral-Mamba has the program's d_state 128 and head_dim 64; params.json has no place for them."""
    folder, _ = mistral(tmp_path)
    with pytest.raises(InputError, match="has a configuration that cannot be used: d_ssm is 32 with head_dim 64"):
        pretrained.load(folder)


def test_mistral(tmp_path: Path) -> None:
    d_model, heads, groups = 64, 2, 2
    channels = 2 * d_model + 2 * groups * 128
    mixer = {
        "in_proj.weight": draw(2 * d_model + channels + heads, d_model),
        "conv1d.weight": draw(channels, 1, 4),
        "conv1d.bias": draw(channels),
        "dt_bias": draw(heads),
        "A_log": draw(heads),
        "D": draw(heads),
        "norm.weight": draw(2 * d_model),
        "out_proj.weight": draw(d_model, 2 * d_model),
    }
    weights = {"backbone.embedding.weight": draw(64, d_model), "backbone.norm_f.weight": draw(d_model)}
    for i in range(2):
        weights[f"backbone.layers.{i}.norm.weight"] = draw(d_model)
        weights |= {f"backbone.layers.{i}.mixer.{name}": tensor + i for name, tensor in mixer.items()}
    weights["lm_head.weight"] = draw(64, d_model)
    folder, _ = mistral(tmp_path, dim=d_model, vocab_size=50, pad_vocab_size_multiple=64, tie_embeddings=False)
    named = {f"model.{name}": tensor for name, tensor in weights.items()}
    safetensors.torch.save_file(named, tmp_path / "consolidated.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "mamba2"}')  # of the other form in the same folder
    converted = pretrained.convert(folder)
    assert converted.source == "Mistral's Codestral-Mamba: Mamba-2"
    assert {used.name for used in converted.used} == set(named)
    (tmp_path / "official").mkdir()
    config = {"d_model": d_model, "n_layer": 2, "vocab_size": 50, "ssm_cfg": {"layer": "Mamba2", "ngroups": 2}}
    config |= {"pad_vocab_size_multiple": 64, "tie_embeddings": False}
    official = pretrained.load(write(config, weights, tmp_path / "official"))
    ids = torch.randint(50, (1, 9))
    assert torch.equal(converted.model(ids), official(ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ssm_cfg": {"layer": "RWKV"}}, r"config.json` has ssm_cfg.layer = 'RWKV', but one of Mamba1, Mamba2, Mamba3"),
        ({"ssm_cfg": {"d_state": N, "gate": 1}}, r"has ssm_cfg.gate = 1, which longstate does not know there \(it kno"),
        ({"ssm_cfg": 3}, "has ssm_cfg = 3, but an object is needed; use the configuration that was saved with the wei"),
        ({"moe_cfg": {}}, r"has moe_cfg = {}, which longstate does not know there \(it knows d_model, d_intermediate,"),
        ({"n_layer": 2}, r"holds backbone.layers.2.mixer.in_proj.weight, .* and \d+ more besides the tensors of state"),
        ({"n_layer": 4}, "lacks backbone.layers.3.norm.weight, but it is needed beside backbone.embedding.weight"),
        ({"n_layer": 10**6}, r"has n_layer = 1000000, but a number that goes with the 33 tensors of the file is neede"),
        ({"n_layer": True}, "has n_layer = True, but an integer from 1 to 16777216 is needed"),
        ({"d_model": 32}, r"has backbone.embedding.weight of shape \(48, 16\), but its configuration means \(48, 32\)"),
        ({"vocab_size": 50}, r"has backbone.embedding.weight of shape \(48, 16\), but its configuration means \(56, 1"),
        ({"ssm_cfg": {"d_state": 5}}, r"has backbone.layers.0.mixer.x_proj.weight of shape \(9, 32\), but its .* \(11"),
        ({"ssm_cfg": {"expand": 2**24}}, r"mixer.in_proj.weight of shape \(64, 16\), but its configuration means \(53"),
        ({"ssm_cfg": {"d_state": N, "bias": 1}}, "has ssm_cfg.bias = 1, but true or false is needed"),
        ({"d_intermediate": 128}, "lacks backbone.layers.0.norm2.weight, but it is needed"),
        ({"rms_norm": False}, "lacks backbone.layers.0.norm.bias, but it is needed"),
        ({"attn_layer_idx": [1], "attn_cfg": {"num_heads": 4}}, "has attn_cfg.causal = None, but true is needed"),
        ({"attn_layer_idx": [1], "attn_cfg": {**ATTENTION, "mlp_dim": 4}}, "has attn_cfg.mlp_dim = 4, but longstate's"),
        ({"attn_layer_idx": ["a"], "attn_cfg": ATTENTION}, "has attn_layer_idx = 'a', but an integer from 0"),
        (
            {"attn_layer_idx": [1], "attn_cfg": {**ATTENTION, "out_proj_bias": False}},
            "has attn_cfg.out_proj_bias = False, but longstate's form of this model has True; it cannot be loaded",
        ),
        ({"ssm_cfg": {"layer": "Mamba3", "is_mimo": True, "mimo_rank": 1}}, "ssm_cfg.mimo_rank = 1, but a rank above "),
        ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": [1, 0]}}, r"dt_limit = \[1, 0\], but two numbers 0 <= smallest <"),
        ({"ssm_cfg": {"layer": "Mamba2", "dt_limit": 3}}, r"ssm_cfg.dt_limit = 3, but a list of two numbers is needed"),
        ({"ssm_cfg": {"layer": "Mamba2", "headdim": 5}}, "has a configuration that cannot be used: d_ssm is 32 with h"),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = write(BASE | changes, weights_of(BASE), tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        pretrained.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"n_heads": 8},
            r"params.json` has n_heads = 8, but longstate's form of this model has no such thing; it",
        ),
        (
            {"model_type": "transformer"},
            "has model_type = 'transformer', but longstate's form of this model has 'mamba'",
        ),
        ({"vocab_size": None}, "params.json` lacks vocab_size, but it is needed to know the model"),
    ],
)
def test_other_models_of_mistral_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        pretrained.load(mistral(tmp_path, **changes)[0])
