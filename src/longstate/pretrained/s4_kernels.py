"""How the official S4 code has named the tensors of its kernels: one table a version.

All of them hold half of every conjugate pair, dt one a feature, and (A, B, P) once for each of n_ssm systems. They
differ in the sign of Im A: version 4 keeps -Im A, version 3 Im A itself, as here. The tables are facts read in
state-spaces/s4: models/s4/s4.py, models/s4/s4d.py, src/models/s4/s4.py of version 3, checkpoints/convert_v3_to_v4.py.
"""

from typing import NamedTuple

from torch import Tensor

from longstate.models import S4Config, S4DConfig
from longstate.models.layer_config import Rule
from longstate.pretrained.checkpoint import Checkpoint
from longstate.pretrained.renames import Rename, negated


class Dialect(NamedTuple):
    """The names of one kind of kernel in one version.

    Args:
        title: What it is, for people.
        marks: Names that, beside C, only this kind has together.
        table: Which tensor is which, but for C, whose channels may hold two directions, and D.
        config: What the names decide about the layer.
        rule: Its discretisation if nobody says otherwise.
        prefix: Stands between the names of the layer and those of the kernel.
        length: Name of the length for which C was prepared; None where C is the true one.
        C_factor: What C is multiplied by.
    """

    title: str
    marks: tuple[str, ...]
    table: tuple[Rename, ...]
    config: S4Config | S4DConfig
    rule: Rule
    prefix: str = "kernel."
    length: str | None = None
    C_factor: float = 1.0

    def is_at(self, checkpoint: Checkpoint, layer: str) -> bool:
        """Whether the layer whose names begin with `layer` is of this kind."""
        return all(f"{layer}{self.prefix}{name}" in checkpoint for name in (*self.marks, "C"))


def one_column(x: Tensor) -> Tensor:
    """(H, 1) as (H,)."""
    return x[:, 0] if x.dim() == 2 and x.shape[1] == 1 else x


def one_copy(x: Tensor) -> Tensor:
    """(1, ...) as (...)."""
    return x[0] if x.dim() > 0 and x.shape[0] == 1 else x


_B, _P = Rename("B", "B", one_copy), Rename("P", "P")
_OLD = "kernel.kernel."

DIALECTS = (
    Dialect(
        title="S4, version 4",
        marks=("inv_dt", "l_kernel"),
        table=(
            Rename("inv_dt", "log_dt", one_column),
            Rename("A_real", "A_real"),
            Rename("A_imag", "A_imag", negated),
            _B,
            _P,
        ),
        config=S4Config(),
        rule="bilinear",
        length="l_kernel",
    ),
    Dialect(
        title="S4D, version 4",
        marks=("inv_dt", "A_imag"),
        table=(
            Rename("inv_dt", "log_dt", one_column),
            Rename("A_real", "A_real"),
            Rename("A_imag", "A_imag", negated),
            _B,
        ),
        config=S4DConfig(),
        rule="zoh",
    ),
    Dialect(
        title="S4D with real modes, version 4",
        marks=("inv_dt", "A_real"),
        table=(Rename("inv_dt", "log_dt", one_column), Rename("A_real", "A_real"), _B),
        config=S4DConfig(init="real"),
        rule="zoh",
        C_factor=2.0,  # its kernel doubles real modes as if they had conjugates
    ),
    Dialect(
        title="S4, version 3",
        marks=("log_dt", "inv_w_real"),
        table=(Rename("log_dt", "log_dt"), Rename("inv_w_real", "A_real"), Rename("w_imag", "A_imag"), _B, _P),
        config=S4Config(),
        rule="bilinear",
        prefix=_OLD,
        length="L",
    ),
    Dialect(
        title="S4 with Re A < 0, version 2.1",
        marks=("log_dt", "log_w_real"),
        table=(Rename("log_dt", "log_dt"), Rename("log_w_real", "A_real"), Rename("w_imag", "A_imag"), _B, _P),
        config=S4Config(),
        rule="bilinear",
        prefix=_OLD,
        length="L",
    ),
    Dialect(
        title="S4D, version 3",
        marks=("log_dt", "inv_A_real"),
        table=(
            Rename("log_dt", "log_dt"),
            Rename("inv_A_real", "A_real"),
            Rename("A_imag", "A_imag"),
            Rename("B", "B"),
        ),
        config=S4DConfig(),
        rule="bilinear",
        prefix=_OLD,
    ),
    Dialect(
        title="S4D, the minimal file",
        marks=("log_dt", "log_A_real"),
        table=(Rename("log_dt", "log_dt"), Rename("log_A_real", "A_real"), Rename("A_imag", "A_imag")),
        config=S4DConfig(),
        rule="zoh",
    ),
)
"""Tried in this order."""

NOT_NEEDED = {
    "kernel.omega": "the nodes of an FFT, made anew",
    "kernel.z": "the nodes of an FFT, made anew",
    "kernel.kernel.omega": "the nodes of an FFT, made anew",
    "kernel.kernel.z": "the nodes of an FFT, made anew",
}
"""Tensors that some versions save beside the parameters, and why they are left."""
