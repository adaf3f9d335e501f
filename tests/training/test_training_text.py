"""Language models: what a run predicts, carries, writes, measures and refuses, and that it can be killed."""

import csv
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_texts import CONFIGS, MOMENTS
from small_texts import CARRIED, END, ROWS, halves, language_model, sentences, train
from torch.nn import functional as F
from two_texts import ONE

from longstate import models
from longstate._checks import InputError
from longstate.data import Documents, TokenRows
from longstate.models import BackboneConfig, ClassifierConfig, LanguageModel, MambaConfig, S4DConfig
from longstate.training import (
    Interrupted,
    TextTrainingConfig,
    evaluate_text,
    fit_text,
    initialise_from,
    parameter_groups,
    schedule,
)
from longstate.training.run_module import step_seed
from longstate.training.text_module import TextModule


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def texts(documents: Documents) -> list[torch.Tensor]:
    """Every document as ids behind an end token, and an end token after it."""
    edges = zip(documents.begins, documents.lengths, strict=True)
    return [
        torch.tensor([END, *documents.store.tokens[begin : begin + length].tolist(), END]) for begin, length in edges
    ]


def loss_by_hand(model: LanguageModel, documents: Documents, *, context: int | None = None) -> tuple[float, int]:
    """The sum of -ln p over documents one by one, and the number of predictions."""
    total, count = 0.0, 0
    for text in texts(documents):
        size = context or len(text)
        for begin in range(0, len(text) - 1, size):
            piece = text[begin : min(begin + size, len(text) - 1)]
            with torch.no_grad():
                logits = model(piece[None])[0]
            total += float(F.cross_entropy(logits, text[begin + 1 : begin + 1 + len(piece)], reduction="sum"))
            count += len(piece)
    return total, count


@pytest.mark.parametrize("context", [None, 5, 16, 100])
def test_documents_are_predicted_whole_whatever_the_batch(context: int | None) -> None:
    model, documents = language_model().double().eval(), sentences()
    total, count = loss_by_hand(model, documents, context=context)
    assert count == documents.predictions == documents.tokens + 9
    for batch_size, length in ((1, 7), (4, 64), (9, 1000)):
        found = evaluate_text(model, documents, batch_size=batch_size, sequence_length=length, context=context)
        assert found.loss == pytest.approx(total / count, rel=1e-9)
        assert found.bits_per_byte == pytest.approx(total / math.log(2) / documents.bytes, rel=1e-9)
        assert found.perplexity == pytest.approx(math.exp(total / count), rel=1e-9)
        assert (found.documents, found.tokens, found.bytes) == (9, count, documents.bytes)
    if context != 100:
        other = evaluate_text(model, documents, context=100).loss
        assert (other == pytest.approx(total / count, rel=1e-9)) == (context is None)


def test_evaluating_leaves_the_model_as_it_was() -> None:
    model = language_model().train()
    first, second = (evaluate_text(model, sentences()).loss for _ in range(2))
    assert model.training
    assert first == second


def test_a_run_is_the_loop_that_a_reader_would_write(tmp_path: Path) -> None:
    documents, config, model = sentences(), dataclasses.replace(ROWS, epochs=2), language_model()
    fit_text(model, documents, None, config, tmp_path, progress=False)

    by_hand = language_model().train()
    optimizer = torch.optim.AdamW(parameter_groups(by_hand, config.lr, config.weight_decay))
    rows, step = TokenRows(documents, config.batch_size, config.sequence_length, end=END, seed=config.seed), 0
    for epoch in range(2):
        for batch in rows.epoch(epoch):
            for group in optimizer.param_groups:
                factor = schedule(step, 2 * len(rows), warmup=config.warmup, final_lr=config.final_lr)
                group["lr"] = group["peak_lr"] * factor
            torch.manual_seed(step_seed(config.seed, step, 0))
            logits = by_hand(batch.ids, starts=batch.starts)
            loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=-1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
            optimizer.step()
            step += 1
    for name, tensor in by_hand.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("layer", [MambaConfig(d_state=2), S4DConfig(d_state=4), None], ids=["mamba", "s4d", "hybrid"])
