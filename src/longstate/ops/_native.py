"""The door to the compiled kernels of `csrc/`: a plain C library beside the package, if one was built."""

import ctypes
import functools
from pathlib import Path

import torch
from torch import Tensor

_ABI = 6
REAL, COMPLEX, DENSE = range(3)
"""`Carry` of longstate.h: diagonal systems, diagonal in pairs re, im, and matrices."""

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
_PLAIN = (Tensor, torch.nn.Parameter)


class Rows(ctypes.Structure):
    """`Rows` of longstate.h: an array (batch, length, width) whose last axis is contiguous."""

    _fields_ = (("data", _POINTER), ("batch_stride", _INT), ("time_stride", _INT))


class SelectiveScan(ctypes.Structure):
    """`SelectiveScan` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "length", "channels", "states", "groups")),
        *((name, Rows) for name in ("u", "dt", "z", "B", "C")),
        *((name, _POINTER) for name in ("A", "D", "dt_bias")),
        ("softplus", ctypes.c_int32),
        *((name, _POINTER) for name in ("state", "lengths", "starts", "y", "final_state", "borders")),
        *((name, _POINTER) for name in ("grad_y", "grad_final", "grad_u", "grad_dt", "grad_z")),
        *((name, _POINTER) for name in ("grad_A", "grad_D", "grad_bias", "grad_B", "grad_C", "grad_state")),
    )


class LTIScan(ctypes.Structure):
    """`LTIScan` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "length", "features", "channels", "states", "chunk", "parts")),
        ("kind", ctypes.c_int32),
        ("u", Rows),
        *((name, _POINTER) for name in ("taps", "rows", "columns", "carry", "state", "lengths")),
        *((name, _POINTER) for name in ("y", "last", "borders", "grad_y", "grad_last", "grad_u", "grad_state")),
        *((name, _POINTER) for name in ("grad_taps", "grad_rows", "grad_columns", "grad_carry")),
    )


class LTIFactors(ctypes.Structure):
    """`LTIFactors` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("features", "channels", "states", "chunk", "rank")),
        ("kind", ctypes.c_int32),
        *((name, _POINTER) for name in ("A", "left", "right", "B", "C", "D", "taps", "rows", "columns", "carry")),
        *((name, _POINTER) for name in ("grad_taps", "grad_rows", "grad_columns", "grad_carry")),
        *((name, _POINTER) for name in ("grad_A", "grad_left", "grad_right", "grad_B", "grad_C", "grad_D")),
    )


class Dropout(ctypes.Structure):
    """`Dropout` of longstate.h, field by field."""

    _fields_ = (
        ("count", _INT),
        ("seed", ctypes.c_uint64),
        ("threshold", ctypes.c_uint32),
        ("scale", ctypes.c_float),
        *((name, _POINTER) for name in ("x", "y")),
    )


class GELUMap(ctypes.Structure):
    """`GELUMap` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("rows", "features", "outputs", "parts")),
        *((name, ctypes.c_int32) for name in ("kind", "tanh")),
        *((name, _POINTER) for name in ("y", "weight", "bias", "out", "gate")),
        *((name, _POINTER) for name in ("grad_out", "grad_y", "grad_weight", "grad_bias")),
    )


class LTIStep(ctypes.Structure):
    """`LTIStep` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "features", "channels", "states")),
        ("kind", ctypes.c_int32),
        *((name, _POINTER) for name in ("u", "state", "A", "B", "C", "D", "y", "next")),
    )


class Norm(ctypes.Structure):
    """`Norm` of longstate.h, field by field."""

    _fields_ = (("kind", ctypes.c_int32), ("eps", ctypes.c_float), ("weight", _POINTER), ("bias", _POINTER))


class LTIBlock(ctypes.Structure):
    """`LTIBlock` of longstate.h, field by field."""

    _fields_ = (
        ("system", LTIStep),
        ("norm", Norm),
        *((name, ctypes.c_int32) for name in ("activation", "gated")),
        ("scale", ctypes.c_float),
        *((name, _POINTER) for name in ("weight", "bias")),
    )


class LTIStack(ctypes.Structure):
    """`LTIStack` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("features", "count")),
        ("blocks", ctypes.POINTER(LTIBlock)),
        ("norm", Norm),
    )


class LinearStep(ctypes.Structure):
    """`LinearStep` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "inputs", "outputs")),
        *((name, _POINTER) for name in ("x", "weight", "bias", "y")),
    )


class MambaStep(ctypes.Structure):
    """`MambaStep` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "width", "channels", "states", "taps", "rank")),
        ("branch", ctypes.c_int32),
        ("norm", _POINTER),
        *((name, ctypes.c_float) for name in ("norm_eps", "scale")),
        ("norms", ctypes.c_int32),
        *((name, ctypes.c_float) for name in ("eps", "rate")),
        *((name, _POINTER) for name in ("x", "tail", "state", "rates")),
        *((name, _POINTER) for name in ("into", "into_bias", "filter", "filter_bias", "vectors")),
        *((name, _POINTER) for name in ("norm_r", "norm_B", "norm_C", "dt", "dt_bias", "A", "D", "out", "out_bias")),
        *((name, _POINTER) for name in ("y", "next_tail", "next", "own_work")),
    )


