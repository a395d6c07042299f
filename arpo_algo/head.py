"""Log-probs and entropies from hidden states without full logits: head, softmax and their gradient in one operation.

With z = logits / temperature, ln p_y = z_y − ln Σ e^z and H = ln Σ e^z − Σ p·z. Rows are worked off in chunks; the
backward pass computes a chunk's logits again and uses the closed forms
    ∂ln p_y/∂z_j = 1[j = y] − p_j        ∂H/∂z_j = −p_j·(ln p_j + H)
so that no vocabulary-sized tensor outlives a chunk and none is kept by autograd. Chunks share their buffers, and what
is done element by element is done a few rows at a time, which stay in the CPU's cache: fresh memory and memory passes
cost as much as the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

ROWS = 1024  # of a chunk: 100 MB of bfloat16 logits at a vocabulary of 49k
_CACHED = 6 << 20  # bytes of float32 logits worked on at a time on a CPU: 32 rows at a vocabulary of 49k


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    target: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    rows: int = ROWS,
    entropy_gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-prob of each ``target`` and entropy (nats) of softmax(z / temperature), both [U] float32.

    Args:
        hidden: [U, d]. weight: [V, d]. target: [U] token ids. bias: [V].
        softcap: logits are ``softcap·tanh(logit/softcap)`` before the temperature (gemma2).
        entropy_gradient: whether entropies carry a gradient.

    Products run in the autocast dtype where autocast is on, sums and softmax in float32.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    logp, entropy = _Head.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, target, temperature, softcap, rows
    )
    return logp, entropy if entropy_gradient else entropy.detach()


class _Logits:
    """Logits of a chunk of rows, and float32 slices of them; one pair of buffers for all chunks."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        temperature: float,
        softcap: float | None,
        rows: int,
    ) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.temperature, self.softcap, self.rows = temperature, softcap, max(1, min(rows, len(hidden)))
        self.chunk = hidden.new_empty(self.rows, len(weight))
        cached = max(1, _CACHED // (4 * len(weight)))
        few = min(cached, self.rows) if hidden.device.type == "cpu" else self.rows
        self.z, self.other = (torch.empty(few, len(weight), device=hidden.device) for _ in range(2))

    def chunks(self) -> Iterator[slice]:
        for begin in range(0, len(self.hidden), self.rows):
            yield slice(begin, min(begin + self.rows, len(self.hidden)))

    def slices(self, at: slice) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(rows, logits / temperature in float32, a free buffer of that shape, the same rows of ``chunk``)."""
        torch.mm(self.hidden[at], self.weight.T, out=self.chunk[: at.stop - at.start])
        few = len(self.z)
        for begin in range(at.start, at.stop, few):
            end = min(begin + few, at.stop)
            part = self.chunk[begin - at.start : end - at.start]
            z = self.z[: end - begin].copy_(part)
            if self.bias is not None:
                z += self.bias
            if self.softcap is not None:
                z.div_(self.softcap).tanh_().mul_(self.softcap)
            if self.temperature != 1.0:
                z.div_(self.temperature)
            yield slice(begin, end), z, self.other[: end - begin], part


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        temperature: float,
        softcap: float | None,
        rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logp, entropy, total = (torch.empty(len(hidden), device=hidden.device) for _ in range(3))
        logits = _Logits(hidden, weight, bias, temperature, softcap, rows)
        for chunk in logits.chunks():
            for at, z, e, _ in logits.slices(chunk):
                largest = z.amax(-1, keepdim=True)
                z.sub_(largest)
                torch.exp(z, out=e)
                sums = e.sum(-1)
                log_sums = sums.log()
                logp[at] = z.gather(-1, target[at, None])[:, 0] - log_sums
                entropy[at] = log_sums - e.mul_(z).sum(-1) / sums
                total[at] = log_sums + largest[:, 0]
        ctx.save_for_backward(hidden, weight, bias, target, total, entropy)
        ctx.rest = (temperature, softcap, rows)
        ctx.set_materialize_grads(False)
        return logp, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_logp: torch.Tensor | None, grad_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, target, total, entropy = ctx.saved_tensors
        temperature, softcap, rows = ctx.rest
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        dhidden = hidden.new_empty(hidden.shape) if want_hidden else None
        dweight: torch.Tensor | None = None
        dbias = torch.zeros(len(weight), device=weight.device) if want_bias else None
        if grad_logp is None:
            grad_logp = torch.zeros_like(total)
        logits = _Logits(hidden, weight, bias, temperature, softcap, rows)
        for chunk in logits.chunks():
            for at, z, other, out in logits.slices(chunk):
                slope = None if softcap is None else 1 - (z * (temperature / softcap)).square_()
                z.sub_(total[at, None])  # ln p
                dz = torch.exp(z, out=other)
                if grad_entropy is not None:
                    # −p·(g_H·(ln p + H) + g_logp)
                    z.add_(entropy[at, None]).mul_(grad_entropy[at, None]).add_(grad_logp[at, None])
                    dz.mul_(z).neg_()
                else:
                    dz.mul_(-grad_logp[at, None])
                dz.scatter_add_(-1, target[at, None], grad_logp[at, None])
                if temperature != 1.0:
                    dz.div_(temperature)
                if slope is not None:
                    dz.mul_(slope)
                if dbias is not None:
                    dbias += dz.sum(0)
                out.copy_(dz)
            dlogits = logits.chunk[: chunk.stop - chunk.start]
            if dhidden is not None:
                torch.mm(dlogits, weight, out=dhidden[chunk])
            if want_weight:
                part = dlogits.T @ hidden[chunk]
                # Several chunks are summed in float32.
                dweight = part if dweight is None else dweight.float().add_(part)
        if dweight is not None:
            dweight = dweight.to(weight.dtype)
        elif want_weight:
            dweight = torch.zeros_like(weight)
        return dhidden, dweight, dbias, None, None, None, None
