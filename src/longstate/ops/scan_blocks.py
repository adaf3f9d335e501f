"""A linear recurrence by blocks of time that advance together, and its gradient by the same recurrence reversed."""

import torch
from torch import Tensor
from torch.nn import functional as F

from longstate.ops.lti_kernel import split_length


def scan_blocks(a: Tensor, b: Tensor, state: Tensor, precise: Tensor) -> tuple[Tensor, Tensor]:
    """`h_t = a_t h_{t-1} + b_t` over planes, all of one type, for a length of at least 1.

    Args:
        a: Transition (K, K, P), or (K, K, batch, length, P) where it varies.
        b: What comes in (K, batch, length, P).
        state: h before the first element (K, batch, P).
        precise: A constant transition (P, K, K) in the precision that it was given in and that its powers are taken
            in; not looked at where it varies.

    Returns:
        h (K, batch, length, P), and its last element (K, batch, P).
    """
    _, T = split_length(b.shape[2])
    if a.dim() == 5:
        return _Scan.apply(a, b, state, a.new_zeros(()), T)
    wide = torch.complex128 if precise.is_complex() else torch.float64
    power = torch.linalg.matrix_power(precise.detach().to(wide), T).to(a.dtype)
    return _Scan.apply(a, b, state, power.permute(1, 2, 0), T)


class _Scan(torch.autograd.Function):
    """Blocks of T elements: first what each hands on, from block to block, and then h inside all of them.

    Step i of a pass takes the elements i, i + T, i + 2 T, ... of the sequence, one of each block; the last block may
    be shorter. Nothing is kept but a, h and the product of a over each block.
    """

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, state: Tensor, power: Tensor, T: int) -> tuple[Tensor, Tensor]:
        b = b.contiguous()
        length = b.shape[2]
        blocks = -(-length // T)
        entering, product = [state], power
        if blocks > 1:
            whole = (blocks - 1) * T  # the last block hands nothing on
            x = F.pad(state.unsqueeze(2), (0, 0, 0, blocks - 2))
            for i in range(T):
                a_i = _of_step(a, i, whole, T)
                x = _advance(a_i, x, b[:, :, i:whole:T])
                product = power if a.dim() == 3 else a_i if i == 0 else _multiply(a_i, product)
            entering.append(x[:, :, 0])
            for m in range(1, blocks - 1):
                entering.append(_advance(_of_block(product, m), entering[-1], x[:, :, m]))
        x = torch.stack(entering, dim=2)
        h = _Pieces(b, T)
        for i in range(T):
            b_i = b[:, :, i::T]
            x = _advance(_of_step(a, i, length, T), x[:, :, : b_i.shape[2]], b_i, out=h.place(i))
            h.keep(x)
        h = h.joined()
        ctx.save_for_backward(a, h, state, product)
        ctx.T = T
        return h, h[:, :, -1].clone()

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, h, state, product = ctx.saved_tensors
        T = ctx.T
        dh, d_final = grads[0].contiguous(), grads[1]
        length = dh.shape[2]
        blocks = -(-length // T)
        entering = [d_final]
        if blocks > 1:
            flow = F.pad(d_final.unsqueeze(2), (0, 0, blocks - 2, 0))
            for i in reversed(range(T, 2 * T)):  # the first block hands nothing back
                dh_i = dh[:, :, i::T]
                back = _transposed(_of_step(a, i, length, T), dh_i + flow[:, :, : dh_i.shape[2]])
                flow = _replace_first(flow, back)
            entering.append(flow[:, :, -1])
            for m in reversed(range(1, blocks - 1)):
                entering.append(flow[:, :, m - 1] + _transposed(_of_block(product, m), entering[-1]))
        flow = torch.stack(entering[::-1], dim=2)
        varies = a.dim() == 5
        grad_b, grad_a = _Pieces(dh, T), _Pieces(a, T) if varies else None
        total = a.new_zeros(*a.shape[:2], *flow.shape[1:])
        for i in reversed(range(T)):
            dh_i = dh[:, :, i::T]
            count = dh_i.shape[2]
            g = grad_b.keep(torch.add(dh_i, flow[:, :, :count], out=grad_b.place(i)))
            before = h[:, :, i - 1 :: T] if i else torch.cat([state.unsqueeze(2), h[:, :, T - 1 :: T]], dim=2)
            pair = g.unsqueeze(1), before[:, :, :count].conj()
            if grad_a is None:
                total[:, :, :, :count].addcmul_(*pair)
            else:
                grad_a.keep(torch.mul(*pair, out=grad_a.place(i)))
            flow = _replace_first(flow, _transposed(_of_step(a, i, length, T), g))
        slope = total.sum((2, 3)) if grad_a is None else grad_a.joined(backwards=True)
        return slope, grad_b.joined(backwards=True), flow[:, :, 0], None, None


class _Pieces:
    """A sequence like another one, of its every T-th elements one after the other: written in place, step by step.

    A compiler would copy the whole of it for each piece that is written, so for it the pieces are stacked.
    """

    def __init__(self, like: Tensor, T: int) -> None:
        self.T, self.length = T, like.shape[-2]
        self.whole = None if torch.compiler.is_compiling() else torch.empty_like(like)
        self.pieces: list[Tensor] = []

    def place(self, i: int) -> Tensor | None:
        """Where piece i is written."""
        return None if self.whole is None else self.whole[..., i :: self.T, :]

    def keep(self, piece: Tensor) -> Tensor:
        """A piece that is written, or to be stacked."""
        if self.whole is None:
            self.pieces.append(piece)
        return piece

    def joined(self, *, backwards: bool = False) -> Tensor:
        """The sequence; `backwards` if its last piece came first."""
        if self.whole is not None:
            return self.whole
        blocks = -(-self.length // self.T)
        even = [F.pad(piece, (0, 0, 0, blocks - piece.shape[-2])) for piece in self.pieces]
        return torch.stack(even[::-1] if backwards else even, dim=-2).flatten(-3, -2)[..., : self.length, :]


def _of_step(a: Tensor, first: int, end: int, T: int) -> Tensor:
    """Transitions of elements first, first + T, ...: (K, K, batch, blocks, P); a constant one is broadcast."""
    return a[:, :, :, first:end:T] if a.dim() == 5 else a[:, :, None, None]


def _of_block(product: Tensor, m: int) -> Tensor:
    """The product of the transitions of block m: (K, K, batch, P); that of a constant one is broadcast."""
    return product[:, :, :, m] if product.dim() == 5 else product[:, :, None]


def _advance(a: Tensor, x: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`a x + b` for a (K, K, ...), x and b (K, ...)."""
    for j in range(a.shape[1]):
        b = torch.addcmul(b, a[:, j], x[j], out=out)
    return b


def _transposed(a: Tensor, g: Tensor) -> Tensor:
    """`conj(a)^T g` for a (K, K, ...), g (K, ...)."""
    a = a.conj()
    back = a[0] * g[0]
    for k in range(1, a.shape[0]):
        back = torch.addcmul(back, a[k], g[k])
    return back


def _multiply(a: Tensor, product: Tensor) -> Tensor:
    """`a product` for matrices (K, K, ...)."""
    result = a[:, :1] * product[:1]
    for j in range(1, a.shape[1]):
        result = torch.addcmul(result, a[:, j : j + 1], product[j : j + 1])
    return result


def _replace_first(old: Tensor, new: Tensor) -> Tensor:
    """`old` (K, batch, blocks, P) with its first blocks replaced; a shorter last block waits for its elements."""
    return new if new.shape == old.shape else torch.cat([new, old[:, :, new.shape[2] :]], dim=2)
