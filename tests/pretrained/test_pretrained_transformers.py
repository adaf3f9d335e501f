"""Tiny random models of transformers, which computes the same: whole, in chunks, padded, token by token, in shards."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import tiny_models
from longstate import LanguageModel, pretrained
from longstate.inference import align
from tiny_models import CASES, ids

EXACT_PADDING = [name for name, (_, options) in CASES.items() if not {"use_bias", "mamba_proj_bias"} & options.keys()]
"""transformers lets biases of projections flow into the convolution from left padding."""


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


def test_saved_back_bit_by_bit(pair: Pair, tmp_path: Path) -> None:
    import transformers

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


@pytest.mark.parametrize("name", ["mamba, own head", "mamba2", "jamba"])
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