def test_carried_state_is_the_whole_stream_in_one_run(layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rate too small to change a float32 weight, so that every batch meets the same model.
    config = dataclasses.replace(CARRIED, lr=1e-12, weight_decay=0.0, epochs=2)
    model, seen = language_model(layer=layer, dropout=0.0), []
    carried = TextModule._carried

    def recorded(self, batch):
        seen.append((self.standing.epoch, batch, carried(self, batch)))
        return seen[-1][2]

    monkeypatch.setattr(TextModule, "_carried", recorded)
    fit_text(model, sentences(), None, config, tmp_path, progress=False)
    for epoch in (0, 1):
        batches = [batch for number, batch, _ in seen if number == epoch]
        assert len(batches) > 3
        ids, starts = (torch.cat([batch[part] for batch in batches], dim=1) for part in (0, 2))
        with torch.no_grad():
            whole = model(ids, starts=starts)
        parts = torch.cat([logits.detach() for number, _, logits in seen if number == epoch], dim=1)
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
        # and the state matters: the same pieces from rest differ
        at_rest = torch.cat([model(batch.ids, starts=batch.starts).detach() for batch in batches], dim=1)
        assert float((at_rest - whole).abs().max()) > 1e-3


def test_the_gradient_ends_at_the_beginning_of_a_row(tmp_path: Path) -> None:
    train(tmp_path, CARRIED)
    assert not any(leaf.requires_grad for leaf in checkpoint(tmp_path)["longstate_carried"])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("killed_texts")
    script = Path(__file__).with_name("killed_texts.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, script, folder], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_killed_run_continues_bit_for_bit(killed: tuple[Path, dict[str, int]], kind: str, moment: str) -> None:
    folder, report = killed
    name = f"{kind}, {moment}"
    assert (report[f"{kind}, whole"], report[name], report[f"{name}, continued"]) == (0, signal.SIGKILL, 0)
    whole, continued = folder / kind / "whole", folder / kind / moment
    files = [place / "model/model.safetensors" for place in (whole, continued)]
    assert files[0].read_bytes() == files[1].read_bytes()
    logs = [[list(row.values())[:9] for row in rows_of(place)] for place in (whole, continued)]
    assert logs[0] == logs[1]
    one, other = (checkpoint(place) for place in (whole, continued))
    assert all(torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in one["state_dict"])
    pairs = zip(one["longstate_carried"], other["longstate_carried"], strict=True)
    assert all(torch.equal(leaf, same) for leaf, same in pairs)


def test_the_comparison_would_see_a_state_that_is_lost(
    killed: tuple[Path, dict[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = TextModule.on_load_checkpoint

    def forgetful(self, checkpoint):
        load(self, checkpoint)
        self.carried = tuple(torch.zeros_like(leaf) for leaf in self.carried)

    step, calls = TextModule.training_step, []

    def stopping(self, batch, batch_idx):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TextModule, "training_step", stopping)
    with pytest.raises(Interrupted, match="its first 4 steps are kept"):
        train(tmp_path, CARRIED)
    monkeypatch.setattr(TextModule, "on_load_checkpoint", forgetful)
    train(tmp_path, CARRIED, resume=True)
    whole = killed[0] / "carried" / "whole"
    assert rows_of(tmp_path)[0]["train_loss"] != rows_of(whole)[0]["train_loss"]


@pytest.mark.parametrize("config", [ROWS, CARRIED], ids=["rows", "carried"])
def test_a_run_says_what_it_measures(config: TextTrainingConfig, tmp_path: Path) -> None:
    model, (documents, validation) = language_model(), halves(sentences(20, seed=3), 14)
    config = dataclasses.replace(config, epochs=6)
    result = fit_text(model, documents, validation, config, tmp_path, progress=False)
    assert not model.training
    saved = models.load(tmp_path / "model").state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    rows = rows_of(tmp_path)
    assert list(rows[0]) == [
        "epoch",
        "step",
        *(f"{part}_{name}" for part in ("train", "val") for name in ("loss", "bits_per_byte", "perplexity")),
        "lr",
        "seconds",
        "tokens_per_second",
    ]
    assert result.best_epoch == 1 + int(np.argmin([float(row["val_loss"]) for row in rows]))
    context = None if config.carry_state else config.sequence_length
    found = evaluate_text(model, validation, context=context)
    measured = [result.metrics[f"val_{name}"] for name in ("loss", "bits_per_byte", "perplexity")]
    assert measured == pytest.approx([found.loss, found.bits_per_byte, found.perplexity], rel=1e-5)
    last = rows[-1]
    tokens_per_byte = documents.predictions / documents.bytes
    expected = float(last["train_loss"]) / math.log(2) * tokens_per_byte
    assert float(last["train_bits_per_byte"]) == pytest.approx(expected, rel=1e-4)
    assert float(last["train_loss"]) < 1.9 < 2.2 < float(rows[0]["train_loss"])
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    described = json.loads((tmp_path / "run.json").read_text())
    assert described["train"] == {
        "documents": 14,
        "tokens": documents.tokens,
        "bytes": documents.bytes,
        "texts": documents.digest(),
    }
    assert described["model"]["end_ids"] == [END]


def test_two_processes_train_as_one_would(tmp_path: Path) -> None:
    documents, validation = halves(sentences())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, Path(__file__).with_name("two_texts.py"), tmp_path / "two"]
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=300)
    fit_text(language_model(dropout=0.0), documents, validation, ONE, tmp_path / "one", progress=False)
    two, one = rows_of(tmp_path / "two"), rows_of(tmp_path / "one")
    assert len(two) == len(one) == 2
    # rows that do not divide by two are taken twice by two processes, so only validation sees exactly the same
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for name in ("train_loss", "val_loss"):
        values = [[float(row[name]) for row in log] for log in (two, one)]
        assert values[0] == pytest.approx(values[1], rel=2e-2), name


def test_bfloat16_trains_too(tmp_path: Path) -> None:
    config = dataclasses.replace(CARRIED, precision="bf16", epochs=1)
    result = fit_text(language_model(), *halves(sentences()), config, tmp_path, progress=False)
    assert math.isfinite(result.metrics["val_loss"])
    assert {leaf.dtype for leaf in checkpoint(tmp_path)["longstate_carried"]} >= {torch.float32}


def test_a_run_that_is_not_the_same_is_not_continued(tmp_path: Path) -> None:
    documents, validation = halves(sentences())
    config = dataclasses.replace(ROWS, epochs=1)
    fit_text(language_model(), documents, validation, config, tmp_path, progress=False)

    def refused(text: str, *, documents=documents, config=config) -> None:
        with pytest.raises(InputError, match=f"cannot be continued: {text}"):
            fit_text(language_model(), documents, validation, config, tmp_path, resume=True, progress=False)

    refused("`training.sequence_length` was 10 and is 9", config=dataclasses.replace(config, sequence_length=9))
    refused("`training.carry_state` was False and is True", config=dataclasses.replace(config, carry_state=True))
    turned = documents.select(np.arange(6)[::-1].copy())
    refused("the texts of the train documents are not those it was started with", documents=turned)
    result = fit_text(language_model(), documents, validation, config, tmp_path, resume=True, progress=False)
    assert result.epochs == 1


def test_a_clock_ends_a_run_within_an_epoch(tmp_path: Path) -> None:
    config = dataclasses.replace(ROWS, epochs=1000, max_minutes=0.01, final_lr=0.25)
    result = fit_text(language_model(), *halves(sentences(200), 190), config, tmp_path, progress=False)
    rows = rows_of(tmp_path)
    assert result.stopped_early
    assert result.epochs == len(rows) < 1000
    standing = checkpoint(tmp_path)["longstate"]
    assert standing["finished"]
    assert 0.6 <= standing["spent"] < 5
    per_epoch = int(rows[0]["step"]) if len(rows) > 1 else 1000
    assert int(rows[-1]["step"]) % per_epoch or len(rows) == 1  # not at the end of an epoch, with these numbers
    assert float(rows[-1]["lr"]) == pytest.approx(0.25 * config.lr, rel=0.2)
    assert rows[-1]["val_loss"]
    again = fit_text(language_model(), *halves(sentences(200), 190), config, tmp_path, resume=True, progress=False)
    assert again.steps == result.steps


def test_a_run_that_continues_uses_no_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(ROWS, epochs=1000, max_minutes=10.0)
    step, calls = TextModule.training_step, []

    def stopping(self, batch, batch_idx):
        calls.append(self.rate_factor)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(TextModule, "training_step", stopping)
    with pytest.raises(Interrupted):
        train(tmp_path, config)
    path = tmp_path / "checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["longstate"]["spent"] = 599.9
    torch.save(saved, path)
    train(tmp_path, config, resume=True)
    after = checkpoint(tmp_path)["longstate"]
    assert after["finished"]
    assert after["spent"] >= 600
    assert calls[3] == pytest.approx(config.final_lr, abs=0.02)


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    model = language_model()
    model.config = dataclasses.replace(model.config, end_ids=())
    with pytest.raises(InputError, match="the model has no end token, but one is needed between documents"):
        fit_text(model, sentences(), None, ROWS, tmp_path, progress=False)
    with pytest.raises(InputError, match="no end token"):
        evaluate_text(model, sentences())
    with pytest.raises(InputError, match="there are no documents, but one at least is needed"):
        fit_text(language_model(), sentences().select(np.arange(0)), None, ROWS, tmp_path, progress=False)
    with pytest.raises(InputError, match="`carry_state` is true with 2 devices, but the states of one device only"):
        TextTrainingConfig(carry_state=True, devices=2)
    with pytest.raises(InputError, match="`sequence_length` is 0, but a positive integer is needed"):
        TextTrainingConfig(sequence_length=0)
    with pytest.raises(InputError, match=r"`lr` is -1, but a number of more than 0 is needed; the default is 0\.002"):
        TextTrainingConfig(lr=-1)
    with pytest.raises(InputError, match=r"`max_minutes` is 0, but a number of more than 0 is needed"):
        TextTrainingConfig(max_minutes=0)


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    models.save(language_model(seed=5), tmp_path / "old")
    new = language_model()
    used = initialise_from(new, tmp_path / "old").used
    assert set(used) == set(new.state_dict())
    assert torch.equal(new.embedding.weight, language_model(seed=5).embedding.weight)
    wider = LanguageModel(dataclasses.replace(new.config, vocabulary_size=20))
    assert initialise_from(wider, tmp_path / "old").left == ("embedding.weight",)
    models.save(
        models.build(ClassifierConfig(d_input=1, classes=("a", "b"), backbone=BackboneConfig(8, 1))), tmp_path / "c"
    )
    with pytest.raises(InputError, match="holds a SequenceClassifier, but a language model begins with a language"):
        initialise_from(new, tmp_path / "c")
