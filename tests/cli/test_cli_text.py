"""`longstate fit` and `longstate evaluate` of language models: from text to bits per byte."""

import dataclasses
import json
import math
import signal
from pathlib import Path

import pytest
import torch
import yaml

from longstate import models
from longstate._checks import InputError
from longstate.cli.config_file import TextPlan, parse_yaml, plan_from_tree, read_config, to_tree, to_yaml
from longstate.cli.text_config import STACK, TextFitConfig
from longstate.models import BackboneConfig, MambaConfig, S4DConfig
from longstate.training import TextTrainingConfig
from longstate.training.text_module import TextModule
from small_tokenizer import write_tokenizer

TINY = {
    "model": {"kind": "language_model", "backbone": {"d_model": 8, "n_layers": 1, "layer": {"d_state": 2}}},
    "training": {"epochs": 2, "batch_size": 3, "sequence_length": 16, "lr": 0.02, "device": "cpu"},
}
SENTENCES = ("to be or not to be, that is the question", "the rest is silence", "words, words, words", "who's there?")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Twelve small files in a folder, and one that is no text."""
    place = tmp_path / "corpus"
    (place / "deep").mkdir(parents=True)
    for number in range(12):
        text = "\n".join(SENTENCES[(number + line) % 4] for line in range(2 + number % 3)) + "\n"
        (place / ("deep" if number % 2 else ".") / f"{number:02d}.txt").write_text(text)
    (place / "data.bin").write_bytes(b"\x00\xff")
    return place


@pytest.fixture
def config(corpus: Path, tmp_path: Path) -> Path:
    split = {"validation": 0.2, "test": 0.2}
    path = tmp_path / "text.yaml"
    tree = {**TINY, "data": {"source": str(corpus), "split": split}, "output": str(tmp_path / "run")}
    path.write_text(yaml.safe_dump(tree))
    return path


def errors(tree: dict, overrides: dict | None = None) -> list[str]:
    with pytest.raises(InputError) as caught:
        plan_from_tree(tree, "c.yaml", overrides)
    return str(caught.value).split("\n")


def test_fit_gives_a_language_model_that_knows_how_good_it_is(run, config: Path, corpus: Path, tmp_path: Path) -> None:
    said = run("fit", config)
    assert said.code == 0
    assert " documents (" in said.err
    assert "epoch 2/2  loss " in said.err
    assert "bits/byte " in said.err
    assert said.err.strip().endswith("tokens/s")
    for word in (
        "bits per byte",
        "perplexity",
        "validation",
        "test",
        f"longstate generate {tmp_path / 'run' / 'model'}",
    ):
        assert word in said.out
    folder = tmp_path / "run"
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads((folder / "model" / "training.json").read_text())
    assert sum(len(names) for names in facts["parts"].values()) == 12
    model = models.load(folder / "model")
    assert isinstance(model, models.LanguageModel)
    assert model.config.end_ids == (256,)
    assert model.config.backbone == BackboneConfig(8, 1, MambaConfig(d_state=2), "rms", 0.0)
    judged = json.loads(run("evaluate", folder, corpus, "--split", "test", "--json").out)
    assert judged["bits_per_byte"] == pytest.approx(facts["test"]["bits_per_byte"], rel=1e-5)
    assert judged["bits_per_byte"] == pytest.approx(
        judged["loss"] / math.log(2) * judged["tokens"] / judged["bytes"], rel=1e-6
    )
    assert judged["context"] == 16
    assert json.loads(run("evaluate", folder, corpus, "--json", "--context", 0).out)["context"] is None
    assert json.loads(run("evaluate", folder, corpus, "--json").out)["documents"] == 12
    assert "bits per byte" in run("evaluate", folder, corpus / "00.txt").out
    known = json.loads(run("info", folder, "--json").out)
    assert known["kind"] == "language_model"
    assert known["test"] == facts["test"]
    assert "digests" not in known
    again = yaml.safe_load((folder / "config.yaml").read_text())
    assert again == yaml.safe_load(config.read_text())


def test_tokens_are_made_once_and_kept_where_one_says(run, config: Path, tmp_path: Path) -> None:
    assert run("fit", config, "--quiet").code == 0
    (store,) = (tmp_path / "run" / "tokens").iterdir()
    shared = tmp_path / "shared"
    options = ["--quiet", "-s", f"data.store={shared}", "-s", "training.epochs=1"]
    assert run("fit", config, *options, "--output", tmp_path / "a").code == 0
    (made,) = shared.iterdir()
    before = (made / "tokens.bin").stat().st_mtime_ns
    assert run("fit", config, *options, "--output", tmp_path / "b").code == 0
    assert [(made / "tokens.bin").stat().st_mtime_ns, made.name] == [before, store.name]
    assert not (tmp_path / "a" / "tokens").exists()


def test_a_single_text_is_cut_in_its_order(run, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    lines = [f"{number:03d} {SENTENCES[number % 4]}\n" for number in range(60)]
    book.write_text("".join(lines))
    said = run("fit", book, "--output", tmp_path / "run", "-s", f"model={json.dumps(TINY['model'])}", "-s",
               f"training={json.dumps(TINY['training'])}", "-s", "data.split.test=0.2")  # fmt: skip
    assert said.code == 0
    assert "1 documents" in said.err
    store = next((tmp_path / "run" / "tokens").iterdir())
    names = json.loads((store / "store.json").read_text())["names"]
    assert names == ["book.txt, part 1", "book.txt, part 2", "book.txt, part 3"]
    assert bytes.fromhex((store / "tokens.bin").read_bytes().hex())[:8:2] == lines[0].encode()[:4]
    judged = json.loads(run("evaluate", tmp_path / "run", book, "--split", "test", "--json").out)
    assert judged["bytes"] == sum(len(line) for line in lines[48:]) or judged["bytes"] > 0
    book.write_text("other\n" * 90)
    said = run("evaluate", tmp_path / "run", book, "--split", "test")
    assert said.code == 2
    assert "has no test part that is known to be that of the training, but --split test asks for it" in said.err


def test_a_source_of_its_own_validates(run, config: Path, corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("words, words\n" * 5)
    said = run("fit", config, "-s", f"data.validation_source={other}")
    assert said.code == 0
    assert "1 documents (65 bytes) validation" in said.err
    judged = json.loads(run("evaluate", tmp_path / "run", corpus, "--split", "validation", "--json").out)
    assert judged["bytes"] == 65


def test_a_tokenizer_goes_with_the_model(run, config: Path, corpus: Path, tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "some-tokenizer.json")
    said = run("fit", config, "--quiet", "-s", f"data.tokenizer={path}", "-s", "data.end_token=<|endoftext|>")
    assert said.code == 0
    model = models.load(tmp_path / "run" / "model")
    assert isinstance(model, models.LanguageModel)
    assert (model.config.tokenizer, model.config.end_ids) == ("tokenizer.json", (0,))
    assert (tmp_path / "run" / "model" / "tokenizer.json").read_bytes() == path.read_bytes()
    judged = json.loads(run("evaluate", tmp_path / "run", corpus, "--split", "test", "--json").out)
    assert judged["tokens"] < judged["bytes"] + judged["documents"]
    added = run("fit", config, "--quiet", "-s", f"data.tokenizer={path}", "--output", tmp_path / "added")
    assert added.code == 0
    other = models.load(tmp_path / "added" / "model")
    assert isinstance(other, models.LanguageModel)
    assert other.config.vocabulary_size == model.config.vocabulary_size + 1
    for setting, message in (
        ("data.end_token=</s>", "`end_token` is '</s>', which the tokenizer does not have"),
        ("data.tokenizer=nowhere.json", "nowhere.json` could not be read"),
    ):
        said = run("fit", config, "-s", f"data.tokenizer={path}", "-s", setting, "--output", tmp_path / "c")
        assert said.code == 2
        assert message in said.err
    said = run("fit", config, "-s", "data.end_token=x", "--output", tmp_path / "c")
    assert "beside the tokenizer 'bytes', whose tokens have no names" in said.err
    (tmp_path / "run" / "model" / "tokenizer.json").unlink()
    assert (
        "has no tokenizer.json, but the tokenizer of the model is needed"
        in run("evaluate", tmp_path / "run", corpus).err
    )


def test_ctrl_c_and_resume(run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    carried = ["-s", "training.carry_state=true", "--quiet"]
    assert run("fit", config, *carried, "--output", tmp_path / "whole").code == 0
    step, calls = TextModule.training_step, []

    def stopping(self, batch, batch_idx):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(TextModule, "training_step", stopping)
        said = run("fit", config, *carried)
    assert said.code == 130
    assert "the same command with --resume continues exactly there" in said.err
    assert run("fit", config, *carried, "--resume").code == 0
    ours, theirs = (models.load(tmp_path / name / "model").state_dict() for name in ("run", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert run("fit", config, *carried).code == 2


def test_a_run_begins_with_another(run, config: Path, tmp_path: Path) -> None:
    assert run("fit", config, "--quiet").code == 0
    options = ["--quiet", "-s", "training.lr=1e-12", "-s", "training.epochs=1", "--output", tmp_path / "next"]
    assert run("fit", config, *options, "--init-from", tmp_path / "run").code == 0
    ours, theirs = (models.load(tmp_path / name / "model").state_dict() for name in ("run", "next"))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_show_prints_what_fit_reads_again(run, config: Path, tmp_path: Path) -> None:
    shown = run("fit", config, "--show").out
    plan = plan_from_tree(parse_yaml(shown, "shown"), "shown")
    assert isinstance(plan, TextPlan)
    assert plan.config == read_config(config).config
    bare = run("fit", "some/book.txt", "--show").out
    plan = plan_from_tree(parse_yaml(bare, "shown"), "shown")
    assert plan.config.output == "runs/book"
    assert isinstance(plan.config, TextFitConfig)
    assert plan.config.model.backbone == STACK
    assert plan.config.training == TextTrainingConfig()
    assert plan_from_tree(yaml.safe_load(to_yaml(to_tree(plan.config))), "again").config == plan.config


def test_what_is_not_said_of_the_stack_is_that_of_a_language_model() -> None:
    def stack(backbone: dict | None) -> BackboneConfig:
        tree = {"data": {"source": "x"}, "model": {"kind": "language_model", "backbone": backbone}}
        return plan_from_tree(tree, "c.yaml").config.model.backbone

    assert stack(None) == stack({}) == STACK
    assert stack({"d_model": 32, "layer": {"d_state": 4}}) == dataclasses.replace(
        STACK, d_model=32, layer=MambaConfig(d_state=4)
    )
    assert stack({"layer": {"kind": "s4d"}}).layer == S4DConfig()
    assert stack({"pattern": [{"kind": "mamba"}, {"kind": "feed_forward"}]}).norm == "rms"


def test_every_error_is_listed_at_once_where_it_stands() -> None:
    tree = {
        "data": {"sorce": "x", "suffixes": ".py", "split": {"validation": 0.7, "test": 0.5}},
        "model": {
            "kind": "language_model",
            "vocabulary_multiple": 0,
            "backbone": {"d_model": 0.5, "layer": {"kind": "mamba", "d_stat": 3}},
        },
        "training": {"crop": 3, "sequence_length": 0, "max_minutes": -1},
        "evaluation": {},
    }
    found = errors(tree)
    for message in (
        "c.yaml: data.source: is missing",
        "c.yaml: data.sorce: unknown key; did you mean source? (got 'x')",
        "c.yaml: data.suffixes: a list is needed (got '.py')",
        "c.yaml: data.split.validation: `validation` is 0.7 beside a `test` of 0.5, but something has to train; choose "
        "them so that their sum is below 1.",
        "c.yaml: model.vocabulary_multiple: `vocabulary_multiple` is 0, but a positive integer is needed; 1 adds no "
        "rows.",
        "c.yaml: model.backbone.d_model: an integer is needed (got 0.5)",
        "c.yaml: model.backbone.layer.d_stat: unknown key; did you mean d_state? (got 3)",
        "c.yaml: training.sequence_length: `sequence_length` is 0, but a positive integer is needed; give "
        "`sequence_length` at least 1.",
        "c.yaml: evaluation: unknown key; known are data, model, training, output (got {})",
    ):
        assert message in found
    assert any(line.startswith("c.yaml: training.crop: unknown key") for line in found)
    assert any(line.startswith("c.yaml: training.max_minutes: `max_minutes` is -1") for line in found)
    assert errors({"data": {"source": "watch"}, "model": {"kind": "x"}})[0].endswith(
        "step_regressor, or language_model is needed (got 'x')"
    )
    assert errors({"data": {"source": "x"}, "model": {"kind": "language_model", "backbone": {"n_layers": 0}}}) == [
        "c.yaml: model.backbone.n_layers: one layer at least is needed (got 0)"
    ]


def test_texts_that_cannot_be_read_are_one_sentence(run, config: Path, corpus: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        said = run(*arguments)
        assert (said.code, said.out) == (2, "")
        return said.err

    assert "nowhere is not a file, but a file is needed" in refused("fit", config, "-s", "data.source=nowhere")
    assert "holds no document with a text" in refused("fit", config, "-s", "data.suffixes=[.rst]")
    assert "there are 12 documents" not in refused(
        "fit", config, "-s", "data.exclude=[deep]", "-s", "data.suffixes=[0.txt]"
    )
    line = tmp_path / "line.txt"
    line.write_text("one line")
    assert "has too few lines for the parts train, validation, test" in refused("fit", line, "--output", tmp_path / "x")
    assert run("fit", config, "--quiet").code == 0
    assert "`--split` is 'tset', but one of all, train" in refused(
        "evaluate", tmp_path / "run", corpus, "--split", "tset"
    )
    assert "holds a language model, but one over recordings is needed" in refused("predict", tmp_path / "run", corpus)


def test_context_is_for_language_models(run, folder: Path, manifest: Path) -> None:
    said = run("evaluate", folder, manifest, "--context", 5)
    assert said.code == 2
    assert "`--context` is 5, but it counts the tokens of a language model" in said.err
