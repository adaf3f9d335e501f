"""Structured state space models for long sequences: one model, three exact views.

Names resolve when they are used, so that `longstate --help` loads no torch; `__init__.pyi` lists them for editors.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_ROOMS = ("data", "diagnostics", "inference", "layers", "models", "ops", "pretrained", "theory", "training")
_NAMES = {
    "Attention": "layers",
    "FeedForward": "layers",
    "MixtureOfExperts": "layers",
    "ParallelHybrid": "layers",
    "Mamba": "layers",
    "BidirectionalMamba": "layers",
    "Mamba2": "layers",
    "LanguageModel": "models",
    "Mamba3": "layers",
    "Backbone": "models",
    "Bidirectional": "layers",
    "BidirectionalClassifier": "models",
    "BidirectionalS5": "layers",
    "BlockStateTransformer": "layers",
    "CausalLayer": "layers",
    "DSS": "layers",
    "EMA": "layers",
    "GSS": "layers",
    "GridLayer": "layers",
    "H3": "layers",
    "HippoMemory": "layers",
    "Hyena": "layers",
    "ImageClassifier": "models",
    "InputError": "_checks",
    "LRU": "layers",
    "LSSL": "layers",
    "LinOSS": "layers",
    "LongConv": "layers",
    "Residual": "layers",
    "S4": "layers",
    "S4D": "layers",
    "S4ND": "layers",
    "S5": "layers",
    "SelectiveScan2d": "layers",
    "SequenceClassifier": "models",
    "SequenceLayer": "layers",
    "SequenceRegressor": "models",
    "SequenceTagger": "models",
    "Session": "inference",
    "StepRegressor": "models",
    "check_layer": "diagnostics",
    "load": "models",
    "save": "models",
    "set_up_allocator": "ops",
}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"longstate.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"longstate.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'longstate' has no attribute {name!r}; public names: {', '.join(sorted(_NAMES))}")


def __dir__() -> list[str]:
    return sorted(["__version__", *_NAMES, *_ROOMS])
