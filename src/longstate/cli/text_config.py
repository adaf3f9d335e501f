"""The configuration of `longstate fit` for a language model: which text is read, what is built and how it trains."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from longstate._checks import InputError
from longstate.data.text_source import TEXT_SUFFIXES
from longstate.models import BackboneConfig, MambaConfig
from longstate.training import TextTrainingConfig

_FORBID_EXTRA = {"extra": "forbid"}

STACK = BackboneConfig(d_model=256, n_layers=4, layer=MambaConfig(), norm="rms", dropout=0.0)
"""What stands in `model.backbone` where nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class TextSplitSection:
    """Which documents train, validate and test.

    Args:
        validation: Share of the bytes to validate with, in whole documents; of a single text its last but one part.
        test: Share of the bytes to test with, in whole documents; of a single text its last part.
        seed: Another seed, another division.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    validation: float = 0.05
    test: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise InputError(f"`{name}` is {share}, but a share from 0 to below 1 is needed; 0 leaves it out.")
        if self.validation + self.test >= 1:
            raise InputError(
                f"`validation` is {self.validation} beside a `test` of {self.test}, but something has to train; "
                "choose them so that their sum is below 1."
            )


@dataclass(frozen=True, kw_only=True)
class TextDataSection:
    """Where the text comes from and how it becomes tokens.

    Args:
        source: A text file; a `.jsonl` file, a document a line; or a folder, searched recursively.
        suffixes: Of the files of a folder that are documents.
        exclude: Names of folders, anywhere in that folder, that are left out.
        field: Of the JSON objects, where their text is.
        tokenizer: "bytes", or the path of a `tokenizer.json`.
        end_token: The token of the tokenizer that stands between documents, by name; None adds one.
        validation_source: Text to validate with, instead of a share.
        store: Folder where tokens are kept and found again; `tokens` in the run's folder if None.
        split: Which documents train, validate and test.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    source: str
    suffixes: tuple[str, ...] = TEXT_SUFFIXES
    exclude: tuple[str, ...] = ()
    field: str = "text"
    tokenizer: str = "bytes"
    end_token: str | None = None
    validation_source: str | None = None
    store: str | None = None
    split: TextSplitSection = TextSplitSection()


@dataclass(frozen=True, kw_only=True)
class TextModelSection:
    """The model, but for what the tokenizer decides.

    Args:
        kind: That it is a language model.
        backbone: The stack of layers; where a part of it is not said, it is that of `STACK`.
        tie_head: Whether the logits use the embeddings again.
        vocabulary_multiple: The embeddings have rows for the next multiple of this.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    kind: Literal["language_model"] = "language_model"
    backbone: BackboneConfig = STACK
    tie_head: bool = True
    vocabulary_multiple: int = 1

    def __post_init__(self) -> None:
        if self.vocabulary_multiple < 1:
            raise InputError(
                f"`vocabulary_multiple` is {self.vocabulary_multiple}, but a positive integer is needed; 1 adds no "
                "rows."
            )


@dataclass(frozen=True, kw_only=True)
class TextFitConfig:
    """Everything that `longstate fit` is told about a language model.

    Args:
        data: What is read, and how it is divided.
        model: What is built.
        training: How it trains.
        output: Folder of the run.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_EXTRA

    data: TextDataSection
    model: TextModelSection = TextModelSection()
    training: TextTrainingConfig = field(default_factory=TextTrainingConfig)
    output: str = "runs/longstate"
