"""Attention of a packed tree on GPUs by flex attention: one fused kernel, no T×T mask, forward and backward.

The row lies depth first, so a token's descendants follow it without a gap: key k is an ancestor of query q (or q
itself) exactly where  k <= q < end[k],  ``end`` being where k's subtree ends. One integer a token says all; sliding
windows need the token's depth too. Which 128×128 blocks of the score matrix are empty, full or mixed follows from
the extremes of these integers over each block, so that not even the mask of blocks needs a T×T one.

Rows are padded to a multiple of ``BLOCK`` and the kernel is compiled for dynamic lengths: one compilation (forward
and backward) for windowed and one for other layers, whatever the trees. :mod:`arpo_algo.treeattention` computes the
same in blocks of matrix products; before the first use on a machine the two are compared there (:func:`flaw`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.utils._triton import has_triton

from arpo_algo.treeattention import Segment, blocks, tree_attention

BLOCK = 128  # queries and keys of a block of the mask; flex attention's own default
MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 256  # of its GPU kernels
#: How far the two implementations may be apart, relative, where they compute in this dtype.
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}


class FlexTree:
    """Who attends to whom in a row, as flex attention takes it.

    Args:
        segments: in row order, covering the row, depth first.

    Raises:
        ValueError: segments in another order.
    """

    def __init__(self, segments: Sequence[Segment], device: torch.device) -> None:
        self.device = device
        self.length = segments[-1].end
        # At least two blocks: the compiler has a size of one as a case of its own.
        self.padded = max(2, -(-self.length // BLOCK)) * BLOCK
        ends = _subtree_ends(segments)
        # Padding attends to itself alone: no row of the softmax is empty.
        self._end = torch.arange(1, self.padded + 1, dtype=torch.int32)
        self._depth = torch.zeros(self.padded, dtype=torch.int32)
        for s in segments:
            self._end[s.begin : s.end] = ends[s.begin]
            self._depth[s.begin : s.end] = torch.arange(s.start, s.start + s.end - s.begin)
        self._masks: dict[int | None, BlockMask] = {}

    def mask(self, window: int | None) -> BlockMask:
        """The mask of layers with ``window`` (None: all ancestors); made once."""
        if window not in self._masks:
            self._masks[window] = self._build(window)
        return self._masks[window]

    def _build(self, window: int | None) -> BlockMask:
        some, full = _kinds(self._end, self._depth, window)
        end, depth = self._end.to(self.device), self._depth.to(self.device)
        return BlockMask.from_kv_blocks(
            *self._listed(some & ~full),
            *self._listed(full),
            BLOCK_SIZE=BLOCK,
            mask_mod=_rule(end) if window is None else _windowed_rule(end, depth, depth - window),
        )

    def _listed(self, kind: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How many blocks of keys each block of queries has, and which: those come first."""
        order = kind.byte().argsort(dim=-1, descending=True, stable=True)
        return kind.sum(-1)[None, None].int().to(self.device), order[None, None].int().to(self.device)


def _subtree_ends(segments: Sequence[Segment]) -> dict[int, int]:
    """Where each segment's subtree ends, by the segment's begin."""
    ends = {s.begin: s.end for s in segments}
    below = dict.fromkeys(ends, 0)
    for s in segments:
        for a, _ in s.above:
            ends[a] = max(ends[a], s.end)
            below[a] += s.end - s.begin
    for s in segments:
        if ends[s.begin] - s.end != below[s.begin]:
            raise ValueError(f"segments are not in depth-first order: what is below {s.begin}–{s.end} has gaps")
    return ends


