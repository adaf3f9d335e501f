"""A tokenizer.json that is made on the spot."""

from pathlib import Path

TEXT = "hello world, ünïcode 日本語 🎉🎉\n\tx"


def write_tokenizer(path: Path) -> Path:
    """A small byte-level BPE with a special token, and truncation that has to be undone."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    backend.train_from_iterator([TEXT] * 4, trainer)
    backend.enable_truncation(3)
    backend.enable_padding(length=50)
    backend.save(str(path))
    return path
