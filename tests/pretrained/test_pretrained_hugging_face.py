"""Folders of transformers that cannot be read, and models that cannot be written: one sentence, nothing run or kept."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from longstate import LanguageModel, Mamba2, models, pretrained
from longstate._checks import InputError
from longstate.models import (
    AttentionConfig,
    BackboneConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    LayerConfig,
    Mamba2Config,
    MambaConfig,
    MixtureOfExpertsConfig,
    S4DConfig,
)
from longstate.pretrained import Facts
from longstate.pretrained.hugging_face import ARCHITECTURES

GOLDENS = Path(__file__).parents[1] / "goldens" / "checkpoints"


def copy(name: str, folder: Path, config: dict[str, Any] | None = None, **tensors: torch.Tensor | None) -> Path:
    """A golden folder with changed values in its configuration, and changed tensors (None: left out)."""
    values = json.loads((GOLDENS / name / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value != "gone"}))
    weights = safetensors.torch.load_file(GOLDENS / name / "model.safetensors")
    for key, tensor in tensors.items():
        weights.pop(key, None)
        if tensor is not None:
            weights[key] = tensor
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


A_LOG = "backbone.layers.1.mixer.A_log"
GATE = "model.layers.3.feed_forward.experts.2.gate_proj.weight"


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        (
            "mamba_tiny",
            {"model_type": "llama"},
            "is a model of type 'llama', but longstate reads mamba, falcon_mamba, ",
        ),
        (
            "mamba_tiny",
            {"quantization_config": {"bits": 4}},
            "is quantised, but weights in float32, float16 or bfloat1",
        ),
        (
            "mamba_tiny",
            {"hidden_act": "gelu"},
            "has hidden_act = 'gelu', but longstate's form of this model has 'silu'",
        ),
        ("mamba_tiny", {"hidden_size": "gone"}, "config.json` lacks hidden_size, but it is needed to know the model"),
        (
            "mamba_tiny",
            {"intermediate_size": 30},
            "has intermediate_size = 30, but expand times hidden_size, 32, is nee",
        ),
        (
            "mamba_tiny",
            {"state_size": 5},
            r"x_proj.weight of shape \(9, 32\), but its configuration means \(11, 32\); use",
        ),
        (
            "mamba_tiny",
            {"use_conv_bias": False},
            "holds backbone.layers.0.mixer.conv1d.bias, .*bias besides the tensors",
        ),
        ("mamba_tiny", {"use_bias": True}, "lacks backbone.layers.0.mixer.in_proj.bias, but it is needed"),
        ("mamba_tiny", {"use_bias": 0}, "has use_bias = 0, but true or false is needed"),
        ("mamba_tiny", {"tie_word_embeddings": False}, "lacks lm_head.weight, but it is needed beside"),
        (
            "mamba_tiny",
            {"time_step_rank": "big"},
            "has time_step_rank = 'big', but an integer from 1 to 16777216 is nee",
        ),
        (
            "mamba_tiny",
            {"layer_norm_epsilon": "1e-5"},
            "has layer_norm_epsilon = '1e-5', but a finite number is needed",
        ),
        (
            "mamba_tiny",
            {"vocab_size": 2**40},
            "has vocab_size = 1099511627776, but an integer from 1 to 16777216 is ne",
        ),
        (
            "falcon_mamba_tiny",
            {"tie_word_embeddings": True},
            r"has a head lm_head.weight of shape \(48, 16\) that is not ",
        ),
        ("mamba2_tiny", {"num_heads": 5}, "has num_heads = 5, but expand hidden_size / head_dim, 4, is needed"),
        ("mamba2_tiny", {"n_groups": 2}, r"in_proj.weight of shape \(80, 16\), but its configuration means \(92, 16\)"),
        (
            "mamba2_tiny",
            {"n_groups": 3},
            "has a configuration that cannot be used: d_ssm is 32 with head_dim 8 and n_gr",
        ),
        (
            "mamba2_tiny",
            {"time_step_limit": ["a", 1]},
            r"has time_step_limit = \['a', 1\], but a list of two numbers is",
        ),
        ("jamba_tiny", {"num_experts": 5}, r"router.weight of shape \(4, 16\), but its configuration means \(5, 16"),
        ("jamba_tiny", {"num_experts": 3}, r"router.weight of shape \(4, 16\), but its configuration means \(3, 16\)"),
        (
            "jamba_tiny",
            {"num_experts": 10**7},
            "has num_experts = 10000000, but a number that goes with the 83 tensors",
        ),
        ("jamba_tiny", {"attn_layer_offset": 1}, "lacks model.layers.1.self_attn.q_proj.weight, but it is needed"),
        (
            "jamba_tiny",
            {"num_key_value_heads": 3},
            "cannot be used: `n_kv_heads` is 3, but a divisor of n_heads=4 is n",
        ),
        (
            "jamba_tiny",
            {"num_experts_per_tok": 9},
            "cannot be used: `top_k` is 9, but there are 4 experts to choose fr",
        ),
        (
            "jamba_tiny",
            {"sliding_window": 8},
            "has sliding_window = 8, but longstate's form of this model has no such t",
        ),
    ],
)
def test_a_configuration_that_contradicts_is_one_sentence(
    name: str, config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pretrained.load(copy(name, tmp_path, config))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("mamba_tiny", {A_LOG: None}, f"lacks {A_LOG}, but it is needed beside"),
        (
            "mamba_tiny",
            {A_LOG: torch.ones(4, 32)},
            rf"has {A_LOG} of shape \(4, 32\), but its configuration means \(32",
        ),
        (
            "mamba_tiny",
            {A_LOG: torch.ones(32, 4, dtype=torch.int8)},
            f"has {A_LOG} as torch.int8, but weights in float",
        ),
        (
            "mamba_tiny",
            {"extra.weight": torch.ones(2)},
            "holds extra.weight besides the tensors of Hugging Face transfo",
        ),
        (
            "jamba_tiny",
            {GATE: torch.ones(24, 16).half()},
            f"has {GATE} as torch.float16 beside parts of the same map as",
        ),
        ("jamba_tiny", {GATE: None}, f"lacks {GATE}, but it is needed"),
    ],
)
def test_tensors_that_do_not_fit_are_one_sentence(
    name: str, tensors: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        pretrained.load(copy(name, tmp_path, **tensors))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_file_that_was_cut_is_one_sentence(keep: int, tmp_path: Path) -> None:
    path = copy("mamba_tiny", tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"is damaged, cut short or not a file of safetensors .*; copy it again"):
        pretrained.load(tmp_path)


def test_a_program_in_the_weights_is_not_run(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "was-run"),)

    copy("mamba_tiny", tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save({**weights, "more": Program()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="which can run any program when it is opened, so it was not opened"):
        pretrained.load(tmp_path)
    assert not (tmp_path / "was-run").exists()


def test_facts_and_layers_are_not_of_a_language_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"facts about a checkpoint were given, but the configuration of .* says all"):
        pretrained.load(copy("mamba_tiny", tmp_path), facts=Facts(rule="zoh"))
    with pytest.raises(InputError, match="is no checkpoint that longstate knows"):
        pretrained.load(tmp_path, layer="backbone.layers.0")


def test_what_the_configuration_leaves_out_is_as_in_transformers(tmp_path: Path) -> None:
    """Old files hold only what differs from transformers' defaults."""
    left_out = (
        "expand",
        "conv_kernel",
        "use_bias",
        "use_conv_bias",
        "hidden_act",
        "layer_norm_epsilon",
        "eos_token_id",
    )
    left_out += ("residual_in_fp32", "intermediate_size", "tie_word_embeddings", "time_step_rank")
    model = pretrained.load(copy("mamba_tiny", tmp_path, dict.fromkeys(left_out, "gone")))
    whole = pretrained.load(GOLDENS / "mamba_tiny")
    assert isinstance(model, LanguageModel)
    assert isinstance(whole, LanguageModel)
    assert model.config.end_ids == ()
    ids = torch.randint(48, (1, 9))
    assert torch.equal(model(ids), whole(ids))
    auto = pretrained.load(copy("mamba_tiny", tmp_path, {"time_step_rank": "auto"}))
    assert torch.equal(auto(ids), whole(ids))


