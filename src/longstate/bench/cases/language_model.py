"""A language model of the shape of mamba-130m with random weights: loading, prefill, and one token after another."""

import shutil
import tempfile
import weakref
from pathlib import Path

import torch

from longstate import models
from longstate.bench import peers
from longstate.bench.case import Case, Side, Work
from longstate.bench.limits import Product, products
from longstate.models import BackboneConfig, LanguageModel, LanguageModelConfig, MambaConfig
from longstate.models.language_model import empty_language_model

D_MODEL, LAYERS, VOCABULARY = 768, 24, 50_280
_INNER, _STATE, _RANK = 2 * D_MODEL, 16, D_MODEL // 16
PREFIX, TOKENS = 16, 64


def config(layers: int) -> LanguageModelConfig:
    """The shape of mamba-130m, but for the number of layers."""
    stack = BackboneConfig(d_model=D_MODEL, n_layers=layers, layer=MambaConfig(), norm="rms", dropout=0.0)
    return LanguageModelConfig(vocabulary_size=VOCABULARY, backbone=stack, tokenizer=None)


def load(layers: int) -> Work:
    """`models.load` of a folder, and a look at every weight: a file that is only mapped has not been read."""
    folder = Path(tempfile.mkdtemp())
    models.save(LanguageModel(config(layers)), folder / "model")
    return _removing(folder, lambda: _looked_at(models.load(folder / "model")))


def transformers_load(layers: int) -> Work:
    """`from_pretrained` of a folder, and a look at every weight."""
    model = peers.transformers_mamba_model(D_MODEL, layers, VOCABULARY)
    folder, kind = Path(tempfile.mkdtemp()), type(model)
    model.save_pretrained(folder)
    return _removing(folder, lambda: _looked_at(kind.from_pretrained(folder)))


def read_file(layers: int) -> Work:
    """Reading a file of the same size into memory that is there."""
    numbers = sum(parameter.numel() for parameter in empty_language_model(config(layers)).parameters())
    target = bytearray(4 * numbers)
    folder = Path(tempfile.mkdtemp())
    (folder / "numbers").write_bytes(target)

    def run() -> None:
        with (folder / "numbers").open("rb", buffering=0) as file:
            file.readinto(target)

    return _removing(folder, run)


def _removing(folder: Path, work: Work) -> Work:
    """The work, with which its folder goes."""
    weakref.finalize(work, shutil.rmtree, folder, ignore_errors=True)
    return work


def _looked_at(model: torch.nn.Module) -> float:
    return float(sum(parameter.detach().sum() for parameter in model.parameters()))


def _ids(length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (1, length))


def prefill(length: int) -> Work:
    """A prompt, of which the logits after the last token are wanted, and the state."""
    model, ids = LanguageModel(config(LAYERS)).eval(), _ids(length)

    def run() -> object:
        with torch.inference_mode():
            return model.prefill(ids, model.initial_state(1))

    return run


def transformers_prefill(length: int) -> Work:
    """The same by transformers."""
    model, ids = peers.transformers_mamba_model(D_MODEL, LAYERS, VOCABULARY), _ids(length)

    def run() -> object:
        with torch.inference_mode():
            return model(ids, use_cache=True, logits_to_keep=1)

    return run


def prefill_products(length: int) -> Work:
    """All projections of all layers, and the head for one token."""
    return products([*_layer_products(length), Product(1, D_MODEL, VOCABULARY)], backward=False)


def _layer_products(length: int) -> list[Product]:
    layer = [
        Product(length, D_MODEL, 2 * _INNER),
        Product(length, _INNER, _RANK + 2 * _STATE),
        Product(length, _RANK, _INNER),
        Product(length, _INNER, D_MODEL),
    ]
    return layer * LAYERS


def decode(batch: int) -> Work:
    """Greedy tokens after a short prompt, one step each."""
    model, ids = LanguageModel(config(LAYERS)).eval(), _ids(PREFIX).expand(batch, -1)
    with torch.inference_mode():
        logits, start = model.prefill(ids, model.initial_state(batch))
        constants, first = model.constants(), logits.argmax(-1)

    def run() -> object:
        token, state = first, start
        with torch.inference_mode():
            for _ in range(TOKENS):
                logits, state = model.step(token, state, constants=constants)
                token = logits.argmax(-1)
        return token

    return run


def transformers_decode(batch: int) -> Work:
    """The same by transformers: its model called with its cache, without the machinery of `generate`."""
    model, ids = peers.transformers_mamba_model(D_MODEL, LAYERS, VOCABULARY), _ids(PREFIX).expand(batch, -1)

    with torch.inference_mode():
        first = model(ids, use_cache=True, logits_to_keep=1)

    def run() -> object:
        cache, token = first.cache_params, first.logits[:, -1].argmax(-1, keepdim=True)
        with torch.inference_mode():
            for _ in range(TOKENS):
                answer = model(token, cache_params=cache, use_cache=True)
                token = answer.logits[:, -1].argmax(-1, keepdim=True)
        return token

    return run


def decode_products(batch: int) -> Work:
    """The projections and the head alone, each with weights of its own, once a token."""
    once = products([*_layer_products(batch), Product(batch, D_MODEL, VOCABULARY)], backward=False)

    def run() -> None:
        for _ in range(TOKENS):
            once()

    return run


def read_weights(batch: int) -> Work:
    """For every token, as many bytes as the weights have, at the speed of a copy: a copy of half of them."""
    numbers = sum(parameter.numel() for parameter in empty_language_model(config(LAYERS)).parameters())
    source, target = torch.randn(numbers // 2), torch.empty(numbers // 2)

    def run() -> None:
        for _ in range(TOKENS):
            target.copy_(source)

    return run


_TEXT = "mamba-130m's shape (24 layers, d_model 768, vocabulary 50,280), random weights, float32"

LOAD = Case(
    name="language_model_load",
    title=f"Loading a model from safetensors and reading every weight: {_TEXT}",
    axis="layers",
    sizes=(LAYERS,),
    quick=(1,),
    sides=(
        Side(name="longstate", prepare=load),
        Side(name="transformers", prepare=transformers_load, role="peer"),
        Side(name="reading the file", prepare=read_file, role="limit"),
    ),
    rounds=5,
)

PREFILL = Case(
    name="language_model_prefill",
    title=f"Prefill, the logits after the last token and the state: {_TEXT}",
    axis="tokens",
    sizes=(128, 1024),
    quick=(16,),
    sides=(
        Side(name="longstate", prepare=prefill),
        Side(name="transformers", prepare=transformers_prefill, role="peer"),
        Side(name="its matrix products", prepare=prefill_products, role="limit"),
    ),
    rounds=3,
)

DECODE = Case(
    name="language_model_decode",
    title=f"Decoding {TOKENS} tokens greedily after a prompt of {PREFIX}: {_TEXT}",
    axis="batch",
    sizes=(1, 8),
    quick=(1,),
    sides=(
        Side(name="longstate", prepare=decode),
        Side(name="transformers", prepare=transformers_decode, role="peer"),
        Side(name="its matrix products", prepare=decode_products, role="limit"),
        Side(name="reading the weights once", prepare=read_weights, role="limit"),
    ),
    units=TOKENS,
    unit="token",
    rounds=3,
)