class Mamba2Step(ctypes.Structure):
    """`Mamba2Step` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "width", "heads", "head_width", "states", "groups", "taps")),
        ("branch", ctypes.c_int32),
        ("norm", _POINTER),
        *((name, ctypes.c_float) for name in ("norm_eps", "scale")),
        *((name, ctypes.c_int32) for name in ("gate", "D_each")),
        *((name, ctypes.c_float) for name in ("eps", "floor", "ceiling", "rate")),
        *((name, _POINTER) for name in ("x", "tail", "state", "rates")),
        *((name, _POINTER) for name in ("into", "into_bias", "filter", "filter_bias")),
        *((name, _POINTER) for name in ("dt_bias", "A", "D", "norm_y", "out", "out_bias")),
        *((name, _POINTER) for name in ("y", "next_tail", "next", "own_work")),
    )


class CausalConv1d(ctypes.Structure):
    """`CausalConv1d` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "length", "features", "taps")),
        ("silu", ctypes.c_int32),
        ("x", Rows),
        *((name, _POINTER) for name in ("weight", "bias", "tail", "lengths", "starts", "y")),
        *((name, _POINTER) for name in ("grad_y", "grad_x", "grad_tail", "grad_weight", "grad_bias")),
    )


class LinearScan(ctypes.Structure):
    """`LinearScan` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "length", "channels")),
        ("kind", ctypes.c_int32),
        ("shared", _POINTER),
        *((name, Rows) for name in ("a", "b")),
        *((name, _POINTER) for name in ("state", "lengths", "starts", "h", "final_state", "grad_h", "grad_final")),
        *((name, _POINTER) for name in ("grad_a", "grad_b", "grad_state", "grad_shared")),
    )


class SSD(ctypes.Structure):
    """`SSD` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "length", "heads", "width", "states", "groups", "block", "rank")),
        *((name, Rows) for name in ("x", "weight", "log_decay", "B", "C")),
        *((name, _POINTER) for name in ("D", "state", "lengths", "starts", "y", "final_state", "borders")),
        *((name, _POINTER) for name in ("grad_y", "grad_final", "grad_x", "grad_weight", "grad_decay")),
        *((name, _POINTER) for name in ("grad_B", "grad_C", "grad_D", "grad_state")),
    )


class VaryingScan(ctypes.Structure):
    """`VaryingScan` of longstate.h, field by field."""

    _fields_ = (
        *((name, _INT) for name in ("batch", "length", "features", "channels", "modes")),
        ("held", ctypes.c_int32),
        ("u", Rows),
        *((name, _POINTER) for name in ("rate", "z", "gain", "C", "state", "lengths", "starts")),
        *((name, _POINTER) for name in ("y", "final_state", "borders", "grad_y", "grad_final", "grad_u", "grad_rate")),
        *((name, _POINTER) for name in ("grad_z", "grad_gain", "grad_C", "grad_state")),
    )


