"""Folders that transformers and the official Mamba code wrote: their logits, their residual stream, their tokens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from longstate import LanguageModel, Residual, pretrained
from longstate.inference import align

FOLDERS = sorted((Path(__file__).parents[1] / "goldens" / "checkpoints").iterdir())
HUGGING_FACE = [folder for folder in FOLDERS if not folder.name.startswith("ssm_format")]


def name(folder: Path) -> str:
    return folder.name


def array(folder: Path, what: str) -> Tensor:
    return torch.from_numpy(np.load(folder / f"{what}.npy"))


def load(folder: Path, dtype: torch.dtype | None = None) -> LanguageModel:
    model = pretrained.load(folder, dtype=dtype)
    assert isinstance(model, LanguageModel)
    return model.requires_grad_(False)


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Relative to the largest logit; those of rows that only pad the vocabulary are left out here."""
    wanted = wanted[..., : found.shape[-1]]
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (None, 1e-5)], ids=["float64", "as saved"])
def test_logits(folder: Path, dtype: torch.dtype | None, tolerance: float) -> None:
    model = load(folder, dtype)
    assert model.embedding.weight.dtype is (dtype or torch.float32)
    assert not model.training
    assert_close(model(array(folder, "input_ids")), array(folder, "logits_float64"), tolerance)


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_greedy_tokens_by_steps(folder: Path) -> None:
    model = load(folder, torch.float64)
    prompt, wanted = array(folder, "input_ids"), array(folder, "generated_ids")
    logits, state = model.prefill(prompt, model.initial_state(len(prompt)))
    tokens = [logits.argmax(-1)]
    for _ in range(wanted.shape[1] - prompt.shape[1] - 1):
        logits, state = model.step(tokens[-1], state)
        tokens.append(logits.argmax(-1))
    assert torch.equal(torch.cat([prompt, torch.stack(tokens, 1)], 1), wanted)


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_chunks_are_the_whole(folder: Path) -> None:
    model = load(folder, torch.float64)
    ids = array(folder, "input_ids")
    state, logits = model.initial_state(len(ids)), []
    for chunk in ids.split([1, 2, 7, ids.shape[1] - 10], dim=1):
        found, state = model.forward_with_state(chunk, state)
        logits.append(found)
    assert_close(torch.cat(logits, 1), array(folder, "logits_float64"), 1e-9)


@pytest.mark.parametrize("folder", HUGGING_FACE, ids=name)
def test_left_padding_is_as_if_it_were_not_there(folder: Path) -> None:
    model = load(folder, torch.float64)
    ids, lengths = align(array(folder, "padded_input_ids"), array(folder, "padded_attention_mask"))
    wanted = array(folder, "unpadded_row0_logits_float64")[0]
    assert lengths.tolist() == [len(wanted), ids.shape[1]]
    assert_close(model(ids, lengths=lengths)[0, : len(wanted)], wanted, 1e-9)
    logits, state = model.prefill(ids, model.initial_state(2), lengths=lengths)
    assert_close(logits[0], wanted[-1], 1e-9)
    following = model.step(torch.tensor([1, 1]), state)[0]
    alone = model(torch.cat([ids[:1, : len(wanted)], torch.tensor([[1]])], 1))
    assert_close(following[:1], alone[:, -1], 1e-9)


@pytest.mark.parametrize("folder", HUGGING_FACE, ids=name)
def test_the_residual_stream_after_every_layer(folder: Path) -> None:
    model = load(folder, torch.float64)
    wanted = array(folder, "hidden_states_float64")
    h = model.embedding(array(folder, "input_ids"))
    found = [h]
    for layer in model.backbone.layers:
        assert isinstance(layer, Residual)
        h = layer(h)
        found.append(h)
    if folder.name.startswith("jamba"):  # a layer there is a mixer and a feed-forward
        found = found[::2]
    found.append(model.backbone.norm(h))
    for ours, theirs in zip(found, wanted, strict=True):
        assert_close(ours, theirs, 1e-9)


def test_every_tensor_is_accounted_for_and_all_of_the_model_is_filled() -> None:
    for folder in FOLDERS:
        converted = pretrained.convert(folder)
        checkpoint = pretrained.open_checkpoint(folder)
        assert {used.name for used in converted.used} == set(checkpoint.names)
        assert {ours for used in converted.used for ours in used.ours.split(", ")} == set(converted.model.state_dict())
        assert not any(tensor.is_meta for tensor in converted.model.state_dict().values())


def test_what_was_recognised_is_said() -> None:
    said = {folder.name: pretrained.convert(folder) for folder in FOLDERS}
    assert {name: converted.source for name, converted in said.items()} == {
        "falcon_mamba_tiny": "Hugging Face transformers: FalconMamba",
        "jamba_tiny": "Hugging Face transformers: Jamba",
        "mamba2_tiny": "Hugging Face transformers: Mamba-2",
        "mamba2_tiny_groups2": "Hugging Face transformers: Mamba-2",
        "mamba_tiny": "Hugging Face transformers: Mamba",
        "ssm_format_mamba2_tiny": "state-spaces/mamba: Mamba-2",
        "ssm_format_mamba3_tiny": "state-spaces/mamba: Mamba-3",
        "ssm_format_mamba_tiny": "state-spaces/mamba: Mamba",
    }
    assert said["ssm_format_mamba3_tiny"].assumed == (
        "A of Mamba-3 by 1 + a and 1/(1 - a), as published since June 2026",
    )
    assert said["mamba_tiny"].assumed == ()


def test_the_padded_vocabulary_is_left_out_of_the_logits() -> None:
    folder = FOLDERS[0].with_name("ssm_format_mamba2_tiny")
    model = load(folder)
    assert (model.config.vocabulary_size, model.config.rows) == (45, 48)
    assert model(array(folder, "input_ids")).shape[-1] == 45


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_a_gradient_reaches_every_parameter(folder: Path) -> None:
    model = pretrained.load(folder)
    model(array(folder, "input_ids")).square().mean().backward()
    for own, parameter in model.named_parameters():
        assert parameter.grad is not None, own
        assert bool(parameter.grad.isfinite().all())