@pytest.mark.parametrize(("written", "read"), [(2, (2,)), ([2, 7, 99], (2, 7)), (None, ())])
def test_tokens_that_end_a_text(written: Any, read: tuple[int, ...], tmp_path: Path) -> None:
    model = pretrained.load(copy("mamba_tiny", tmp_path, {"eos_token_id": written}))
    assert isinstance(model, LanguageModel)
    assert model.config.end_ids == read
    pretrained.save_hugging_face(model, tmp_path / "back")
    again = pretrained.load(tmp_path / "back")
    assert isinstance(again, LanguageModel)
    assert again.config.end_ids == read


def test_the_tokenizer_goes_along(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    copy("mamba_tiny", source)
    assert pretrained.convert(source).config.tokenizer is None
    (source / "tokenizer.json").write_text('{"model": {}}')
    converted = pretrained.convert(source)
    assert converted.config.tokenizer == "tokenizer.json"
    pretrained.save(converted, out)
    assert (out / "tokenizer.json").read_text() == '{"model": {}}'
    loaded = models.load(out)
    assert loaded.config == converted.config
    ids = torch.randint(48, (2, 9))
    assert torch.equal(loaded(ids), converted.model(ids))


def stack(*pattern: LayerConfig, n_layers: int = 1, **options: Any) -> LanguageModel:
    options = {"norm": "rms", "dropout": 0.0, **options}
    backbone = BackboneConfig(d_model=16, n_layers=n_layers, pattern=pattern, **options)
    return LanguageModel(LanguageModelConfig(backbone=backbone)).eval()


WEIGHTED = MambaConfig(inner_norm="weighted", norm_eps=1e-5)
FEED = FeedForwardConfig(activation="swiglu", bias=False)
EXPERTS = MixtureOfExpertsConfig(n_experts=2)
HEADS = AttentionConfig(n_heads=4)


@pytest.mark.parametrize(
    "model",
    [
        stack(MambaConfig(dt_rank=None, dt_min=0.01), n_layers=2),
        stack(Mamba2Config(head_dim=8, d_ssm=32, A_max=4.0), float32_residual=True),
        stack(Mamba2Config(head_dim=8, d_state=4, dt_floor=0.01, dt_ceiling=0.1)),
        stack(WEIGHTED, FEED, HEADS, FEED, WEIGHTED, FEED),
        stack(WEIGHTED, EXPERTS, HEADS, EXPERTS),
        stack(WEIGHTED, FEED, WEIGHTED, EXPERTS, n_layers=2),
        stack(HEADS, FEED, WEIGHTED, EXPERTS, WEIGHTED, FEED, HEADS, FEED, WEIGHTED, EXPERTS, WEIGHTED, FEED),
    ],
    ids=["mamba", "mamba2", "limits", "attention once", "experts always", "no attention", "period 3"],
)
def test_models_of_ones_own_are_read_back_and_reload_in_transformers(model: LanguageModel, tmp_path: Path) -> None:
    import transformers

    pretrained.save_hugging_face(model, tmp_path)
    ids = torch.randint(256, (2, 11))
    assert torch.equal(pretrained.load(tmp_path)(ids), model(ids))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    wanted = model(ids).detach()
    with torch.no_grad():
        found = theirs(ids, use_cache=False).logits
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize(
    "model",
    [
        stack(S4DConfig()),
        stack(MambaConfig(), MambaConfig(d_state=8)),
        stack(MambaConfig(), norm="layer"),
        stack(Mamba2Config(head_dim=8, gate="norm_first")),
        stack(Mamba2Config(head_dim=8, norm_eps=1e-3)),
        stack(Mamba2Config(head_dim=8, D_per_channel=True)),
        stack(WEIGHTED, FEED, float32_residual=True),
        stack(WEIGHTED, FeedForwardConfig()),
        stack(WEIGHTED, FEED, HEADS, FEED, HEADS, FEED, WEIGHTED, FEED),
        stack(WEIGHTED, FEED, AttentionConfig(n_heads=4, window=8), FEED),
        stack(WEIGHTED, HEADS),
        stack(HEADS, FEED),
    ],
    ids=lambda model: "+".join(layer.kind for layer in model.config.backbone.schedule),
)
def test_what_transformers_does_not_have_is_refused(model: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"in a form that is none of mamba, falcon_mamba, mamba2, jamba, but one"
    ) as caught:
        pretrained.save_hugging_face(model, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_a_folder_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file` could not be written \(File exists\)"):
        pretrained.save_hugging_face(stack(MambaConfig()), tmp_path / "file")


def test_the_refusal_names_all_that_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        pretrained.load(copy("mamba_tiny", tmp_path, {"model_type": "zamba2"}))
    assert all(name in str(caught.value) for name in ARCHITECTURES)


def test_a_loaded_model_keeps_no_hold_on_its_file_when_it_is_trained(tmp_path: Path) -> None:
    """Mapped weights are copied when they change: the file stays as it is."""
    folder = copy("mamba2_tiny", tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    model = pretrained.load(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randint(48, (2, 9))).square().mean().backward()
    optimizer.step()
    assert (folder / "model.safetensors").read_bytes() == before
    assert isinstance(model, LanguageModel)
    assert isinstance(model.backbone.layers[0].layer, Mamba2)
