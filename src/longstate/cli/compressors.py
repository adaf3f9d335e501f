"""What general compressors make of a text, beside which a language model can be seen."""

import bz2
import lzma


def compressed(text: bytes) -> dict[str, float]:
    """Bits per byte of bz2 and xz, at their strongest, over the whole text at once.

    Example:
        >>> from longstate.cli.compressors import compressed
        >>> {name: bits < 1 for name, bits in compressed(b"to be or not to be " * 100).items()}
        {'bz2': True, 'xz': True}
    """
    sizes = {
        "bz2": len(bz2.compress(text, 9)),
        "xz": len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)),
    }
    return {name: 8 * size / len(text) for name, size in sizes.items()}
