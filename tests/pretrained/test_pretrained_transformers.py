"""Tiny random models of transformers, which computes the same: whole, in chunks, padded, token by token, in shards."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import tiny_models
from longstate import InputError, LanguageModel, pretrained
from longstate.inference import align
from tiny_models import CASES, ids

EXACT_PADDING = [name for name, (_, options) in CASES.items() if not {"use_bias", "mamba_proj_bias"} & options.keys()]
"""transformers lets biases of projections flow into the convolution from left padding."""

WRITTEN = [name for name, (kind, _) in CASES.items() if kind in ("Mamba", "FalconMamba", "Mamba2", "Jamba")]


class Pair:
    """One model, as transformers and as longstate have it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.theirs: Any = tiny_models.save(name, folder)
        self.ours = load(folder)
        self.folder = folder


def load(folder: Path, dtype: torch.dtype | None = None) -> LanguageModel:
    model = pretrained.load(folder, dtype=dtype)
    assert isinstance(model, LanguageModel)
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(request.param, tmp_path_factory.mktemp("model"))


def assert_close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def test_prefill(pair: Pair) -> None:
    assert_close(pair.ours(ids()), tiny_models.logits(pair.theirs, ids()))


def test_a_continuation_by_several_tokens_is_the_whole_in_one_shot(pair: Pair) -> None:
    wanted = tiny_models.logits(pair.theirs, ids())
    for cut in (1, 3, 12):
        _, state = pair.ours.forward_with_state(ids()[:, :cut], pair.ours.initial_state(2))
        found, _ = pair.ours.forward_with_state(ids()[:, cut:], state)
        assert_close(found, wanted[:, cut:])


