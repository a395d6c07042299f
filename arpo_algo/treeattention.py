"""Attention of a packed tree as one differentiable operation: exact, no T×T mask, no copies kept for the backward pass.

The row is cut into blocks of at most ``BLOCK`` queries of one segment. A block attends to the key ranges of its
ancestors and, causally, to its own segment up to itself. Only q, k and v are saved; probabilities are computed again
in the backward pass, block by block, as flash attention does. Why not scaled_dot_product_attention on slices: its
CPU backward in bfloat16 took three times its forward (here: once), autograd kept every concatenation of ancestors'
keys, and a shared prefix got its gradient through as many row-sized buffers as it has descendants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

BLOCK = 128


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens ``[begin, end)`` of the row, a run without forks, at depth ``start``; ``above``: its ancestors' ranges."""

    begin: int
    end: int
    start: int
    above: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Queries ``[begin, end)`` of the row; ``ranges``: the keys they attend to, the last ``end - begin`` their own.

    ``depth``: the position of the first query in its trajectory; with ranges in order of depth, key number j of the
    block has depth j, because a path has no gaps.
    """

    begin: int
    end: int
    ranges: tuple[tuple[int, int], ...]
    depth: int


def blocks(segments: Sequence[Segment], size: int = BLOCK) -> list[Block]:
    """Cut segments into blocks; adjoining key ranges are joined."""
    out = []
    for s in segments:
        for begin in range(s.begin, s.end, size):
            end = min(begin + size, s.end)
            ranges: list[tuple[int, int]] = []
            for a, b in (*s.above, (s.begin, end)):
                if ranges and ranges[-1][1] == a:
                    ranges[-1] = (ranges[-1][0], b)
                else:
                    ranges.append((a, b))
            out.append(Block(begin, end, tuple(ranges), s.start + begin - s.begin))
    return out


def tree_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    made: list[Block],
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Softmax attention over ancestors.

    Args:
        q: [1, H, T, D]. k, v: [1, H_kv, T, D], of q's dtype; H is a multiple of H_kv.
        made: blocks that cover the row.
        window: a query attends to the last ``window`` tokens of its trajectory, itself included; None: to all.
        softcap: scores are ``softcap·tanh(score/softcap)`` (gemma2).

    Returns:
        [1, T, H, D].
    """
    out: torch.Tensor = _TreeAttention.apply(q, k, v, made, scale, window, softcap)  # type: ignore[no-untyped-call]
    return out


def _keys(x: torch.Tensor, ranges: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """[H_kv, T, D] -> [H_kv, L, D]."""
    parts = [x[:, a:b] for a, b in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _visible(block: Block, window: int | None) -> tuple[tuple[int, int], ...]:
    """The block's key ranges without what lies outside every query's window."""
    if window is None:
        return block.ranges
    skip = max(0, block.depth - window + 1)  # the first query's first visible depth
    out = []
    for a, b in block.ranges:
        gone = min(skip, b - a)
        skip -= gone
        if a + gone < b:
            out.append((a + gone, b))
    return tuple(out)


def _product(a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """scale·a·b, scaled before it is rounded."""
    out = a.new_empty(a.shape[0], a.shape[1], b.shape[2])
    return torch.baddbmm(out, a, b, beta=0, alpha=scale, out=out)


def _probabilities(
    query: torch.Tensor, key: torch.Tensor, n: int, scale: float, window: int | None, softcap: float | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Probabilities [H_kv, g·n, L] of the last ``n`` of L keys' positions, in query's dtype, and tanh(score/softcap).

    A softmax in half precision sums in float32 and rounds its result alone, which the products need rounded anyway:
    half the time of a softmax between two casts.
    """
    heads, rows, _ = query.shape
    length = key.shape[1]
    score = _product(query, key.transpose(1, 2), scale)
    capped = None
    if softcap is not None:
        capped = score.float().div_(softcap).tanh_()
        score = capped * softcap
    grid = score.view(heads, rows // n, n, length)
    ones = torch.ones(n, n, dtype=torch.bool, device=score.device)
    grid[..., length - n :].masked_fill_(ones.triu_(1), -torch.inf)
    if window is not None and length > window:
        own = torch.arange(length - n, length, device=score.device)[:, None]
        grid.masked_fill_(torch.arange(length, device=score.device)[None] <= own - window, -torch.inf)
    return score.softmax(-1).to(query.dtype), capped


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        made: list[Block],
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        _, heads, length, dim = q.shape
        kv_heads = k.shape[1]
        out = q.new_empty(1, length, heads, dim)
        for block in made:
            n = block.end - block.begin
            ranges = _visible(block, window)
            # Grouped-query heads become query rows of their key head: nothing is repeated.
            query = q[0, :, block.begin : block.end].reshape(kv_heads, -1, dim)
            p, _ = _probabilities(query, _keys(k[0], ranges), n, scale, window, softcap)
            got = torch.bmm(p, _keys(v[0], ranges))
            out[0, block.begin : block.end] = got.view(heads, n, dim).transpose(0, 1)
        ctx.save_for_backward(q, k, v)
        ctx.rest = (made, scale, window, softcap)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        made, scale, window, softcap = ctx.rest
        heads, dim = q.shape[1], q.shape[3]
        kv_heads = k.shape[1]
        dq = torch.empty_like(q)
        # A prefix collects gradient from all its descendants: summed in float32.
        dk, dv = (torch.zeros(x.shape[1:], dtype=torch.float32, device=x.device) for x in (k, v))
        for block in made:
            n = block.end - block.begin
            ranges = _visible(block, window)
            query = q[0, :, block.begin : block.end].reshape(kv_heads, -1, dim)
            key, value = _keys(k[0], ranges), _keys(v[0], ranges)
            p, capped = _probabilities(query, key, n, scale, window, softcap)
            above = grad[0, block.begin : block.end].transpose(0, 1).reshape(kv_heads, -1, dim)
            dp = torch.bmm(above, value.transpose(1, 2))
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
            if capped is not None:
                ds = (ds * (1 - capped.square())).to(ds.dtype)
            dq[0, :, block.begin : block.end] = _product(ds, key, scale).view(heads, n, dim)
            at = 0
            dkey = _product(ds.transpose(1, 2), query, scale)
            dvalue = torch.bmm(p.transpose(1, 2), above)
            for a, b in ranges:
                dk[:, a:b] += dkey[:, at : at + b - a]
                dv[:, a:b] += dvalue[:, at : at + b - a]
                at += b - a
        return dq, dk.to(k.dtype)[None], dv.to(v.dtype)[None], None, None, None, None