_FUNCTIONS = {
    "longstate_isa": (ctypes.c_char_p, ()),
    "longstate_selective_block": (_INT, ()),
    "longstate_selective_tiles": (_INT, (_INT, _INT)),
    "longstate_selective_scan": (ctypes.c_int32, (ctypes.POINTER(SelectiveScan), _POINTER)),
    "longstate_selective_scan_backward": (ctypes.c_int32, (ctypes.POINTER(SelectiveScan), _POINTER)),
    "longstate_linear_scan": (ctypes.c_int32, (ctypes.POINTER(LinearScan), _POINTER)),
    "longstate_linear_scan_backward": (ctypes.c_int32, (ctypes.POINTER(LinearScan), _POINTER)),
    "longstate_varying_block": (_INT, ()),
    "longstate_varying_scan": (ctypes.c_int32, (ctypes.POINTER(VaryingScan), _POINTER)),
    "longstate_varying_scan_backward": (ctypes.c_int32, (ctypes.POINTER(VaryingScan), _POINTER)),
    "longstate_lanes": (_INT, ()),
    "longstate_lti_border": (_INT, (ctypes.c_int32,)),
    "longstate_lti_scan": (ctypes.c_int32, (ctypes.POINTER(LTIScan), _POINTER)),
    "longstate_lti_scan_backward": (ctypes.c_int32, (ctypes.POINTER(LTIScan), _POINTER)),
    "longstate_lti_factors": (ctypes.c_int32, (ctypes.POINTER(LTIFactors), _POINTER)),
    "longstate_lti_factors_backward": (ctypes.c_int32, (ctypes.POINTER(LTIFactors), _POINTER)),
    "longstate_dropout": (ctypes.c_int32, (ctypes.POINTER(Dropout), _POINTER)),
    "longstate_gelu_map": (ctypes.c_int32, (ctypes.POINTER(GELUMap), _POINTER)),
    "longstate_gelu_map_backward": (ctypes.c_int32, (ctypes.POINTER(GELUMap), _POINTER)),
    "longstate_causal_conv1d": (ctypes.c_int32, (ctypes.POINTER(CausalConv1d), _POINTER)),
    "longstate_causal_conv1d_backward": (ctypes.c_int32, (ctypes.POINTER(CausalConv1d), _POINTER)),
    "longstate_ssd_tiles": (_INT, (_INT, _INT)),
    "longstate_ssd": (ctypes.c_int32, (ctypes.POINTER(SSD), _POINTER)),
    "longstate_ssd_backward": (ctypes.c_int32, (ctypes.POINTER(SSD), _POINTER)),
    "longstate_linear_step": (ctypes.c_int32, (ctypes.POINTER(LinearStep), _POINTER)),
    "longstate_mamba_steps": (ctypes.c_int32, (ctypes.POINTER(MambaStep), _INT, _POINTER)),
    "longstate_mamba2_steps": (ctypes.c_int32, (ctypes.POINTER(Mamba2Step), _INT, _POINTER)),
    "longstate_lti_step": (ctypes.c_int32, (ctypes.POINTER(LTIStep), _POINTER)),
    "longstate_lti_stack": (ctypes.c_int32, (ctypes.POINTER(LTIStack), _INT, _POINTER, _POINTER)),
}
"""The functions of longstate.h: what each returns and takes."""


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None where none were built or the machine cannot load them."""
    for path in sorted(Path(__file__).parents[1].glob("*longstate.*")):
        if path.suffix not in (".so", ".dylib", ".dll"):
            continue
        try:
            found = ctypes.CDLL(str(path))
        except OSError:
            continue  # built for another machine: PyTorch does the work
        if found.longstate_abi_version() != _ABI:
            continue
        for name, (result, arguments) in _FUNCTIONS.items():
            getattr(found, name).restype, getattr(found, name).argtypes = result, arguments
        return found
    return None


@torch.compiler.assume_constant_result
def is_built() -> bool:
    """Whether there are kernels; a compiled program takes the answer for granted."""
    return library() is not None


def kernels() -> ctypes.CDLL:
    """The kernels; only for calls whose `why_not` was None."""
    found = library()
    if found is None:
        raise RuntimeError("the native kernels are not built")
    return found


def instruction_set() -> str | None:
    """Which variant of the kernels this machine runs: "avx512", "avx2", "base", or None without kernels."""
    found = library()
    return None if found is None else found.longstate_isa().decode()


def why_not_here(*tensors: Tensor | None) -> str | None:
    """Why no kernel can take these tensors, in a sentence, or None: they run on a CPU, in float32."""
    if not is_built():
        return "no native kernels were built (install with a C++ compiler to get them)"
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            return f"needs tensors on the cpu, got {tensor.device.type}"
    return None


def why_not_at_once(*tensors: Tensor | None) -> str | None:
    """Why a kernel cannot be called on these tensors without torch's dispatcher, or None.

    Such a call costs a few microseconds, but nobody sees it: no gradient, no tracing, no mode of torch.
    """
    if torch.compiler.is_compiling():
        return "is not for programs, which are free of longstate's library"
    if torch._C._are_functorch_transforms_active() or torch._C._len_torch_dispatch_stack():
        return "needs plain eager mode, and this call is traced or transformed"
    if library() is None:
        return "no native kernels were built (install with a C++ compiler to get them)"
    slopes = torch.is_grad_enabled()
    for x in tensors:
        if x is None:
            continue
        if type(x) not in _PLAIN or x.dtype is not torch.float32 or not x.is_cpu or not x.is_contiguous():
            return "needs contiguous float32 tensors on the cpu"
        if slopes and x.requires_grad:
            return "needs no_grad or inference_mode: the step has no gradient of its own"
    return None


@functools.cache
def thread_pool() -> int | None:
    """Torch's own thread pool, by its stable C symbol (torch >= 2.10); None runs kernels in the calling thread."""
    for path in (Path(torch.__file__).parent / "lib").glob("*torch_cpu.*"):
        try:
            return ctypes.cast(ctypes.CDLL(str(path)).torch_parallel_for, _POINTER).value
        except (AttributeError, OSError):
            continue
    return None


def rows(x: Tensor | None) -> Rows:
    """A (batch, length, width) tensor with a contiguous last axis, as the kernels read it."""
    return Rows() if x is None else Rows(x.data_ptr(), x.stride(0), x.stride(1))


def pointer(x: Tensor | None) -> int | None:
    """Where a contiguous tensor begins."""
    return None if x is None else x.data_ptr()


def run(kernel: str, arguments: ctypes.Structure | ctypes.Array, *more: int | bytes) -> None:
    """Call a kernel in torch's thread pool."""
    if getattr(kernels(), kernel)(arguments, *more, thread_pool()):
        raise RuntimeError(f"{kernel} failed in torch's thread pool")