def _kinds(end: torch.Tensor, depth: torch.Tensor, window: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """[blocks of queries, blocks of keys] each: whether any pair may attend, and whether all pairs do.

    Exact without a window; with one, a block may be called mixed that is empty, which costs time only.
    """
    first = torch.arange(0, len(end), BLOCK)[:, None]  # query of each block
    diagonal = torch.eye(len(first), dtype=torch.bool)
    below = first > first.T
    last_end, first_end = _extremes(end)
    some = diagonal | (below & (last_end[None] > first))
    full = below & (first_end[None] >= first + BLOCK)
    if window is not None:
        deepest, shallowest = _extremes(depth)
        some &= diagonal | (deepest[None] > shallowest[:, None] - window)
        full &= shallowest[None] > deepest[:, None] - window
    return some, full


def _extremes(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest and smallest of each block."""
    rows = x.view(-1, BLOCK)
    return rows.amax(1), rows.amin(1)


def _rule(end: torch.Tensor) -> Callable[..., torch.Tensor]:
    return lambda b, h, q, k: (k <= q) & (q < end[k])


def _windowed_rule(end: torch.Tensor, depth: torch.Tensor, before: torch.Tensor) -> Callable[..., torch.Tensor]:
    """``before``: the depth just outside each query's window; a tensor, so that all windows share one kernel."""
    return lambda b, h, q, k: (k <= q) & (q < end[k]) & (depth[k] > before[q])


@functools.lru_cache(maxsize=16)
def _score(factor: float, softcap: float | None, device: torch.device) -> Callable[..., torch.Tensor] | None:
    """What becomes of a score q·k/sqrt(D): times ``factor``, then capped. Numbers come as tensors: a float that the
    compiler has seen with two values turns symbolic, and its kernel takes no symbolic ones."""
    by = torch.tensor(factor, device=device)
    if softcap is None:
        return None if factor == 1.0 else lambda score, b, h, q, k: score * by
    cap, inner = torch.tensor(softcap, device=device), torch.tensor(factor / softcap, device=device)
    return lambda score, b, h, q, k: cap * torch.tanh(score * inner)


@functools.cache
def _kernel() -> Callable[..., torch.Tensor]:
    """Compiled once a process. ``fullgraph``: an error, where else the T×T scores would be computed in silence.

    There are more variants than torch's usual limit allows for sure: windows, gradients of q, k, v, models in use.
    """
    options: Any = {"dynamic": True, "fullgraph": True, "recompile_limit": 64}
    made: Callable[..., torch.Tensor] = torch.compile(flex_attention, **options)
    return made


def flex_tree_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tree: FlexTree,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Softmax attention over ancestors; arguments and result as of :func:`~arpo_algo.treeattention.tree_attention`."""
    more = tree.padded - tree.length
    if more:
        # Token by token in memory, as models make them; the result's memory follows the query's.
        q, k, v = (torch.nn.functional.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, more)).transpose(1, 2) for x in (q, k, v))
    out = _kernel()(
        q,
        k,
        v,
        score_mod=_score(round(scale * q.shape[3] ** 0.5, 12), softcap, q.device),
        block_mask=tree.mask(window),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out[:, :, : tree.length].transpose(1, 2)


@dataclass(frozen=True)
class Shape:
    """What the kernel is compiled for."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    windowed: bool = False
    softcap: float | None = None


@functools.cache
def flaw(shape: Shape) -> str | None:
    """Why flex attention is not to be used for ``shape`` on this machine; None: it is.

    What cannot work is said at once; the rest is tried: values and gradients of a small forest must be those of
    :func:`~arpo_algo.treeattention.tree_attention`. Compiles the kernels that training then uses.
    """
    if shape.device.type != "cuda":
        return f"flex attention has a backward pass on CUDA GPUs only, the model is on {shape.device}"
    if shape.dtype not in _TOLERANCE:
        return f"flex attention takes {', '.join(map(_short, _TOLERANCE))}, not {_short(shape.dtype)}"
    if not MIN_HEAD_DIM <= shape.head_dim <= MAX_HEAD_DIM:
        return f"its kernels hold head sizes of {MIN_HEAD_DIM} to {MAX_HEAD_DIM}, the model's is {shape.head_dim}"
    if not has_triton():
        return "Triton, which compiles its kernels, is not installed or does not know this GPU"
    try:
        apart = disagreement(shape)
    except Exception as error:  # whatever a compiler raises
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return f"its kernels do not compile or run here: {said}"
    if not apart <= _TOLERANCE[shape.dtype]:
        return f"its results differ from those of matrix products by {apart:.1g} (relative)"
    return None


#: A prefix that two trees share; forks; segments longer and shorter than a block; a row that ends inside a block.
#: Six blocks, which no usual model has heads: the compiler takes sizes that are equal at first for one.
_FOREST = (
    Segment(0, 140, 0),
    Segment(140, 300, 140, ((0, 140),)),
    Segment(300, 310, 300, ((0, 140), (140, 300))),
    Segment(310, 600, 300, ((0, 140), (140, 300))),
    Segment(600, 650, 140, ((0, 140),)),
    Segment(650, 651, 190, ((0, 140), (600, 650))),
    Segment(651, 699, 190, ((0, 140), (600, 650))),
)


def disagreement(shape: Shape) -> float:
    """Largest relative difference of values and gradients between flex attention and matrix products."""
    length, worst = _FOREST[-1].end, 0.0
    generator = torch.Generator().manual_seed(0)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(sizes, generator=generator).to(shape.device, shape.dtype)

    tree = FlexTree(_FOREST, shape.device)
    for window in (None, 150) if shape.windowed else (None,):
        q = random(1, shape.heads, length, shape.head_dim).requires_grad_()
        k, v = (random(1, shape.kv_heads, length, shape.head_dim).requires_grad_() for _ in range(2))
        above = random(1, length, shape.heads, shape.head_dim)
        scale = shape.head_dim**-0.5
        results = []
        for out in (
            flex_tree_attention(q, k, v, tree, scale, window, shape.softcap),
            tree_attention(q, k, v, blocks(_FOREST), scale, window, shape.softcap),
        ):
            results.append([x.detach().float() for x in (out, *torch.autograd.grad(out, (q, k, v), above))])
        for a, b in zip(*results, strict=True):
            worst = max(worst, float((a - b).norm() / b.norm()))
    return worst


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
