"""`longstate generate`: what is printed, where it ends, and what is refused."""

import json
import re
from pathlib import Path

import pytest
import torch

from longstate import models
from longstate.inference import Sampling, generate
from longstate.models import BackboneConfig, ByteTokenizer, LanguageModel, LanguageModelConfig, MambaConfig


@pytest.fixture
def model() -> LanguageModel:
    """A model of bytes and an end."""
    backbone = BackboneConfig(d_model=8, n_layers=1, layer=MambaConfig(d_state=2), norm="rms", dropout=0.0)
    model = LanguageModel(LanguageModelConfig(vocabulary_size=257, end_ids=(256,), backbone=backbone))
    torch.nn.init.normal_(model.embedding.weight, std=0.5)
    return model.eval()


@pytest.fixture
def place(model: LanguageModel, tmp_path: Path) -> Path:
    models.save(model, tmp_path / "language")
    return tmp_path / "language"


def text_of(model: LanguageModel, prompt: list[int], **options) -> str | None:
    return generate(model, [prompt], tokenizer=ByteTokenizer(), **options)[0].text


def test_text_is_printed_and_the_speed_beside_it(run, model, place) -> None:
    said = run("generate", place, "--prompt", "hé", "--max-new-tokens", 20, "--seed", 3)
    assert said.code == 0
    expected = text_of(model, list("hé".encode()), max_new_tokens=20, seed=3)
    assert said.out.rstrip("\n") == (expected or "").rstrip("\n")
    assert re.fullmatch(r"20 tokens after a prompt of 3, [\d,]+ tokens/s \(--max-new-tokens reached\)\n", said.err)


def test_json_holds_everything(run, model, place) -> None:
    options = ["--temperature", 0.7, "--top-k", 50, "--top-p", 0.9, "--min-p", 0.01, "--repetition-penalty", 1.2]
    said = run("generate", place, "--prompt", "ab", "--max-new-tokens", 15, *options, "--json")
    found = json.loads(said.out)
    sampling = Sampling(temperature=0.7, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    expected = generate(model, [b"ab"], max_new_tokens=15, sampling=sampling, tokenizer=ByteTokenizer())[0]
    assert (found["text"], found["ids"], found["reason"]) == (expected.text, list(expected.ids), expected.reason)
    assert (found["prompt"], found["prompt_tokens"], found["new_tokens"]) == ("ab", 2, 15)
    assert found["tokens_per_second"] > 0
    assert said.err == ""


def test_a_prompt_may_come_from_a_file_or_from_nothing(run, model, place, tmp_path) -> None:
    (tmp_path / "prompt").write_bytes(b"x\xff\n")
    greedy = ["--greedy", "--max-new-tokens", 8, "--json"]
    options = {"max_new_tokens": 8, "sampling": Sampling(greedy=True)}
    for arguments, prompt in (
        (["--prompt-file", tmp_path / "prompt"], [120, 255, 10]),
        ([], [256]),
        (["--prompt", ""], [256]),
        (["--prompt", "a", "--begin"], [256, 97]),
    ):
        found = json.loads(run("generate", place, *arguments, *greedy).out)
        assert found["text"] == text_of(model, prompt, **options)
        assert found["prompt_tokens"] == len(prompt)


def test_it_ends_at_a_string(run, model, place) -> None:
    whole = text_of(model, [97], max_new_tokens=40) or ""
    stop = whole[20:22]
    said = run("generate", place, "--prompt", "a", "--stop", stop, "--max-new-tokens", 40)
    assert said.out.rstrip("\n") == whole[: whole.index(stop)].rstrip("\n")
    assert "(a --stop string came)" in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", 0], "`temperature` is 0.0, but a positive number is needed; for the most probable token"),
        (["--top-p", 1.5], "`top_p` is 1.5, but a number above 0 and at most 1 is needed"),
        (["--top-k", -3], "`top_k` is -3, but a positive integer is needed"),
        (["--max-new-tokens", -1], "`max_new_tokens` is -1, but a positive integer is needed"),
        (["--seed", -1], "`--seed` is -1, but an integer of at least 0 is needed"),
        (["--stop", ""], "`--stop` is empty, but a string"),
        (["--prompt-file", "nowhere"], "No such file or directory (nowhere)"),
        (["--prompt-file", "nowhere", "--prompt", "x"], "both `--prompt` and `--prompt-file` are given"),
        (["--device", "tpu"], "`device` is 'tpu', but one of auto, cpu, cuda, mps is needed"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(run, place, arguments, message) -> None:
    said = run("generate", place, *arguments)
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_other_models_do_not_speak(run, folder, model, tmp_path) -> None:
    said = run("generate", folder, "--prompt", "a")
    assert said.code == 2
    assert "holds a SequenceClassifier, but a language model is needed; train one with `longstate fit TEXT`" in said.err
    silent = LanguageModel(LanguageModelConfig(backbone=model.config.backbone))
    models.save(silent, tmp_path / "silent")
    said = run("generate", tmp_path / "silent")
    assert "the prompt is empty, but the model has no end token that a text could begin with" in said.err
    said = run("generate", tmp_path / "silent", "--begin", "--prompt", "x")
    assert "`--begin` is given, but the model has no end token" in said.err
    bare = LanguageModel(LanguageModelConfig(backbone=model.config.backbone, tokenizer=None))
    models.save(bare, tmp_path / "bare")
    assert (
        "knows ids only, but a tokenizer is needed for text" in run("generate", tmp_path / "bare", "--prompt", "x").err
    )
