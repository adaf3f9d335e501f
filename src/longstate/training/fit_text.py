"""One training run of a language model in one folder, from beginning to end or from where it was stopped."""

from pathlib import Path

from longstate.data import Documents
from longstate.data.token_batches import check_documents
from longstate.models import LanguageModel
from longstate.training.config import TextTrainingConfig
from longstate.training.evaluate_text import end_token
from longstate.training.lightning_door import require_lightning
from longstate.training.run_folder import describe_documents, describe_run
from longstate.training.standing import Standing
from longstate.training.whole_run import FitResult, whole_run


def fit_text(
    model: LanguageModel,
    train: Documents,
    validation: Documents | None,
    config: TextTrainingConfig,
    folder: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
) -> FitResult:
    """Train a language model, and keep in `folder` all that is needed to use it and to continue, as `fit` does.

    Every token of every document is predicted once an epoch from what stands before it in its row, the first one from
    an end token, and after the last one an end token is. At the beginning of a document everything before is forgotten,
    so that no document learns from its neighbour.

    Args:
        model: It is trained in place and ends with the weights of the best epoch, in `eval()` mode. The first of its
            `end_ids` stands between documents.
        train: Documents to learn from.
        validation: Documents to choose the best epoch by, by their loss; None keeps the last.
        config: How to train.
        folder: A folder of its own for this run.
        resume: Continue the run in `folder` from its last checkpoint; on a CPU it ends with the same weights, bit for
            bit, with carried state too, unless `max_minutes` ends it.
        progress: Show on standard error how it goes.

    Returns:
        What came out; the metrics are loss, bits_per_byte and perplexity of both parts.

    Raises:
        InputError: If the model has no end token, the folder is taken, or (with `resume`) something is not as it was.
        Interrupted: On Ctrl-C or SIGTERM, after a checkpoint was written; a second Ctrl-C does not wait for it.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from longstate.data import Documents, TextSource, token_store
        >>> from longstate.models import BackboneConfig, ByteTokenizer, LanguageModel, LanguageModelConfig, MambaConfig
        >>> from longstate.training import TextTrainingConfig, fit_text
        >>> backbone = BackboneConfig(d_model=8, n_layers=1, layer=MambaConfig(d_state=4), norm="rms")
        >>> model = LanguageModel(LanguageModelConfig(vocabulary_size=257, end_ids=(256,), backbone=backbone))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in "ab":
        ...         _ = Path(folder, f"{name}.txt").write_text("to be or not to be")
        ...     documents = Documents(token_store(TextSource(folder), ByteTokenizer(), folder), np.arange(2))
        ...     config, run = TextTrainingConfig(epochs=2), Path(folder, "run")
        ...     result = fit_text(model, documents, None, config, run, progress=False)
        >>> sorted(result.metrics)[-3:]
        ['train_bits_per_byte', 'train_loss', 'train_perplexity']
    """
    require_lightning()
    from longstate.training.text_module import TextModule

    end_token(model)
    for part in (train, validation):
        if part is not None:
            check_documents(part)
    described = None if validation is None else describe_documents(validation)
    description = describe_run(config, model.config, describe_documents(train), described)

    def module(standing: Standing) -> TextModule:
        return TextModule(model.train(), train, validation, config, standing)

    columns = TextModule.columns()
    return whole_run(model, module, columns, config, description, folder, resume=resume, progress=progress)
