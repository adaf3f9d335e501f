"""Settings for the smartwatch recordings: those of the demo, and of `longstate fit watch`."""

from typing import Any

MODEL: dict[str, Any] = {"backbone": {"d_model": 64, "n_layers": 3, "dropout": 0.1}}

TRAINING: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 16,
    "lr": 4e-3,
    "weight_decay": 0.05,
    "crop": 800,
    "label_smoothing": 0.1,
    "noise": 0.1,
    "scale": 0.1,
    "flip": ["ax", "wy", "wz"],
}
"""Chosen within people 1 to 8. The flip turns the movement of a right arm into that of a left one."""
