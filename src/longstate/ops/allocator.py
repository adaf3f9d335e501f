"""Keeps large blocks of memory in the process, so that a CPU does not fault in fresh pages at every operation."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEEP = 1 << 30


def set_up_allocator() -> bool:
    """Tell glibc to reuse large blocks instead of returning them to the system after each use.

    A training step on a CPU allocates the same large temporaries again and again. By default glibc maps each anew, and
    the kernel clears every page at its first use: a copy of 256 MB runs several times slower than memory allows. After
    this call freed blocks stay with the process (its resident size does not shrink until it ends), which is why it is
    a call and never a side effect of an import. The command line makes it at its start. Calling it again changes
    nothing; memory of a GPU is not concerned.

    Returns:
        Whether the allocator was set up: True with glibc (Linux), False elsewhere, where nothing is done.

    Example:
        >>> from longstate import ops
        >>> ops.set_up_allocator() in (True, False)
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, _KEEP), (_M_TRIM_THRESHOLD, _KEEP), (_M_TOP_PAD, _KEEP // 16))
    return all(mallopt(option, value) == 1 for option, value in settings)
