"""Large models: mapped, recognised by samples of their bytes, written without a copy, built without drawing weights."""

import json
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from longstate import InputError, LanguageModel, load, save
from longstate.models import (
    BackboneConfig,
    FeedForwardConfig,
    LanguageModelConfig,
    LSSLConfig,
    MambaConfig,
    MixtureOfExpertsConfig,
    tensors,
)
from longstate.models.build_layer import CAUSAL
from longstate.models.language_model import empty_language_model

MIXED = BackboneConfig(
    d_model=16,
    n_layers=2,
    pattern=(MambaConfig(), FeedForwardConfig(), MixtureOfExpertsConfig(n_experts=3)),
    norm="rms",
)


@pytest.fixture
def all_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "LARGE", 10_000)
    monkeypatch.setattr(tensors, "_SAMPLE", 128)


def model(seed: int = 0) -> LanguageModel:
    torch.manual_seed(seed)
    return LanguageModel(LanguageModelConfig(backbone=MIXED, end_ids=(3,))).eval()


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_large_model_is_itself_again(all_is_large: None, tmp_path: Path) -> None:
    kept = model()
    save(kept, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["weights"].startswith("sha256-sampled:")
    again = load(tmp_path)
    assert isinstance(again, LanguageModel)
    assert again.config == kept.config
    assert equal(again, kept)
    assert safetensors.torch.load_file(tmp_path / "model.safetensors").keys() == kept.state_dict().keys()


def test_mapped_weights_are_copied_when_they_change(all_is_large: None, tmp_path: Path) -> None:
    save(model(), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    again = load(tmp_path)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    save(again, tmp_path)  # over the file that it is mapped to
    assert equal(load(tmp_path), again)


def test_weights_of_another_save_are_refused_even_if_samples_are_equal(all_is_large: None, tmp_path: Path) -> None:
    """Two saves of one model differ by a mark, so that a few changed bytes between the samples do not matter."""
    for name in ("a", "b"):
        save(model(), tmp_path / name)
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"is not the file that config.json was saved with, but both of one model"):
        load(tmp_path / "a")


@pytest.mark.parametrize("keep", [0, 7, 300, -1])
def test_a_large_file_cut_short_is_refused(all_is_large: None, keep: int, tmp_path: Path) -> None:
    save(model(), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"is damaged, cut short or not a safetensors file \(.*copy it again"):
        load(tmp_path)


def test_a_large_pickle_is_never_opened(all_is_large: None, tmp_path: Path) -> None:
    save(model(), tmp_path)
    torch.save({"x": torch.zeros(10_000)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="holds a pickle, but a safetensors file is needed, since a pickle can run"):
        load(tmp_path)


def test_pieces_and_file_have_one_digest(all_is_large: None, tmp_path: Path) -> None:
    """However the file is cut into pieces, also inside a sample."""
    torch.manual_seed(0)
    for sizes in ([1, 7, 3000, 1, 900], [2500, 2501], [3]):
        named = {f"t{place}": torch.randn(size) for place, size in enumerate(sizes)}
        pieces = tensors.parts(named, {"format": "pt"})
        path = tmp_path / "x.safetensors"
        path.write_bytes(b"".join(pieces))
        assert tensors.digest(pieces) == tensors.file_digest(path) == tensors.digest([path.read_bytes()])
        assert all(torch.equal(tensor, named[name]) for name, tensor in tensors.read(path).tensors.items())


def test_a_changed_sample_changes_the_digest(all_is_large: None, tmp_path: Path) -> None:
    data = bytearray(torch.randn(5000).numpy().tobytes())
    digest = tensors.digest([bytes(data)])
    for place in (0, len(data) - 1, len(data) // 256 * 100):
        other = data.copy()
        other[place] ^= 1
        assert tensors.digest([bytes(other)]) != digest
    assert tensors.digest([bytes(data) + b"0"]) != digest


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_every_type_is_written_as_safetensors_reads_it(dtype: torch.dtype) -> None:
    named = {"a": torch.randn(3, 5).mT.to(dtype), "b": torch.ones((), dtype=dtype), "c": torch.ones(0, 2, dtype=dtype)}
    found = safetensors.torch.load(tensors.pack({**named, "d": torch.ones(1, dtype=torch.bool)}, {"x": "ü"}))
    assert all(found[name].dtype is dtype and torch.equal(found[name], tensor) for name, tensor in named.items())


@pytest.mark.parametrize("config", CAUSAL, ids=lambda config: config.__name__)
def test_loading_draws_no_weights(config: type, tmp_path: Path) -> None:
    """Every layer but LSSL is built without memory, and filled."""
    stack = BackboneConfig(d_model=32, n_layers=1, layer=config(), norm="rms")
    kept = LanguageModel(LanguageModelConfig(backbone=stack)).eval()
    save(kept, tmp_path)
    before = torch.get_rng_state()
    again = load(tmp_path)
    assert isinstance(again, LanguageModel)
    assert torch.equal(torch.get_rng_state(), before) == (config is not LSSLConfig)
    assert empty_language_model(kept.config).embedding.weight.is_meta == (config is not LSSLConfig)
    assert not any(tensor.is_meta for tensor in (*again.parameters(), *again.buffers()))
    ids = torch.randint(256, (2, 5))
    assert torch.equal(again(ids), kept(ids))


@pytest.mark.slow
def test_a_model_of_130_million_parameters_is_loaded_in_three_seconds(tmp_path: Path) -> None:
    stack = BackboneConfig(d_model=768, n_layers=24, layer=MambaConfig(), norm="rms", dropout=0.0)
    save(LanguageModel(LanguageModelConfig(vocabulary_size=50280, backbone=stack, tokenizer=None)), tmp_path)
    begin = time.perf_counter()
    load(tmp_path)
    assert time.perf_counter() - begin < 3
