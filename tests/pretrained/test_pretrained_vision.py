"""VMamba and Vim by their official names: the official logits, an account of every tensor, or a sentence."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import longstate
from longstate import ImageClassifier, InputError, pretrained
from longstate.models import SelectiveScan2dConfig, VimConfig, VMambaConfig
from longstate.pretrained import Facts

GOLDENS = Path(__file__).parents[1] / "goldens"
Weights = dict[str, Tensor]


def golden(family: str, case: str) -> tuple[Weights, Weights]:
    """The state dict of a case, and its other arrays."""
    with np.load(GOLDENS / f"{family}.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key]) for key in archive.files if key.startswith(f"{case}/")}
    state, others = f"{case}/state_dict/", f"{case}/"
    weights = {key.removeprefix(state): value for key, value in arrays.items() if key.startswith(state)}
    return weights, {key.removeprefix(others): value for key, value in arrays.items() if not key.startswith(state)}


def close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def write(weights: Any, folder: Path) -> Path:
    torch.save(weights, folder / "vision.pth")
    return folder / "vision.pth"


def account(converted: pretrained.Converted) -> tuple[int, set[str]]:
    """How many tensors were taken, and the names of ours that they became."""
    return len(converted.used), {row.ours for row in converted.used}


def test_official_vmamba_gives_the_official_logits(tmp_path: Path) -> None:
    weights, arrays = golden("vmamba", "model/tiny")
    path = write({"model": weights, "epoch": 3, "max_accuracy": 0.5}, tmp_path)
    converted = pretrained.convert(path, facts=Facts(names=("a", "b", "c", "d", "e")))
    model = converted.model
    assert isinstance(model, ImageClassifier)
    assert close(model(arrays["x"].movedim(1, -1)), arrays["y"], 1e-9)
    assert model.config == VMambaConfig(classes=("a", "b", "c", "d", "e"), dims=(8, 16), depths=(1, 1), drop_path=0.0)
    assert account(converted) == (len(weights), set(model.state_dict()))
    assert converted.left == ()
    assert converted.source == "MzeroMiko/VMamba: VMamba of widths 8, 16, 1, 1 blocks, d_state 1"
    assert any("0.485" in said for said in converted.assumed)
    assert close(pretrained.load(path, dtype=torch.float32)(arrays["x"].movedim(1, -1)), arrays["y"], 1e-5)


def test_the_first_names_are_the_same_model(tmp_path: Path) -> None:
    """`ln_1`, `self_attention` and so on, with Linear maps saved as 1 x 1 convolutions; as safetensors."""
    weights, arrays = golden("vmamba", "model/tiny")
    renames = {"patch_embed.0.": "patch_embed.proj.", "patch_embed.2.": "patch_embed.norm.", ".norm.": ".ln_1."}
    renames |= {".op.": ".self_attention.", "classifier.norm.": "norm.", "classifier.head.": "head."}
    old = {}
    for name, tensor in weights.items():
        matching = next((new for new in ("classifier.norm.", "classifier.head.", *renames) if new in name), "")
        renamed = name.replace(matching, renames.get(matching, ""))
        is_map = name.endswith(("fc1.weight", "fc2.weight", "proj.weight")) and tensor.dim() == 2
        old[renamed] = tensor[:, :, None, None].contiguous() if is_map else tensor.clone()
    save_file(old, tmp_path / "old.safetensors")
    converted = pretrained.convert(tmp_path / "old.safetensors")
    assert "layers.0.blocks.0.self_attention.x_proj_weight" in old
    assert close(converted.model(arrays["x"].movedim(1, -1)), arrays["y"], 1e-9)
    assert account(converted) == (len(weights), set(converted.model.state_dict()))


def layer_norm(x: Tensor, weights: Weights, at: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{at}.weight"], weights[f"{at}.bias"])


def by_hand_of_version_0(x: Tensor, weights: Weights) -> Tensor:
    """The official forward of version 0 around one block: patches, a residual block, merging, another block, head."""
    h = F.conv2d(x, weights["patch_embed.0.weight"], weights["patch_embed.0.bias"], stride=2).permute(0, 2, 3, 1)
    h = layer_norm(h, weights, "patch_embed.2")
    for stage in range(2):
        at = f"layers.{stage}.blocks.0"
        block = {key.removeprefix(f"{at}.op."): value for key, value in weights.items() if key.startswith(f"{at}.op.")}
        h = h + scans_by_hand(layer_norm(h, weights, f"{at}.norm"), block)
        if stage == 0:
            h = F.pad(h, (0, 0, 0, h.shape[2] % 2, 0, h.shape[1] % 2))
            h = torch.cat([h[:, 0::2, 0::2], h[:, 1::2, 0::2], h[:, 0::2, 1::2], h[:, 1::2, 1::2]], dim=-1)
            h = F.linear(
                layer_norm(h, weights, "layers.0.downsample.norm"), weights["layers.0.downsample.reduction.weight"]
            )
    h = layer_norm(h, weights, "classifier.norm").mean((1, 2))
    return F.linear(h, weights["classifier.head.weight"], weights["classifier.head.bias"])


def scans_by_hand(u: Tensor, weights: Weights) -> Tensor:
    """SS2D as a loop over pixels, in the layout of the official tensors."""
    x, z = F.linear(u, weights["in_proj.weight"]).chunk(2, dim=-1)
    E = x.shape[-1]
    x = F.conv2d(x.permute(0, 3, 1, 2), weights["conv2d.weight"], weights["conv2d.bias"], padding=1, groups=E)
    x = F.silu(x).permute(0, 2, 3, 1)
    batch, height, width, _ = x.shape
    rows = [(i, j) for i in range(height) for j in range(width)]
    columns = [(i, j) for j in range(width) for i in range(height)]
    y = torch.zeros_like(x)
    for k, order in enumerate((rows, columns, rows[::-1], columns[::-1])):
        A, D = -weights["A_logs"][k * E : (k + 1) * E].exp(), weights["Ds"][k * E : (k + 1) * E]
        rank, N = weights["dt_projs_weight"].shape[-1], A.shape[1]
        h = x.new_zeros(batch, E, N)
        for i, j in order:
            r, B, C = (x[:, i, j] @ weights["x_proj_weight"][k].T).split((rank, N, N), dim=-1)
            dt = F.softplus(r @ weights["dt_projs_weight"][k].T + weights["dt_projs_bias"][k])
            h = torch.exp(dt[..., None] * A) * h + (dt * x[:, i, j])[..., None] * B[:, None]
            y[:, i, j] += (h * C[:, None]).sum(-1) + D * x[:, i, j]
    y = F.layer_norm(y, (E,), weights["out_norm.weight"], weights["out_norm.bias"])
    return F.linear(y * F.silu(z), weights["out_proj.weight"])


def version_0() -> Weights:
    """A VMamba of version 0 without feed-forwards: its scans are the official ones, the rest is drawn."""
    scans, _ = golden("vmamba", "ss2d/v0")

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64) / shape[-1] ** 0.5

    weights = {"patch_embed.0.weight": draw(6, 3, 2, 2), "layers.0.downsample.reduction.weight": draw(6, 24)}
    weights |= {f"layers.{stage}.blocks.0.op.{key}": value for stage in (0, 1) for key, value in scans.items()}
    weights |= {"patch_embed.0.bias": draw(6), "classifier.head.weight": draw(4, 6), "classifier.head.bias": draw(4)}
    norms = {"patch_embed.2": 6, "layers.0.blocks.0.norm": 6, "layers.1.blocks.0.norm": 6}
    for name, size in (norms | {"layers.0.downsample.norm": 24, "classifier.norm": 6}).items():
        weights |= {f"{name}.weight": 1 + draw(size), f"{name}.bias": draw(size)}
    return weights


def test_version_0_is_the_official_forward(tmp_path: Path) -> None:
    weights = version_0()
    converted = pretrained.convert(write(weights, tmp_path))
    config = converted.config
    assert isinstance(config, VMambaConfig)
    assert config.layer == SelectiveScan2dConfig(d_state=4)
    assert (config.patch_size, config.downsampling, config.mlp_ratio) == (2, "merging", 0.0)
    assert account(converted) == (len(weights), set(converted.model.state_dict()))
    assert "the gate z goes through SiLU" in converted.assumed
    x = torch.randn(2, 3, 6, 10, dtype=torch.float64)
    assert close(converted.model(x.movedim(1, -1)), by_hand_of_version_0(x, weights), 1e-9)


def vim(patches: int = 9, norm: str = "rms", token: bool = True) -> Weights:
    """A Vim of two blocks: the mixers are the official golden ones, the rest is drawn."""
    weights: Weights = {}

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    weights |= {"patch_embed.proj.weight": 0.2 * draw(8, 3, 4, 4), "patch_embed.proj.bias": draw(8)}
    weights |= {"pos_embed": draw(1, patches + token, 8), "head.weight": draw(5, 8), "head.bias": draw(5)}
    if token:
        weights["cls_token"] = draw(1, 1, 8)
    mixer, _ = golden("vim", "block/v2_divide")
    for number in range(2):
        weights |= {f"layers.{number}.mixer.{key}": value + 0.01 * number for key, value in mixer.items()}
    for name in ("layers.0.norm", "layers.1.norm", "norm_f"):
        weights[f"{name}.weight"] = 1 + 0.3 * draw(8)
        if norm == "layer":
            weights[f"{name}.bias"] = 0.3 * draw(8)
    return weights


def vim_by_hand(x: Tensor, weights: Weights) -> Tensor:
    """`forward_features` and the head of the official code without fused norms, its residual one block behind."""

    def norm(h: Tensor, at: str) -> Tensor:
        if f"{at}.bias" in weights:
            return layer_norm(h, weights, at)
        return h * (h.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weights[f"{at}.weight"]

    h = F.conv2d(x, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    h = h.flatten(2).transpose(1, 2)
    middle = h.shape[1] // 2
    if "cls_token" in weights:
        h = torch.cat([h[:, :middle], weights["cls_token"].expand(len(h), -1, -1), h[:, middle:]], dim=1)
    h, residual = h + weights["pos_embed"], None
    for number in range(2):
        residual = h if residual is None else residual + h
        at = f"layers.{number}.mixer."
        mixer = {key.removeprefix(at): value for key, value in weights.items() if key.startswith(at)}
        h = mixer_by_hand(norm(residual, f"layers.{number}.norm"), mixer)
    h = norm(residual + h, "norm_f")
    h = h[:, middle] if "cls_token" in weights else h.mean(1)
    return F.linear(h, weights["head.weight"], weights["head.bias"])


def mixer_by_hand(u: Tensor, weights: Weights) -> Tensor:
    """The block of Vim with `bimamba_type="v2"` and `if_divide_out`, as a loop over time."""

    def branch(x: Tensor, z: Tensor, suffix: str) -> Tensor:
        taps = weights[f"conv1d{suffix}.weight"]
        E, width = taps.shape[0], taps.shape[2]
        x = F.conv1d(F.pad(x.mT, (width - 1, 0)), taps, weights[f"conv1d{suffix}.bias"], groups=E)
        x = F.silu(x).mT
        A = -weights["A_b_log" if suffix else "A_log"].exp()
        N, rank = A.shape[1], weights[f"dt_proj{suffix}.weight"].shape[1]
        h, y = x.new_zeros(len(x), E, N), []
        for t in range(x.shape[1]):
            r, B, C = (x[:, t] @ weights[f"x_proj{suffix}.weight"].T).split((rank, N, N), dim=-1)
            dt = F.softplus(r @ weights[f"dt_proj{suffix}.weight"].T + weights[f"dt_proj{suffix}.bias"])
            h = torch.exp(dt[..., None] * A) * h + (dt * x[:, t])[..., None] * B[:, None]
            y.append((h * C[:, None]).sum(-1) + weights[f"D{suffix}"] * x[:, t])
        return torch.stack(y, dim=1) * F.silu(z)

    x, z = F.linear(u, weights["in_proj.weight"]).chunk(2, dim=-1)
    both = branch(x, z, "") + branch(x.flip(1), z.flip(1), "_b").flip(1)
    return F.linear(both / 2, weights["out_proj.weight"])


def test_the_hand_written_mixer_is_the_official_one() -> None:
    weights, arrays = golden("vim", "block/v2_divide")
    assert close(mixer_by_hand(arrays["u"], weights), arrays["y"], 1e-9)


@pytest.mark.parametrize(("norm", "token"), [("rms", True), ("layer", True), ("rms", False)])
def test_vim_is_the_official_forward(norm: str, token: bool, tmp_path: Path) -> None:
    weights = vim(norm=norm, token=token)
    converted = pretrained.convert(write({"model": weights}, tmp_path))
    config = converted.config
    assert isinstance(config, VimConfig)
    assert (config.image_size, config.stride, config.n_layers, config.norm) == ((12, 12), None, 2, norm)
    assert config.pooling == ("middle_token" if token else "mean")
    assert account(converted) == (len(weights), set(converted.model.state_dict()))
    assert converted.source == "hustvl/Vim: Vim of width 8, 2 blocks, d_state 8"
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    assert close(converted.model(x.movedim(1, -1)), vim_by_hand(x, weights), 1e-9)


def test_a_block_of_a_converted_vim_is_the_golden_one(tmp_path: Path) -> None:
    _, arrays = golden("vim", "block/v2_divide")
    model = pretrained.load(write(vim(), tmp_path))
    assert close(model.body.blocks[0].mixer(arrays["u"]), arrays["y"], 1e-9)


@pytest.mark.parametrize(
    ("patches", "size", "stride"),
    [(56**2, 224, None), (111**2, 224, 2), (96**2, 384, None), (64**2, 256, None), (9, 12, None)],
)
def test_the_number_of_patches_says_size_and_stride(
    patches: int, size: int, stride: int | None, tmp_path: Path
) -> None:
    config = pretrained.convert(write(vim(patches), tmp_path)).config
    assert isinstance(config, VimConfig)
    assert (config.image_size, config.stride) == ((size, size), stride)


def test_what_was_converted_is_saved(tmp_path: Path) -> None:
    weights, arrays = golden("vmamba", "model/tiny")
    pretrained.save(pretrained.convert(write(weights, tmp_path)), tmp_path / "model")
    found = longstate.load(tmp_path / "model")
    assert close(found(arrays["x"].movedim(1, -1)), arrays["y"], 1e-9)
    entry = json.loads((tmp_path / "model" / "config.json").read_text())
    assert entry["image_model"]["kind"] == "vmamba"


def without(weights: Weights, *endings: str) -> Weights:
    return {name: value for name, value in weights.items() if not name.endswith(endings)}


def tiny() -> Weights:
    return golden("vmamba", "model/tiny")[0]


_OP = "layers.0.blocks.0.op."


@pytest.mark.parametrize(
    ("make", "facts", "text"),
    [
        (lambda: without(tiny(), "op.Ds"), Facts(), "lacks layers.0.blocks.0.op.Ds, but it is needed beside"),
        (lambda: tiny() | {"outnorm0.weight": torch.ones(8)}, Facts(), "holds outnorm0.weight besides the tensors of"),
        (
            lambda: tiny() | {"classifier.norm.running_mean": torch.ones(16)},
            Facts(),
            r"normalises by statistics of batches \(norm_layer=bn\)",
        ),
        (lambda: tiny(), Facts(names=("a", "b")), "`names` are 2, but .* has 5 classes; give one name for each"),
        (lambda: tiny(), Facts(pooling="mean"), r"only `names` \(--names\) can be added"),
        (
            lambda: tiny() | {f"{_OP}out_norm.weight": torch.ones(8, 1, 3, 3)},
            Facts(),
            r"out_norm of shape \(8, 1, 3, 3\), a convolution after the scans, but longstate has a layer norm",
        ),
        (
            lambda: tiny() | {f"{_OP}A_logs": torch.ones(30, 1)},
            Facts(),
            r"has layers.0.blocks.0.op.A_logs of shape \(30, 1\), which does not become .*A_log of shape \(4, 8, 1\)",
        ),
        (
            lambda: tiny() | {f"{_OP}A_logs": torch.ones(())},
            Facts(),
            r"has .*A_logs of shape \(\), but 2 axes are needed",
        ),
        (
            lambda: {name.replace("layers.1.", "layers.2."): value for name, value in tiny().items()},
            Facts(),
            "has blocks of VMamba with gaps between their numbers",
        ),
        (lambda: vim(patches=10), Facts(), "has positions for 10 patches, but a square number is needed"),
        (lambda: vim() | {"rope.freqs_cos": torch.ones(4)}, Facts(), r"turns its patches \(if_rope\), but longstate's"),
        (lambda: vim() | {"cls_token_head": torch.ones(1, 1, 8)}, Facts(), "has two class tokens, but longstate's Vim"),
        (lambda: vim() | {"layers.0.mixer.gamma": torch.ones(8)}, Facts(), "holds layers.0.mixer.gamma besides"),
        (
            lambda: {name.replace("layers.0.mixer.D_b", "layers.3.mixer.D_b"): value for name, value in vim().items()},
            Facts(),
            "has blocks of Vim with gaps between their numbers",
        ),
        (lambda: without(vim(), "0.mixer.D_b"), Facts(), "lacks layers.0.mixer.D_b, but it is needed"),
        (lambda: vim() | {"pos_embed": torch.ones(10, 8)}, Facts(), r"has pos_embed of shape \(10, 8\), but 3 axes"),
    ],
)
def test_what_cannot_be_converted_is_said(make, facts: Facts, text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=text):
        pretrained.convert(write(make(), tmp_path), facts=facts)
