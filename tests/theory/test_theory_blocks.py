"""Block-diagonal HiPPO: the official spectrum, and what copies of one block mean."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from longstate import InputError
from longstate.theory import block_diagonal, hippo, nplr

GOLDENS = Path(__file__).parents[1] / "goldens" / "s5.npz"


@pytest.mark.parametrize("d_state", [8, 16])
def test_spectrum_is_the_official_one(d_state: int) -> None:
    with np.load(GOLDENS) as archive:
        A_official, P, spectrum = (
            torch.from_numpy(archive[f"init/legs_{d_state}/{name}"]) for name in ("A", "P", "Lambda")
        )
    A, V = block_diagonal("legs", d_state)
    full = torch.cat([A, A.conj()])
    assert_close(full[full.imag.argsort()], spectrum, rtol=0, atol=1e-12 * d_state)
    assert torch.equal(A.real, torch.full_like(A.real, -0.5))
    rebuilt = 2 * (V @ torch.diag(A) @ V.mH).real
    assert_close(rebuilt, A_official + torch.outer(P, P), rtol=0, atol=1e-12 * d_state)


@pytest.mark.parametrize("measure", ["legs", "legt", "fourier"])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_are_copies_of_one(measure: str, blocks: int) -> None:
    A, V = block_diagonal(measure, 4 * blocks, blocks)
    one = nplr(measure, 4)
    normal = 2 * (one.V @ torch.diag(one.A) @ one.V.mH).real
    rebuilt = 2 * (V @ torch.diag(A) @ V.mH).real
    assert_close(rebuilt, torch.block_diag(*[normal] * blocks), rtol=0, atol=1e-12)
    full = torch.cat([V, V.conj()], dim=1)
    assert_close(full.mH @ full, torch.eye(4 * blocks, dtype=full.dtype), rtol=0, atol=1e-12)
    drive = V.mH @ hippo(measure, 4).B.repeat(blocks).to(V.dtype)
    assert_close(drive, one.B.repeat(blocks), rtol=0, atol=1e-12)
    assert (drive.real > 0).all()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("legs", 12, 4), "`d_state` is 12 with blocks=4, but blocks of an even size are needed, .* a multiple of 8"),
        (("legs", 7), "`d_state` is 7 with blocks=1, .* a multiple of 2"),
        (("legs", 8, 0), "`blocks` is 0, but a positive integer is needed"),
        (("s4", 8), "`measure` is 's4', but one of legs"),
    ],
)
def test_errors_say_what_to_do(arguments: tuple, text: str) -> None:
    with pytest.raises(InputError, match=text):
        block_diagonal(*arguments)
