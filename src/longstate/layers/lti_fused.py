"""When a step of a whole stack of residual layers can be one call of a kernel, and that call."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules import module as all_modules
from torch.utils import _pytree

from longstate.layers.dropout import Dropout
from longstate.layers.lti import LTILayer, LTIState
from longstate.layers.norm import LayerNorm, RMSNorm
from longstate.layers.pointwise import GatedOutput, LinearOutput
from longstate.layers.residual import Residual
from longstate.ops.lti_stack import LTIBlock, LTIStack, Norm, lti_stack_native, why_not_native
from longstate.ops.lti_step import StepConstants

_IN_PROGRAMS = "is not for programs, which are free of longstate's library"


class FusedStack:
    """The residual layers of a backbone and its last norm as one call, with the values of their steps in eval mode.

    Made by `fuse`, beside constants. It reads parameters where they are, so it follows what `load_state_dict` writes
    to them, and stands back (`why_not`) where a module or a parameter was replaced, moved or hooked since.
    """

    def __init__(
        self, owner: nn.Module, layers: nn.ModuleList, norm: nn.Module, constants: tuple[Any, ...], stack: LTIStack
    ) -> None:
        self.owner, self.layers, self.norm, self.constants, self.stack = owner, layers, norm, constants, stack
        residuals = [cast(Residual[LTIState], layer) for layer in layers]
        systems = [cast(LTILayer, layer.layer) for layer in residuals]
        inside = [part for layer in residuals for part in (layer.norm, layer.dropout)]
        inside += [layer.output for layer in systems]
        called = [module for part in (norm, *inside) for module in part.modules()]
        around = [owner, layers, *residuals, *systems]
        holders = [module._modules for module in (*around, *called)] + [module._parameters for module in called]
        self._places = [(holder, name, part) for holder in holders for name, part in holder.items()]
        self._hooks = [hooks for module in called for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._hooks += [all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks]
        self._dropouts = [module for module in called if isinstance(module, nn.Dropout)]

    def __reduce__(self) -> tuple[Any, ...]:
        return fuse, (self.owner, self.layers, self.norm, self.constants)  # a copy of modules has pointers of its own

    def why_not(self, owner: nn.Module, x_t: Tensor, state: tuple[Any, ...], constants: tuple[Any, ...]) -> str | None:
        """Why a step of `owner` is not this one call, in a sentence, or None."""
        if torch.compiler.is_compiling():
            return _IN_PROGRAMS
        if owner is not self.owner or constants is not self.constants:
            return "was made for another module, or for other constants"
        if len(state) != len(constants) or not all(type(part) is LTIState for part in state):
            return "needs one LTIState for every layer"
        reason = why_not_native(x_t.contiguous(), [part.x.contiguous() for part in state], self.stack)
        if reason is not None:
            return reason
        for holder, name, part in self._places:
            if holder.get(name) is not part:
                return "was made before a module or a parameter was replaced; compute the constants again"
        if any(self._hooks):
            return "would pass by the hooks of modules"
        for dropout in self._dropouts:
            if dropout.training and dropout.p:
                return "is for eval mode, where nothing is dropped"
        return None

    def step(self, x_t: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """One element through the stack; only where `why_not` was None."""
        y, new = lti_stack_native(x_t.contiguous(), [part.x.contiguous() for part in state], self.stack)
        return y, tuple([LTIState(x) for x in new])


# Without tensors: what runs over those of constants, such as `torch.export`, goes past it.
_pytree.register_pytree_node(
    FusedStack,
    lambda fused: ([], fused),
    lambda _, fused: fused,
    flatten_with_keys_fn=lambda fused: ([], fused),
)


def fuse(owner: nn.Module, layers: nn.ModuleList, norm: nn.Module, constants: tuple[Any, ...]) -> FusedStack | str:
    """The layers and the norm of `owner` as one call, or the sentence why they cannot be."""
    if torch.compiler.is_compiling():
        return _IN_PROGRAMS
    last, blocks = _norm(norm), [_block(layer, part) for layer, part in zip(layers, constants, strict=True)]
    for part in (last, *blocks):
        if isinstance(part, str):
            return part
    stack = LTIStack(cast(list[LTIBlock], blocks), cast(Norm, last))
    return FusedStack(owner, layers, norm, constants, stack) if stack.fits else "needs float32 tensors on the cpu"


def _block(layer: nn.Module, constants: Any) -> LTIBlock | str:
    if type(layer) is not Residual or not isinstance(layer.layer, LTILayer):
        return "needs every layer to be a Residual around a time-invariant system"
    if type(layer.layer).step is not LTILayer.step or type(constants) is not StepConstants:
        return f"needs the step of LTILayer, and {type(layer.layer).__name__} has one of its own"
    norm, output = _norm(layer.norm), _output(layer.layer.output)
    if isinstance(norm, str) or isinstance(output, str):
        return norm if isinstance(norm, str) else cast(str, output)
    activation, linear, gated = output
    weight, bias = (None, None) if linear is None else (linear.weight, linear.bias)
    return LTIBlock(norm, constants, activation, weight, bias, gated, layer.scale)


def _norm(norm: nn.Module) -> Norm | str:
    if type(norm) is LayerNorm and type(norm.norm) is nn.LayerNorm:
        return Norm("layer", norm.norm.eps, norm.norm.weight, norm.norm.bias)
    return Norm("rms", norm.eps, norm.weight) if type(norm) is RMSNorm else "knows the norms 'layer' and 'rms'"


def _output(output: nn.Module) -> tuple[str, nn.Linear | None, bool] | str:
    """The activation, the map and whether it is gated."""
    parts = list(cast(nn.Sequential, output)) if type(output) in (nn.Sequential, LinearOutput) else [output]
    if type(output) is GatedOutput and type(output.linear) is nn.Linear:
        return _gelu(output.approximate), output.linear, True
    if [type(part) for part in parts] == [nn.Identity]:
        return "none", None, False
    if [type(part) for part in parts[:2]] == [nn.GELU, Dropout] and all(type(p) is nn.Linear for p in parts[2:]):
        return _gelu(cast(nn.GELU, parts[0]).approximate), cast(nn.Linear | None, (*parts[2:], None)[0]), False
    return "knows the outputs 'glu', 'full_glu', 'linear', 'gelu' and 'none'"


def _gelu(approximate: str) -> str:
    return "gelu" if approximate == "none" else "gelu_tanh"