def test_padded_rows_are_the_rows_alone(pair: Pair) -> None:
    lengths = [19, 4, 11]
    rows = [ids(1, length) for length in lengths]
    batch, mask = torch.zeros(3, 19, dtype=torch.int64), torch.zeros(3, 19, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        batch[row, 19 - tokens.shape[1] :] = tokens
        mask[row, 19 - tokens.shape[1] :] = 1
    aligned, counted = align(batch, mask)
    assert counted.tolist() == lengths
    found = pair.ours(aligned, lengths=counted)
    for row, tokens in enumerate(rows):
        assert_close(found[row, : tokens.shape[1]], tiny_models.logits(pair.theirs, tokens)[0])


@pytest.mark.parametrize("name", EXACT_PADDING)
def test_padded_rows_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    both = Pair(name, tmp_path)
    batch, mask = ids(2, 12), torch.ones(2, 12, dtype=torch.int64)
    batch[0, :5], mask[0, :5] = 0, 0
    aligned, lengths = align(batch, mask)
    wanted = tiny_models.logits(both.theirs, batch, mask)
    assert_close(both.ours(aligned, lengths=lengths)[0, :7], wanted[0, 5:])


def test_greedy_tokens_one_by_one(pair: Pair) -> None:
    prompt = ids(2, 7)
    wanted = pair.theirs.generate(prompt, max_new_tokens=9, do_sample=False)
    logits, state = pair.ours.prefill(prompt, pair.ours.initial_state(2))
    constants = pair.ours.constants()
    for place in range(7, 16):
        assert torch.equal(logits.argmax(-1), wanted[:, place])
        logits, state = pair.ours.step(wanted[:, place], state, constants=constants)


@pytest.mark.parametrize("name", WRITTEN)
def test_saved_back_bit_by_bit(name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    import transformers

    pair = Pair(name, tmp_path_factory.mktemp("model"))
    pretrained.save_hugging_face(pair.ours, tmp_path)
    first, second = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (pair.folder, tmp_path))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert (tensor.dtype, tensor.shape) == (second[name].dtype, second[name].shape)
        assert torch.equal(tensor, second[name])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(pair.theirs)
    # Not to the bit: the chunks of transformers' Mamba-2, which change rounding, are no part of a model of longstate.
    assert_close(tiny_models.logits(again, ids()), tiny_models.logits(pair.theirs, ids()), 1e-6)
    assert load(tmp_path).config == pair.ours.config


@pytest.mark.parametrize("name", ["mamba, own head", "mamba2", "jamba", "granite", "nemotron_h"])
def test_shards_hold_the_same_model(name: str, tmp_path: Path) -> None:
    theirs = tiny_models.save(name, tmp_path, max_shard_size="8KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert_close(load(tmp_path)(ids()), tiny_models.logits(theirs, ids()))


@pytest.mark.parametrize("name", ["mamba", "falcon_mamba", "mamba2, groups", "jamba"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_or_widened(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = tiny_models.make(name, dtype)
    theirs.save_pretrained(tmp_path / "half")
    kept = load(tmp_path / "half")
    assert {tensor.dtype for tensor in kept.state_dict().values()} == {dtype}
    wide = load(tmp_path / "half", torch.float32)
    wanted = tiny_models.logits(theirs.float(), ids())
    assert_close(wide(ids()), wanted)
    assert_close(kept(ids()).float(), wanted, 0.2 if dtype is torch.bfloat16 else 0.02)
    pretrained.save_hugging_face(kept, tmp_path / "back")
    first, second = ((tmp_path / at / "model.safetensors") for at in ("half", "back"))
    a, b = safetensors.torch.load_file(first), safetensors.torch.load_file(second)
    assert a.keys() == b.keys()
    assert all(b[name].dtype is dtype and torch.equal(tensor, b[name]) for name, tensor in a.items())
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("name", ["mamba", "mamba2, groups", "falcon_mamba", "granite"])
def test_wide_parameters_beside_narrow_ones(name: str, tmp_path: Path) -> None:
    """A, D, steps and norms in float32, as training in mixed precision leaves them."""
    tiny_models.save(name, tmp_path)
    path = tmp_path / "model.safetensors"
    wide = ("A_log", "mixer.D", "dt_bias", "dt_proj.bias", "norm.weight", "norm_f.weight")
    weights = safetensors.torch.load_file(path)
    mixed = {own: tensor if own.endswith(wide) else tensor.bfloat16() for own, tensor in weights.items()}
    safetensors.torch.save_file(mixed, path)
    model, wanted = load(tmp_path), load(tmp_path, torch.float64)(ids())
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.bfloat16}
    assert_close(model(ids()).double(), wanted, 0.05)
    _, state = model.forward_with_state(ids()[:, :7], model.initial_state(2))
    assert_close(model.forward_with_state(ids()[:, 7:], state)[0].double(), wanted[:, 7:], 0.05)
    assert_close(model.step(ids()[:, 7], state)[0].double(), wanted[:, 7], 0.05)


def test_fused_experts(tmp_path: Path) -> None:
    theirs = tiny_models.save("jamba", tmp_path)
    fused = theirs.state_dict()
    assert any(name.endswith("experts.gate_up_proj") for name in fused)
    safetensors.torch.save_file(fused, tmp_path / "model.safetensors")
    converted = pretrained.convert(tmp_path)
    assert_close(converted.model(ids()).detach(), tiny_models.logits(theirs, ids()))
    assert {used.name for used in converted.used} == set(fused)


def test_names_and_limits_of_older_files(tmp_path: Path) -> None:
    theirs = tiny_models.save("mamba2, limits", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    path = tmp_path / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    weights["backbone.embedding.weight"] = weights.pop("backbone.embeddings.weight")
    safetensors.torch.save_file(weights, path)
    assert_close(load(tmp_path)(ids()), tiny_models.logits(theirs, ids()))
    for written in ("Infinity", '{"__float__": "Infinity"}'):
        text = json.dumps(config | {"time_step_limit": [0.0, "LIMIT"]}).replace('"LIMIT"', written)
        (tmp_path / "config.json").write_text(text)
        layer = load(tmp_path).config.backbone.layer
        assert (vars(layer)["dt_floor"], vars(layer)["dt_ceiling"]) == (0.0, None)


def test_old_pickles_and_files_by_themselves(tmp_path: Path) -> None:
    theirs = tiny_models.save("mamba", tmp_path)
    wanted = tiny_models.logits(theirs, ids())
    assert_close(pretrained.load(tmp_path / "model.safetensors")(ids()).detach(), wanted)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    converted = pretrained.convert(tmp_path)
    assert_close(converted.model(ids()).detach(), wanted)
    assert {used.name: used.ours for used in converted.used}["lm_head.weight"] == "embedding.weight"


def change(folder: Path, *removed: str, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if name not in removed}))


def test_older_configurations_of_the_hybrids(tmp_path: Path) -> None:
    """Patterns by letters, positions beside the other values, and older names of layers."""
    for name in ("bamba", "falcon_h1", "granite", "nemotron_h"):
        theirs = tiny_models.save(name, tmp_path / name)
        if name in ("bamba", "falcon_h1"):
            change(tmp_path / name, "rope_parameters", rope_theta=50.0, rope_scaling=None, mamba_d_head="auto")
        elif name == "granite":
            change(tmp_path / name, "rope_parameters", layer_types=["mamba", "attention"])
        else:
            change(tmp_path / name, "layers_block_type", hybrid_override_pattern="M*-M")
        assert_close(load(tmp_path / name)(ids()), tiny_models.logits(theirs, ids()))


def test_multipliers_of_falcon_h1_are_in_the_weights(tmp_path: Path) -> None:
    """In bfloat16 they are rounded once, widened not at all; what has them is not written back."""
    import transformers

    theirs = tiny_models.make("falcon_h1", torch.bfloat16)
    theirs.save_pretrained(tmp_path / "model")
    model = load(tmp_path / "model")
    layer, found = theirs.model.layers[1], dict(model.named_parameters())
    keys = found["backbone.layers.2.layer.attention.k_proj.weight"]
    assert torch.equal(keys, layer.self_attn.k_proj.weight * (1.3 * 0.7))
    assert torch.equal(
        found["backbone.layers.2.layer.ssm.in_proj.weight"][64:72], layer.mamba.in_proj.weight[64:72] * 1.68
    )
    down = found["backbone.layers.3.layer.out_proj.weight"]
    assert torch.equal(down, layer.feed_forward.down_proj.weight * 0.3)
    assert torch.equal(found["backbone.layers.3.layer.in_proj.weight"][:24], layer.feed_forward.up_proj.weight)
    wide = dict(load(tmp_path / "model", torch.float32).named_parameters())["backbone.layers.3.layer.out_proj.weight"]
    assert torch.equal(wide, layer.feed_forward.down_proj.weight.float() * 0.3)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert_close(load(tmp_path / "model", torch.float32)(ids()), tiny_models.logits(again, ids()))
    assert (model.config.embedding_scale, model.config.logit_scale) == (3.0, 0.4)
    with pytest.raises(
        InputError, match=r"`model` has the layers parallel_hybrid, feed_forward in a form that is none"
    ):
        pretrained.save_hugging_face(model, tmp_path / "out")


@pytest.mark.parametrize("name", ["nemotron_h, experts", "nemotron_h, latent experts"])
def test_experts_of_nemotron_in_one_tensor(name: str, tmp_path: Path) -> None:
    theirs = tiny_models.save(name, tmp_path)
    weights = {own: tensor.clone() for own, tensor in theirs.state_dict().items()}
    assert any(own.endswith("mixer.experts.up_proj") for own in weights)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    assert_close(load(tmp_path)(ids()), tiny_models.logits(theirs, ids()))
    change(tmp_path, n_routed_experts=10**6)
    with pytest.raises(InputError, match=r"gate.weight of shape \(5, 16\), but its configuration means \(1000000, 16"):
        pretrained.load(tmp_path)


def test_nemotron_says_which_limit_it_took(tmp_path: Path) -> None:
    tiny_models.save("nemotron_h", tmp_path)
    assert pretrained.convert(tmp_path).assumed == (
        "steps of Mamba-2 are at least time_step_min, as in transformers; NVIDIA's own program sets no limit",
    )


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bamba", {"mamba_n_heads": 5}, "has mamba_n_heads = 5, but a number that gives 32 times mamba_d_head is need"),
        ("bamba", {"rope_parameters": {"rope_type": "yarn"}}, "has rope_parameters.rope_type = 'yarn', but longstate'"),
        ("bamba", {"rope_scaling": {"factor": 2}}, "has rope_scaling = {'factor': 2}, but longstate's form of this mo"),
        ("bamba", {"attn_layer_indices": [0, 1]}, "lacks model.layers.0.self_attn.q_proj.weight, but it is needed"),
        ("granite", {"layer_types": ["mamba"]}, r"has layer_types = \['mamba'\], but a list of num_hidden_layers, 2, "),
        ("granite", {"layer_types": ["mamba", "rwkv"]}, "but a list of linear_attention, mamba, full_attention, atten"),
        ("granite", {"layer_types": "mamba"}, "has layer_types = 'mamba', but a list of strings is needed"),
        ("granite", {"position_embedding_type": "alibi"}, "has position_embedding_type = 'alibi', but longstate's for"),
        ("granite", {"num_local_experts": 0}, "holds model.layers.0.block_sparse_moe.input_linear.weight, .* besides "),
        ("granite", {"shared_intermediate_size": 21}, r"input_linear.weight of shape \(40, 16\), but its .* \(42, 16"),
        ("granite", {"logits_scaling": 0}, "has logits_scaling = 0, but a number above 0 is needed"),
        ("granite", {"attention_multiplier": -1}, "cannot be used: `scale` is -1.0, but a positive number is needed"),
        (
            "falcon_h1",
            {"mamba_n_heads": 5},
            "has mamba_n_heads = 5, but a number that gives 32 times mamba_d_head is n",
        ),
        ("falcon_h1", {"mamba_d_ssm": 16, "mamba_n_heads": 2}, r"in_proj.weight of shape .*, but its configuration"),
        ("falcon_h1", {"projectors_bias": True}, "has projectors_bias = True, but the same as mamba_proj_bias, False"),
        ("falcon_h1", {"mamba_rms_norm": True}, "lacks model.layers.0.mamba.norm.weight, but it is needed"),
        ("falcon_h1", {"mlp_multipliers": [1.0]}, r"has mlp_multipliers = \[1.0\], but a list of 2 numbers is needed"),
        (
            "falcon_h1",
            {"ssm_multipliers": [1, 1, "a", 1, 1]},
            r"has ssm_multipliers\[2\] = 'a', but a finite number is",
        ),
        ("falcon_h1", {"key_multiplier": "b"}, "has key_multiplier = 'b', but a finite number is needed"),
        ("falcon_h1", {"hidden_act": "gelu"}, "has hidden_act = 'gelu', but longstate's form of this model has 'silu'"),
        ("falcon_h1", {"head_dim": 3}, "cannot be used: `rotary_base` is 50.0 with head_dim 3, but a base above 1 and"),
        (
            "nemotron_h",
            {"layers_block_type": ["mlp", "rwkv", "mlp", "mlp"]},
            "but a list of linear_attention, mamba, f",
        ),
        ("nemotron_h", {"layers_block_type": [], "hybrid_override_pattern": "M|M"}, "has layers_block_type = .*, but "),
        (
            "nemotron_h, experts",
            {"n_group": 5},
            "has n_group = 5, but longstate's form of this model has 1; it cannot ",
        ),
        ("nemotron_h, experts", {"mlp_bias": True}, "has mlp_bias = True, but longstate's form of this model has Fals"),
        ("nemotron_h, experts", {"n_routed_experts": 4}, r"gate.weight of shape \(5, 16\), but its .* \(4, 16\); use"),
        ("nemotron_h, experts", {"n_routed_experts": 10**6}, "has n_routed_experts = 1000000, but a number that goes "),
        ("nemotron_h, experts", {"num_experts_per_tok": 6}, "cannot be used: `top_k` is 6, but there are 5 experts to"),
        ("nemotron_h, experts", {"moe_latent_size": 8}, "lacks .*fc1_latent_proj.weight, but it is needed"),
        ("nemotron_h, latent experts", {"moe_latent_size": 12}, r"fc1_latent_proj.weight of shape \(8, 16\), but its "),
        ("nemotron_h", {"attention_bias": True}, "has attention_bias = True, but longstate's form of this model has F"),
        ("nemotron_h", {"mlp_hidden_act": "silu"}, "has mlp_hidden_act = 'silu', but longstate's form of this model h"),
        ("nemotron_h", {"num_nextn_predict_layers": 1}, "has num_nextn_predict_layers = 1, but longstate's form of th"),
    ],
)
def test_hybrids_that_longstate_does_not_have_are_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny_models.save(name, tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as caught:
        pretrained.load(tmp_path)
    assert "\n" not in str(caught.value)
