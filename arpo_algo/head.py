"""Log-probs and entropies from hidden states without full logits: head, softmax and their gradient in one operation.

With z = logits / temperature, ln p_y = z_y − ln Σ e^z and H = ln Σ e^z − Σ p·z. Rows are worked off in chunks; the
backward pass computes a chunk's logits again and uses the closed forms
    ∂ln p_y/∂z_j = 1[j = y] − p_j        ∂H/∂z_j = −p_j·(ln p_j + H)
so that no vocabulary-sized tensor outlives a chunk and none is kept by autograd.
"""

from __future__ import annotations

from typing import Any

import torch

ROWS = 512  # of a chunk: 100 MB of float32 logits at a vocabulary of 49k


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


def _logits(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float, softcap: float | None
) -> torch.Tensor:
    z = (hidden @ weight.T).float()
    if bias is not None:
        z += bias
    if softcap is not None:
        z.div_(softcap).tanh_().mul_(softcap)
    return z if temperature == 1.0 else z.div_(temperature)


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
        for begin in range(0, len(hidden), rows):
            at = slice(begin, begin + rows)
            z = _logits(hidden[at], weight, bias, temperature, softcap)
            total[at] = z.logsumexp(-1)
            logp[at] = z.gather(-1, target[at, None])[:, 0] - total[at]
            p = (z - total[at, None]).exp_()
            entropy[at] = total[at] - p.mul_(z).sum(-1)
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
        dhidden = torch.empty_like(hidden) if want_hidden else None
        dweight = torch.zeros(weight.shape, device=weight.device) if want_weight else None
        dbias = torch.zeros(len(weight), device=weight.device) if want_bias else None
        for begin in range(0, len(hidden), rows):
            at = slice(begin, begin + rows)
            z = _logits(hidden[at], weight, bias, temperature, softcap)
            slope = None if softcap is None else 1 - (z * (temperature / softcap)).square_()
            logp_all = z.sub_(total[at, None])
            p = logp_all.exp()
            if grad_entropy is not None:
                dz = logp_all.add_(entropy[at, None]).mul_(p).mul_(-grad_entropy[at, None])
                if grad_logp is not None:
                    dz -= p.mul_(grad_logp[at, None])
            elif grad_logp is not None:
                dz = p.mul_(-grad_logp[at, None])
            else:
                dz = p.zero_()
            if grad_logp is not None:
                dz.scatter_add_(-1, target[at, None], grad_logp[at, None])
            if temperature != 1.0:
                dz.div_(temperature)
            if slope is not None:
                dz.mul_(slope)
            if dbias is not None:
                dbias += dz.sum(0)
            dlogits = dz.to(weight.dtype)
            if dhidden is not None:
                dhidden[at] = dlogits @ weight
            if dweight is not None:
                dweight += dlogits.T @ hidden[at]
        if dweight is not None:
            dweight = dweight.to(weight.dtype)
        return dhidden, dweight, dbias, None, None, None, None
