"""Small documents, language models and runs for tests of training on text; also what killed processes run."""

from pathlib import Path

import numpy as np
import torch

from longstate.data import Documents, TokenStore
from longstate.models import (
    AttentionConfig,
    BackboneConfig,
    LanguageModel,
    LanguageModelConfig,
    LayerConfig,
    MambaConfig,
)
from longstate.training import TextTrainingConfig, fit_text

END = 11


def sentences(count: int = 9, *, seed: int = 0) -> Documents:
    """Documents of 10 to 40 tokens, in which every token is one or two more than the one before."""
    random = np.random.default_rng(seed)
    rows = [np.cumsum(random.integers(1, 3, size=random.integers(10, 41))) % END for _ in range(count)]
    ends = np.cumsum([len(row) for row in rows])
    digest = f"sentences {count} {seed}"
    return Documents(
        TokenStore(np.concatenate(rows).astype(np.uint16), ends, np.diff(ends, prepend=0), (), digest), np.arange(count)
    )


def halves(documents: Documents, train: int = 6) -> tuple[Documents, Documents]:
    """Documents to train with and to validate with."""
    return documents.select(np.arange(train)), documents.select(np.arange(train, len(documents)))


def language_model(*, seed: int = 0, layer: LayerConfig | None = None, dropout: float = 0.2) -> LanguageModel:
    """A small language model of eleven tokens and an end, always from the same weights."""
    torch.manual_seed(seed)
    pattern = (MambaConfig(d_state=2), AttentionConfig(n_heads=2, rotary_base=100.0)) if layer is None else (layer,)
    backbone = BackboneConfig(d_model=8, n_layers=1, pattern=pattern, norm="rms", dropout=dropout)
    return LanguageModel(LanguageModelConfig(vocabulary_size=12, backbone=backbone, tokenizer=None, end_ids=(END,)))


ROWS = TextTrainingConfig(epochs=3, batch_size=3, sequence_length=10, lr=0.02, checkpoint_every=2)
CARRIED = TextTrainingConfig(epochs=3, batch_size=2, sequence_length=16, lr=0.02, checkpoint_every=2, carry_state=True)


def train(folder: Path, config: TextTrainingConfig, *, resume: bool = False) -> None:
    """One whole run."""
    fit_text(language_model(), *halves(sentences()), config, folder, resume=resume, progress=False)
