"""Layers and models of other packages, made ready for a case; each package is asked for when its side runs."""

import importlib
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from longstate.bench.case import NotInstalled


def package(module: str, requirement: str) -> Any:
    """A module of an optional package.

    Args:
        module: To import.
        requirement: What pip calls it.

    Raises:
        NotInstalled: If it is not there; the text says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotInstalled(f"not installed (pip install --no-deps {requirement})") from error


def _transformers() -> Any:
    """transformers, without its advice and its progress bars between the lines of a table."""
    found = package("transformers", "transformers==5.23.0")
    logging = importlib.import_module("transformers.utils.logging")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return found


def mambapy_layer(d_model: int) -> nn.Module:
    """The block of mamba.py: Mamba with a parallel scan in PyTorch."""
    mamba = package("mambapy.mamba", "mambapy==1.2.0")
    return mamba.MambaBlock(mamba.MambaConfig(d_model=d_model, n_layers=1))


def transformers_mamba_layer(d_model: int) -> nn.Module:
    """The mixer of transformers' Mamba, whose CPU path is a loop over the elements."""
    _transformers()
    modeling = importlib.import_module("transformers.models.mamba.modeling_mamba")
    config = modeling.MambaConfig(hidden_size=d_model, num_hidden_layers=1)
    return modeling.MambaMixer(config, layer_idx=0)


def transformers_mamba2_layer(d_model: int, d_state: int, head_dim: int) -> nn.Module:
    """The mixer of transformers' Mamba-2, whose CPU path works in chunks."""
    _transformers()
    modeling = importlib.import_module("transformers.models.mamba2.modeling_mamba2")
    config = modeling.Mamba2Config(
        hidden_size=d_model,
        state_size=d_state,
        head_dim=head_dim,
        num_heads=2 * d_model // head_dim,
        n_groups=1,
        num_hidden_layers=1,
    )
    return modeling.Mamba2Mixer(config, layer_idx=0)


def transformers_mamba_model(d_model: int, n_layers: int, vocabulary: int) -> Any:
    """A language model of transformers with random weights."""
    transformers = _transformers()
    config = transformers.MambaConfig(hidden_size=d_model, num_hidden_layers=n_layers, vocab_size=vocabulary)
    return transformers.MambaForCausalLM(config).eval()


def s5_pytorch_layer(d_model: int, modes: int) -> nn.Module:
    """The sequence layer of s5-pytorch, without its block."""
    return package("s5", "s5-pytorch==0.2.1").S5(d_model, state_width=modes)


class Recurrent(nn.Module):
    """PyTorch's LSTM or GRU, its outputs alone."""

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], d_model: int, n_layers: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.inner = kind(d_model, d_model, n_layers, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) to the same."""
        return self.inner(x)[0]


class TransformerBlock(nn.Module):
    """A pre-norm block of a GPT: causal `scaled_dot_product_attention` and a feed-forward of four times the width."""

    def __init__(self, d_model: int, head_dim: int = 64) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm, self.feed_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.feed = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) to the same."""
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, -1, self.head_dim)).movedim(2, 0).transpose(2, 3)
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.feed(self.feed_norm(x))
