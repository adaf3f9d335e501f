"""A long sequence piece by piece: the numbers of the whole, and the memory of a piece."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree

import catalogue
from longstate.diagnostics import laws
from longstate.layers import (
    GSS,
    H3,
    LRU,
    S5,
    Attention,
    BlockStateTransformer,
    CausalLayer,
    HippoMemory,
    Hyena,
    LinOSS,
    LongConv,
    Mamba,
    Mamba2,
    Mamba3,
    pieces,
)
from peak import Peak

PIECE = 4
NO_INTERVALS = Attention | BlockStateTransformer | GSS | HippoMemory | Hyena | LongConv
IN_PIECES = NO_INTERVALS | H3 | LRU | LinOSS | Mamba | Mamba2 | Mamba3 | S5
ENTRIES = [entry for entry in catalogue.CAUSAL_LAYERS if isinstance(entry.build(), IN_PIECES)]
LARGE = {
    "Mamba": lambda: Mamba(4, 8),
    "Mamba2": lambda: Mamba2(4, 8, head_dim=4),
    "Mamba2(d_ssm)": lambda: Mamba2(4, 8, head_dim=4, d_ssm=4),
    "Mamba3": lambda: Mamba3(4, 8, head_dim=4),
    "Mamba3(rank)": lambda: Mamba3(4, 8, head_dim=4, rank=2),
    "Hyena": lambda: Hyena(8, filter_length=16, order=3, filter_order=4),
    "Attention": lambda: Attention(8, n_heads=2, window=16),
    "Block-State": lambda: BlockStateTransformer(8, n_heads=2, window=16),
    "S5": lambda: S5(8, 32),
    "LRU": lambda: LRU(8, 32),
    "LinOSS": lambda: LinOSS(8, 32),
    "H3": lambda: H3(8, 8, head_dim=4),
    "LongConv": lambda: LongConv(8, filter_length=16),
    "HippoMemory": lambda: HippoMemory(64, 4),
    "HippoMemory(legt)": lambda: HippoMemory(64, 4, measure="legt", window=50),
}


def cut(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Pieces of `size` elements from twice that length on, without gradients."""
    monkeypatch.setattr(pieces, "_SHORTEST", size)
    monkeypatch.setattr(pieces, "_NUMBERS", {"cpu": 0})
    monkeypatch.setattr(pieces, "_TIMES", 0)


def calls(monkeypatch: pytest.MonkeyPatch, cls: type, name: str) -> list[int]:
    """The lengths that a method of a layer is called with."""
    found: list[int] = []
    method = getattr(cls, name)

    def counted(self: Any, x: Tensor, *rest: Any) -> Any:
        found.append(x.shape[1])
        return method(self, x, *rest)

    monkeypatch.setattr(cls, name, counted)
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_pieces_obey_the_laws(entry: catalogue.Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, PIECE)
    layer: Any = entry.build().double()
    laws.check_parallel_equals_stepped(layer, make_input=entry.make_input, length=13)
    laws.check_whole_equals_chunked(layer, make_input=entry.make_input, length=13, chunks=[[13], [8, 5], [1, 12]])
    laws.check_padded_rows(layer, make_input=entry.make_input, length=13)
    laws.check_packed_rows(layer, make_input=entry.make_input, length=13)
    laws.check_rows_do_not_interact(layer, make_input=entry.make_input, length=13)
    laws.check_purity(layer, make_input=entry.make_input, length=13)
    if not isinstance(layer, NO_INTERVALS):
        laws.check_irregular_rate(layer, make_input=entry.make_input, length=13)


