"""From a configuration to what a run on text needs: the tokenizer, documents, their parts, and the model's own one."""

import dataclasses
from pathlib import Path

import numpy as np

from longstate import data
from longstate._checks import InputError
from longstate.cli.prepare import locate
from longstate.cli.text_config import TextDataSection, TextModelSection
from longstate.data import Documents, TextSource
from longstate.models import ByteTokenizer, FileTokenizer, LanguageModelConfig, Tokenizer
from longstate.models.tokenizer import BYTES

TOKENIZER = "tokenizer.json"

Parts = dict[str, Documents]
"""Training, validation and test documents by these names; a part without a document is left out."""


def tokenizer_of(section: TextDataSection) -> Tokenizer:
    """The tokenizer that a section names."""
    return ByteTokenizer() if section.tokenizer == BYTES else FileTokenizer(section.tokenizer)


def model_config(section: TextModelSection, text: TextDataSection, tokenizer: Tokenizer) -> LanguageModelConfig:
    """The model's own configuration: one token more than the tokenizer has, unless one of its own ends a document."""
    size = tokenizer.vocabulary_size
    if text.end_token is None:
        size, end = size + 1, size
    elif isinstance(tokenizer, FileTokenizer):
        end = tokenizer.token_id(text.end_token)
    else:
        raise InputError(
            f"`end_token` is {text.end_token!r} beside the tokenizer 'bytes', whose tokens have no names; leave it "
            "out, and a token is added."
        )
    return LanguageModelConfig(
        vocabulary_size=size,
        backbone=section.backbone,
        tie_head=section.tie_head,
        vocabulary_multiple=section.vocabulary_multiple,
        tokenizer=BYTES if text.tokenizer == BYTES else TOKENIZER,
        end_ids=(end,),
    )


def documents_of(source: TextSource, tokenizer: Tokenizer, store: Path) -> Documents:
    """All documents of a source, as tokens on the disk."""
    found = data.token_store(source, tokenizer, store)
    return Documents(found, np.arange(len(found)))


def parts_of(section: TextDataSection, tokenizer: Tokenizer, store: Path) -> Parts:
    """Training, validation and test documents.

    A single text is cut into training, validation and test part in this order, at the ends of lines; of many
    documents whole ones are chosen by chance.

    Args:
        section: What is read, and the shares.
        tokenizer: What makes tokens of it.
        store: Where tokens are kept.
    """
    split = section.split
    validation = 0.0 if section.validation_source else split.validation
    source = source_of(section, cuts=tuple(_cuts(validation, split.test)))
    documents = documents_of(source, tokenizer, store)
    if source.is_single:
        names = [name for name, share in (("train", 1), ("validation", validation), ("test", split.test)) if share]
        if len(documents) < len(names):
            raise InputError(
                f"{source.path} has too few lines for the parts {', '.join(names)}, but each needs one at least; add "
                "text, or set `data.split.validation` or `data.split.test` to 0."
            )
        parts = {name: documents.select(np.array([row])) for row, name in enumerate(names)}
    else:
        rows = data.split_documents(documents, validation=validation, test=split.test, seed=split.seed)
        parts = {name: documents.select(part) for name, part in rows._asdict().items() if len(part)}
    if section.validation_source:
        other = dataclasses.replace(source, path=locate(section.validation_source), cuts=())
        parts["validation"] = documents_of(other, tokenizer, store)
    return parts


def source_of(section: TextDataSection, *, cuts: tuple[float, ...] = ()) -> TextSource:
    """The place that a section names."""
    return TextSource(locate(section.source), section.suffixes, section.exclude, section.field, cuts)


def _cuts(validation: float, test: float) -> list[float]:
    """Where a single text is cut."""
    borders = [1 - validation - test] if validation else []
    return borders + ([1 - test] if test else [])
