"""Bits per byte of a Mamba, an LSTM and a causal Transformer after the same training, beside bz2 and xz.

`python benchmarks/text.py` trains each of them on the source of Python's own library for `--seconds` of processor time
(all threads counted, so that a busy machine is fair to all), in the same batches of 256 bytes whose states are carried,
and prints a Markdown table. The learning rate of each is chosen before, on files of the training part, with a third of
that time; the files of the test part are read once, at the end.
"""

import argparse
import sysconfig
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

import longstate
from longstate.cli.compressors import compressed
from longstate.cli.demo_text import LEFT_OUT, text_of
from longstate.data import Documents, TextSource, TokenRows, TokenStreams, split_documents, token_store
from longstate.models import (
    AttentionConfig,
    BackboneConfig,
    ByteTokenizer,
    FeedForwardConfig,
    LanguageModel,
    LanguageModelConfig,
    MambaConfig,
)
from longstate.training import parameter_groups, schedule
from longstate.training.evaluate_text import token_loss
from longstate.training.optimizer import set_rates

END, BATCH, LENGTH = 256, 8, 256
RATES = (2e-3, 4e-3, 8e-3)


class LSTM(nn.Module):
    """torch.nn.LSTM between tied embeddings, with the part of a language model's protocol that training needs."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(END + 1, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True)
        self.head = nn.Linear(width, width)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Nothing is remembered."""
        empty = self.embedding.weight.new_zeros(batch_size, self.lstm.num_layers, self.lstm.hidden_size)
        return empty, empty

    def forward_with_state(self, ids: Tensor, state: tuple[Tensor, Tensor], *, starts: Tensor) -> tuple[Tensor, Any]:
        """Batch first in the states too; cut where a document begins in a row, and forget that row's state there."""
        h, (hidden, cell), pieces = self.embedding(ids), state, []
        cuts = [0, *(int(column) for column in starts.any(0).nonzero() if column > 0), ids.shape[1]]
        for begin, stop in pairwise(cuts):
            kept = ~starts[:, begin, None, None]
            inner = tuple((part * kept).transpose(0, 1).contiguous() for part in (hidden, cell))
            y, (hidden, cell) = self.lstm(h[:, begin:stop], inner)
            hidden, cell = hidden.transpose(0, 1), cell.transpose(0, 1)
            pieces.append(y)
        return self.head(torch.cat(pieces, dim=1)) @ self.embedding.weight.T, (hidden, cell)


def language_model(backbone: BackboneConfig) -> LanguageModel:
    return LanguageModel(LanguageModelConfig(vocabulary_size=END + 1, end_ids=(END,), backbone=backbone))


def mamba() -> LanguageModel:
    return language_model(BackboneConfig(d_model=128, n_layers=4, layer=MambaConfig(), norm="rms", dropout=0.0))


def transformer() -> LanguageModel:
    """Attention over the last 256 bytes, also those of the batch before, and feed-forward layers."""
    pattern = (AttentionConfig(n_heads=5, window=LENGTH, rotary_base=10_000.0), FeedForwardConfig())
    return language_model(BackboneConfig(d_model=100, n_layers=4, pattern=pattern, norm="rms", dropout=0.0))


MODELS: dict[str, Callable[[], Any]] = {
    "Mamba (4 layers of 128)": mamba,
    "LSTM (2 layers of 164)": lambda: LSTM(164, 2),
    "Transformer (4 layers of 100, window 256)": transformer,
}


class Trained(NamedTuple):
    """A model, and how many bytes it read."""

    model: Any
    tokens: int


def train(build: Callable[[], Any], documents: Documents, seconds: float, rate: float) -> Trained:
    """AdamW for so many seconds of the processor, carried state, warm-up and cosine by the share of time."""
    torch.manual_seed(0)
    model = build().train()
    optimizer = torch.optim.AdamW(parameter_groups(model, rate, 0.1))
    rows = TokenRows(documents, BATCH, LENGTH, end=END, carry_state=True)
    begun, step, epoch, state = time.process_time(), 0, 0, None
    batches = rows.epoch(epoch)
    while (used := time.process_time() - begun) < seconds:
        batch = next(batches, None)
        if batch is None:
            epoch, state = epoch + 1, None
            batches = rows.epoch(epoch)
            continue
        set_rates(optimizer, schedule(int(used / seconds * 10_000), 10_000, warmup=0.02, final_lr=0.02))
        state = model.initial_state(len(batch.ids)) if state is None else state
        logits, state = model.forward_with_state(batch.ids, state, starts=batch.starts)
        state = _pytree.tree_map(torch.Tensor.detach, state)
        loss = token_loss(logits, batch.targets) / max(int((batch.targets >= 0).sum()), 1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
    return Trained(model.eval(), step * BATCH * LENGTH)


def bits_per_byte(model: Any, documents: Documents) -> float:
    """Every document from its first byte to its end."""
    total, state = 0.0, model.initial_state(BATCH)
    with torch.no_grad():
        for batch in TokenStreams(documents, BATCH, LENGTH, end=END):
            rows = len(batch.ids)
            state = _pytree.tree_map(lambda leaf, rows=rows: leaf[:rows], state)
            logits, state = model.forward_with_state(batch.ids, state, starts=batch.starts)
            total += float(token_loss(logits, batch.targets))
    return total / np.log(2) / documents.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=240.0, help="of the processor, for each model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="Mamba, LSTM, Transformer; all if none")
    given = parser.parse_args()
    chosen = {name: build for name, build in MODELS.items() if not given.models or name.split()[0] in given.models}
    if len(chosen) < len(given.models):
        parser.error(f"{' '.join(given.models)} is asked for; choose from {', '.join(n.split()[0] for n in MODELS)}")
    torch.set_num_threads(given.threads)
    longstate.set_up_allocator()
    with tempfile.TemporaryDirectory() as folder:
        source = TextSource(sysconfig.get_path("stdlib"), [".py"], LEFT_OUT)
        store = token_store(source, ByteTokenizer(), Path(folder))
        documents = Documents(store, np.arange(len(store)))
        parts = split_documents(documents, validation=0.0, test=0.02)
        everything, test = documents.select(parts.train), documents.select(parts.test)
        inner = split_documents(everything, validation=0.006, test=0.0, seed=11)
        train_part, choice = everything.select(inner.train), everything.select(inner.validation)
        print("| model | parameters | rate | million bytes read | bits per byte |\n|---|---|---|---|---|", flush=True)
        for name, build in chosen.items():
            tried = {
                rate: bits_per_byte(train(build, train_part, given.seconds / 3, rate).model, choice) for rate in RATES
            }
            rate = min(tried, key=lambda rate: tried[rate])
            model, tokens = train(build, everything, given.seconds, rate)
            count = sum(parameter.numel() for parameter in model.parameters())
            bits = bits_per_byte(model, test)
            print(f"| {name} | {count:,} | {rate:g} | {tokens / 1e6:.2f} | {bits:.3f} |", flush=True)
        for name, bits in compressed(text_of(test)).items():
            print(f"| {name}, all files in one | | | | {bits:.3f} |")


if __name__ == "__main__":
    main()