def arguments(layer: CausalLayer[Any], length: int) -> list[dict[str, Any]]:
    """Padding with rows that end at the border of a piece, packed rows, both, and intervals where they are taken."""
    lengths = torch.tensor([0, 1, 4, 5, 8, length])
    starts = torch.rand(6, length) < 0.2
    found: list[dict[str, Any]] = [{}, {"lengths": lengths}, {"starts": starts}, {"lengths": lengths, "starts": starts}]
    if not isinstance(layer, NO_INTERVALS):
        rate = torch.rand(6, length, dtype=torch.float64)
        rate = torch.where(torch.arange(length) < lengths[:, None], rate, torch.nan)
        found += [{"rate": 0.5}, {"lengths": lengths, "starts": starts, "rate": rate}]
    return found


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_pieces_are_the_whole(entry: catalogue.Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    layer: Any = entry.build().double().eval()
    x = entry.make_input(6, 14).double()
    with torch.no_grad():
        _, state = layer.forward_with_state(x, layer.initial_state(6))
        for given in arguments(layer, 14):
            valid = torch.arange(14) < given.get("lengths", torch.full((6,), 14))[:, None]
            u = torch.where(valid[..., None], x, torch.nan)
            expected = layer.forward_with_state(u, state, **given)
            alone = layer(u, **given)
            with monkeypatch.context() as patch:
                cut(patch, PIECE)
                found = layer.forward_with_state(u, state, **given)
                found_alone = layer(u, **given)
            assert torch.allclose(found[0][valid], expected[0][valid], rtol=1e-11, atol=1e-11)
            assert torch.allclose(found_alone[valid], alone[valid], rtol=1e-11, atol=1e-11)
            for part, wanted in zip(_pytree.tree_leaves(found[1]), _pytree.tree_leaves(expected[1]), strict=True):
                assert part.dtype is wanted.dtype
                assert torch.allclose(part, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cls", [Mamba, Mamba2, Mamba3])
def test_whole_with_a_gradient_and_in_pieces_without(cls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, PIECE)
    lengths = calls(monkeypatch, cls, "_piece")
    layer, x = LARGE[cls.__name__](), torch.randn(1, 10, 4)
    y = layer(x)
    assert lengths == [10]
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    with torch.no_grad():
        layer(x)
        assert lengths[1:] == [4, 4, 2]
        layer(x[:, :7])
        assert lengths[4:] == [7]
        torch.func.vmap(layer)(x[None])
        assert lengths[5:] == [10]


@pytest.mark.parametrize("name", LARGE)
def test_outputs_keep_the_type_that_the_whole_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer: Any = LARGE[name]().eval()
    x = torch.randn(1, 12, layer.d_model)
    with torch.no_grad():
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                expected, state = layer.forward_with_state(x, layer.initial_state(1))
                with monkeypatch.context() as patch:
                    cut(patch, PIECE)
                    found, new = layer.forward_with_state(x, layer.initial_state(1))
            assert found.dtype is expected.dtype
            for part, wanted in zip(_pytree.tree_leaves(new), _pytree.tree_leaves(state), strict=True):
                assert part.dtype is wanted.dtype
            assert torch.allclose(found.float(), expected.float(), atol=2e-2 if autocast else 1e-5)


@pytest.mark.parametrize("name", LARGE)
def test_memory_is_that_of_a_piece_and_of_the_output(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LARGE[name]().eval()
    apart = []
    for count in (0, 2, 8):
        cut(monkeypatch, 256 if count else 10_000)
        x = torch.randn(1, 256 * (count or 8), layer.d_model)
        with torch.no_grad(), Peak() as peak:
            y, _ = layer.forward_with_state(x, layer.initial_state(1))
        apart.append(peak.most - x.nbytes - y.nbytes)
    whole, two, eight = apart
    assert eight < 1.05 * two
    assert eight < whole / 4


def test_a_state_holds_no_more_than_itself() -> None:
    for make in LARGE.values():
        layer = make()
        _, state = layer.forward_with_state(torch.randn(2, 300, layer.d_model), layer.initial_state(2))
        parts = _pytree.tree_leaves(state)
        held = {part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}
        assert sum(held.values()) == sum(part.nbytes for part in parts)
