"""`longstate evaluate` of a language model: bits per byte and perplexity of a text."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from longstate import models, training
from longstate._checks import InputError, check_choice
from longstate.cli.console import print_json
from longstate.cli.fit_text import print_text_evaluations
from longstate.cli.text_config import TextDataSection, TextSplitSection
from longstate.cli.texts import documents_of, parts_of, source_of
from longstate.cli.trained import PARTS, TrainedText
from longstate.data import Documents
from longstate.models import Tokenizer


def evaluate_language_model(
    trained: TrainedText, source: str, *, split: str | None, context: int | None, batch_size: int, as_json: bool
) -> None:
    """Judge a language model and print how well it predicts.

    Args:
        trained: The model.
        source: Text, read as that of its training.
        split: The part of it that was "train", "validation" or "test" when the model was trained; "all" or None for
            everything.
        context: Tokens after which the model forgets within a document, 0 for never; as in its training if None.
        batch_size: Documents side by side.
        as_json: Print JSON and nothing else.
    """
    config = trained.model.config
    tokenizer = models.load_tokenizer(config.tokenizer, trained.folder, vocabulary_size=config.vocabulary_size)
    forgets = trained.facts.get("context") if context is None else context or None
    part = split or "all"
    check_choice(part, ("all", *PARTS), name="--split")
    with tempfile.TemporaryDirectory() as store:
        documents = _part(_section(trained.facts, source), tokenizer, Path(store), part, trained.facts)
        evaluation = training.evaluate_text(trained.model, documents, batch_size=batch_size, context=forgets)
    if as_json:
        print_json({"model": str(trained.folder), "source": source, "split": part, **evaluation.to_dict()})
    else:
        print_text_evaluations({part: evaluation}, source)


def _section(facts: dict[str, Any], source: str) -> TextDataSection:
    """How a source is read: as in training, as far as that is written down."""
    known = {name: value for name, value in facts.get("text", {}).items() if name in ("suffixes", "exclude", "field")}
    split = facts.get("text", {}).get("split", {})
    return TextDataSection(source=source, **known, split=TextSplitSection(**split))


def _part(section: TextDataSection, tokenizer: Tokenizer, store: Path, part: str, facts: dict[str, Any]) -> Documents:
    """A part of a source, if it is what it was in training."""
    if part == "all":
        return documents_of(source_of(section), tokenizer, store)
    if facts.get("text", {}).get("validation_source") is not None:
        section = dataclasses.replace(section, validation_source=facts["text"]["validation_source"])
    documents = parts_of(section, tokenizer, store).get(part)
    if documents is None or documents.digest() != facts.get("digests", {}).get(part):
        raise InputError(
            f"{section.source} has no {part} part that is known to be that of the training, but --split {part} asks "
            "for it; give the source of the training as it was then, or leave --split out to take all."
        )
    return documents
