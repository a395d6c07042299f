"""The update on trees against the update on separate trajectories: same tokens, model, number format and loss.

    python -m benchmarks.speed.update                       # SmolLM2's shape, one tree a prompt length
    python -m benchmarks.speed.update --layers 8 --trl /path/to/python-with-trl
    python -m benchmarks.speed.update --trees runs/mine/replay/train-000000.jsonl.gz   # what a run has sampled

Methods: ``tree`` (ours: each unique token once), ``flat`` (ours, each trajectory a segment of its own), ``padded``
(stock transformers, micro-batches padded to their longest trajectory, full logits of the completions), ``trl``
(GRPOTrainer's own loss function, with a Python that has trl) and, on CPUs, ``trl-bf16`` (:func:`use_bf16_head`). Each
runs in a process of its own, whose peak memory is its; an untimed pass over the first tree comes first. Before that,
each method's float32 gradient is compared with the tree's.
Times are CPU seconds of the process unless ``--wall`` (on a machine that others use too, only those compare), and
wall time on a GPU (``--device cuda``), where peaks are of its memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arpo_algo.advantages import term_weights
from arpo_algo.algorithms import make
from arpo_algo.algorithms.contract import Algorithm
from arpo_algo.allocator import keep_freed_memory
from arpo_algo.attention import TREE_ATTENTIONS, TreeAttention, resolve_tree_attention, use_arpo_attention
from arpo_algo.packing import Credited, chains, n_terms, pack, split
from arpo_algo.precision import Resolved, autocast
from arpo_algo.runfolder import read_trees
from arpo_algo.scoring import loss_of, score
from arpo_algo.tree import Tree
from benchmarks.speed import machine, plots, shapes
from benchmarks.speed.machine import Meter, product_rate

METHODS = ("tree", "flat", "padded")
TRL = ("trl", "trl-bf16")  # with another Python; the second on CPUs only
MICRO_BATCH = 4  # trajectories a padded micro-batch


@dataclass(frozen=True)
class Job:
    """One method on one random tree with a prompt of ``prompt`` tokens, or on the (``first``) trees of a file.

    A file's trees with ``prompt``: their prompts made that long, by the same tokens in front of each.

    ``pack_tokens``: of a pack of many trees; a tree larger than that is a pack of its own. ``attention``,
    ``checkpointing`` and ``keep_memory`` are the learner's; the last two hold for all methods alike.
    """

    method: str
    prompt: int
    layers: int
    precision: Resolved
    threads: int
    repeats: int
    gradient: str = ""  # where to save it
    seed: int = 0
    model: str = "smollm2-135m"
    file: str = ""
    first: int = 0
    pack_tokens: int = 0
    keep_memory: bool = True
    device: str = "cpu"
    attention: TreeAttention = "auto"
    checkpointing: bool = False

    def trees(self) -> list[Tree]:
        if self.file:
            found = [t for t in read_trees(Path(self.file)) if t.leaves()][: self.first or None]
            return [longer(t, self.prompt, self.seed) for t in found] if self.prompt else found
        return [shapes.tree(shapes.Shape(prompt=self.prompt), np.random.default_rng([self.seed, self.prompt]))]


def longer(tree: Tree, prompt: int, seed: int) -> Tree:
    """The tree under a longer system prompt: ``prompt`` tokens in all."""
    more = prompt - len(tree.nodes[0].tokens)
    if more < 0:
        raise SystemExit(f"--prompts {prompt}: a tree's prompt has {len(tree.nodes[0].tokens)} tokens already")
    front = np.random.default_rng(seed).integers(10, shapes.VOCAB, more).tolist()
    tree.nodes[0].tokens = front + tree.nodes[0].tokens
    for node in tree.nodes[1:]:
        node.start += more
    return tree


def algorithm() -> Algorithm:
    """Token mean, no dual clip: what TRL calls ``dapo`` with its default clip range."""
    return make("arpo", M=16, N=8, dual_clip=None)


def credited(tree: Tree) -> Credited:
    how = algorithm()
    (weights,) = term_weights([tree], how.aggregation, shared_once=False)
    return Credited(tree, how.advantages([tree])[0], weights)


# ------------------------------------------------------------------ the methods: a pass is one tree's gradient


def tree_pass(job: Job, trees: Sequence[Tree], model: Any) -> None:
    _run(job, [credited(t) for t in trees], trees, model, share=True)


def flat_pass(job: Job, trees: Sequence[Tree], model: Any) -> None:
    """The same code on trees of one trajectory each; packs are no larger than the trees', so memory compares."""
    _run(job, [apart for t in trees for apart in separate(credited(t))], trees, model, share=False)


def separate(whole: Credited) -> Iterator[Credited]:
    """Each trajectory as a tree of its own, with its credit."""
    tree = whole.tree
    for leaf, chain in zip(tree.leaves(), chains(tree), strict=True):
        last = chain.leaves()[0].id
        names = dict(zip((n.id for n in tree.path(leaf.id)), (n.id for n in chain.path(last)), strict=True))
        own = [key for key in whole.credit if key[0] == leaf.id]
        yield Credited(
            chain,
            {(last, names[node]): whole.credit[leaf.id, node] for _, node in own},
            {(last, names[node]): whole.weight[leaf.id, node] for _, node in own},
        )


def _run(job: Job, items: Sequence[Credited], trees: Sequence[Tree], model: Any, *, share: bool) -> None:
    use_arpo_attention(model)
    device = torch.device(job.device)
    products = torch.bfloat16 if job.precision == "bfloat16" else model.dtype
    how = resolve_tree_attention(job.attention, model.config, device, products)
    limit = max(job.pack_tokens, *(t.n_tokens for t in trees), *(i.tree.n_tokens for i in items))
    for group in split(items, limit):
        made = pack(group, share=share).to(device)
        with autocast(job.precision, device):
            out = score(model, made, attention=how)
        loss_of(made, out, algorithm()).loss.backward()


@dataclass
class Padded:
    """Trajectories as TRL has them: prompt and completion apart, completions padded on the right. All [B, …]."""

    prompt: torch.Tensor
    completion: torch.Tensor
    mask: torch.Tensor
    sampled: torch.Tensor
    advantage: torch.Tensor

    @classmethod
    def of(cls, tree: Tree) -> Padded:
        leaves = tree.leaves()
        start = tree.nodes[0].end
        rows = [tree.tokens(leaf.id)[start:] for leaf in leaves]
        width = max(map(len, rows))
        completion, mask, sampled = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
        for i, (leaf, row) in enumerate(zip(leaves, rows, strict=True)):
            completion[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            for node in tree.path(leaf.id):
                if node.kind == "action":
                    sampled[i, node.start - start : node.end - start] = 1
        credit = credited(tree).credit
        advantage = torch.tensor([float(credit[leaf.id, leaf.id]) for leaf in leaves])  # type: ignore[arg-type]
        prompt = torch.tensor(tree.nodes[0].tokens).expand(len(rows), -1)
        return cls(prompt, completion, mask, sampled, advantage)

    def to(self, device: torch.device) -> Padded:
        return Padded(**{name: value.to(device) for name, value in vars(self).items()})

    def batches(self) -> Iterator[Padded]:
        for begin in range(0, len(self.prompt), MICRO_BATCH):
            at = slice(begin, begin + MICRO_BATCH)
            width = int(self.mask[at].sum(1).max())
            yield Padded(
                self.prompt[at],
                self.completion[at, :width],
                self.mask[at, :width],
                self.sampled[at, :width],
                self.advantage[at],
            )

    @property
    def size(self) -> int:
        return sum(b.prompt.numel() + b.completion.numel() for b in self.batches())


def padded_pass(job: Job, trees: Sequence[Tree], model: Any) -> None:
    model.set_attn_implementation("sdpa")
    for tree in trees:
        _padded(job, Padded.of(tree), model)


def _padded(job: Job, whole: Padded, model: Any) -> None:
    total = int(whole.sampled.sum())
    for batch in whole.batches():
        batch = batch.to(torch.device(job.device))
        ids = torch.cat([batch.prompt, batch.completion], 1)
        width = batch.completion.shape[1]
        with autocast(job.precision, ids.device):
            logits = model(
                input_ids=ids,
                attention_mask=torch.cat([torch.ones_like(batch.prompt), batch.mask], 1),
                logits_to_keep=width + 1,
                use_cache=False,
            ).logits[:, :-1]
        logits = logits.float()
        logp = logits.gather(-1, batch.completion[..., None])[..., 0] - logits.logsumexp(-1)
        ratio = (logp - logp.detach()).exp()
        a = batch.advantage[:, None]
        objective = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        (-(objective * batch.sampled).sum() / total).backward()


def use_bf16_head() -> None:
    """Let TRL compute its head's gradients by products in bfloat16 on CPUs, too.

    TRL 1.16 casts the factors to float32 wherever it cannot ask for a float32 sum of bfloat16 products, that is
    everywhere but on CUDA; on CPUs that is most of its head's time. Here the product of each chunk of the vocabulary is
    rounded to bfloat16 before it is added, which TRL avoids on purpose: this is its best time, not its best gradient.
    """
    from trl.kernels import chunked_logprob  # type: ignore[import-not-found,unused-ignore]

    def add_product(acc: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
        acc.add_(a @ b)

    if not hasattr(chunked_logprob, "_addmm_fp32"):
        raise SystemExit("trl-bf16 is made for TRL 1.16, and this TRL's chunked_logprob has no _addmm_fp32; adapt it")
    chunked_logprob._addmm_fp32 = add_product


def trl_setup(job: Job, model: Any) -> Callable[[Sequence[Tree]], None]:
    """GRPOTrainer as its users build it; only its loss function is called."""
    if job.method == "trl-bf16":
        use_bf16_head()
    from datasets import Dataset  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[import-not-found,unused-ignore]

    words = Tokenizer(WordLevel({"[UNK]": 0, "[EOS]": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[UNK]", eos_token="[EOS]")
    with tempfile.TemporaryDirectory() as folder:
        args = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=MICRO_BATCH,
            num_generations=MICRO_BATCH,
            bf16=job.precision == "bfloat16",
            use_cpu=job.device == "cpu",
            loss_type="dapo",
            beta=0.0,
            report_to=[],
            gradient_checkpointing=job.checkpointing,
            max_completion_length=4096,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=args,
            train_dataset=Dataset.from_list([{"prompt": "x"}] * MICRO_BATCH),
            processing_class=tokenizer,
        )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1

    def run(trees: Sequence[Tree]) -> None:
        for tree in trees:
            whole = Padded.of(tree)
            total = whole.sampled.sum().to(trainer.accelerator.device)
            for batch in whole.batches():
                batch = batch.to(trainer.accelerator.device)
                inputs = {
                    "prompt_ids": batch.prompt,
                    "prompt_mask": torch.ones_like(batch.prompt),
                    "completion_ids": batch.completion,
                    "completion_mask": batch.mask,
                    "tool_mask": batch.sampled,
                    "advantages": batch.advantage,
                    "num_items_in_batch": total,
                }
                trainer._compute_loss(trainer.model, inputs).backward()

    return run


# ------------------------------------------------------------------ one job, in a process of its own


def work(job: Job) -> dict[str, Any]:
    torch.set_num_threads(job.threads)
    if job.keep_memory:
        keep_freed_memory()
    device = torch.device(job.device)
    cpu, wall = Meter(device), Meter(device, wall=True)
    model, trees = shapes.model(job.layers, name=job.model, device=device), job.trees()
    model.train()
    if job.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if job.method in TRL:
        run = trl_setup(job, model)
    else:
        one = {"tree": tree_pass, "flat": flat_pass, "padded": padded_pass}[job.method]

        def run(trees: Sequence[Tree]) -> None:
            one(job, trees, model)

    if not job.gradient:  # as in the middle of a training: memory that a pass needs was touched before
        run(trees[:1])
    before = wall.peak()
    wall.start()
    seconds = []
    for _ in range(job.repeats):
        model.zero_grad()
        clock = wall(), cpu()
        run(trees)
        seconds.append((wall() - clock[0], cpu() - clock[1]))
    if job.gradient:
        torch.save(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]), job.gradient)
    best = [min(s) for s in zip(*seconds, strict=True)]
    return {"wall": best[0], "cpu": best[1], "peak_MiB": wall.peak(), "before_MiB": before}


def flops(trees: Sequence[Tree], name: str, layers: int, *, flat: bool = False) -> float:
    """Products of one pass: 6 a weight and token (the head's only where a token is predicted), attention included."""
    like = shapes.MODELS[name]
    tokens = sum(t.n_tokens_flat if flat else t.n_tokens for t in trees)
    sampled = (sum(len(n.tokens) for n in t.nodes if n.kind == "action") for t in trees)
    predicted = sum(map(n_terms, trees)) if flat else sum(sampled)
    attention = 2 * like.heads * like.head_dim * pairs(trees, flat=flat)
    return 6.0 * (layers * (like.layer_weights * tokens + attention) + like.hidden * like.vocab * predicted)


def pairs(trees: Sequence[Tree], *, flat: bool = False) -> int:
    """Query–key pairs of causal attention."""
    if flat:
        return sum(n.end * (n.end + 1) // 2 for t in trees for n in t.leaves())
    return sum((n.start + 1 + n.end) * len(n.tokens) // 2 for t in trees for n in t.nodes)


def spawn(job: Job, python: str) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-m", "benchmarks.speed.update", "--job", json.dumps(asdict(job))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def check_gradients(methods: Sequence[str], pythons: dict[str, str], options: argparse.Namespace) -> dict[str, float]:
    """Relative distance of each method's float32 gradient from the tree's; two layers are enough to see a mistake."""
    found: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in methods:
            file = f"{folder}/{method}.pt"
            where = {"device": options.device, "attention": options.attention}
            spawn(Job(method, 256, 2, "float32", options.threads, 1, file, **where), pythons[method])
            found[method] = torch.load(file)
    reference = found["tree"]
    return {m: float((g - reference).norm() / reference.norm()) for m, g in found.items() if m != "tree"}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """What sharing could save, what it can where deep tokens cost more and heads are not shared, what it does."""
    names = [f"{r['model']}\n{r['layers']} layers\n{r['trees']},\nprompt {r['prompt']}" for r in rows]
    figure, (axis,) = plots.panels(1, width=1.6 + 1.5 * len(rows))
    shown = {"raw / unique tokens": "raw/unique", "work, flat / tree": "work", "time, flat / tree": "flat/tree"}
    plots.bars(axis, names, {k: [float(r[v]) for r in rows] for k, v in shown.items()}, y="ratio", form="{:.2f}")
    plots.save(figure, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="*", help="prompt lengths; default: 256 768 1536, or a run's own")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS, help="tree and flat are needed")
    parser.add_argument(
        "--trees", nargs="+", default=[], metavar="FILE", help="trees of runs (log.replay=true) instead"
    )
    parser.add_argument("--first", type=int, default=0, help="only so many of a run's trees")
    parser.add_argument("--pack-tokens", type=int, default=4096, help="unique tokens of a pack of a run's trees")
    parser.add_argument("--model", choices=list(shapes.MODELS), default="smollm2-135m", help="whose dimensions")
    parser.add_argument("--layers", type=int, help="layers of the model; default: all")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--attention", choices=TREE_ATTENTIONS, default="auto", help="of tree and flat")
    parser.add_argument("--checkpointing", action="store_true", help="layers computed again in the backward pass")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--glibc", action="store_true", help="the allocator as it is: freed memory is given back")
    machine.add_options(parser)
    parser.add_argument("--trl", metavar="PYTHON", help="a Python that has trl, to measure it too (trl, trl-bf16)")
    parser.add_argument("--no-check", action="store_true", help="skip the comparison of gradients")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--earlier", type=Path, nargs="+", default=[], help="show the rows of these --json files too")
    parser.add_argument("--plot", **plots.OPTION)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job:
        job = Job(**json.loads(options.job))
        print(json.dumps(work(job)))
        return
    if not {"tree", "flat"} <= set(options.methods):
        parser.error("--methods must hold tree and flat: the ratio is theirs")
    if options.trl and torch.device(options.device).index:
        parser.error(
            f"--trl takes the first GPU it sees, not {options.device}; "
            f"set CUDA_VISIBLE_DEVICES={torch.device(options.device).index} and give --device cuda"
        )
    meter = machine.meter(options)
    methods = [*options.methods, *(TRL[: 2 if meter.device.type == "cpu" else 1] if options.trl else ())]
    pythons = dict.fromkeys(METHODS, sys.executable) | dict.fromkeys(TRL, options.trl)
    if not options.no_check:
        errors = check_gradients(methods, pythons, options)
        print("gradients against the tree's, float32:", ", ".join(f"{m} {e:.1e}" for m, e in errors.items()))
        if max(errors.values()) > 1e-5:
            raise SystemExit("the methods do not compute the same gradient; times would mean nothing")
    ceiling = product_rate(getattr(torch, options.precision), meter)
    layers = options.layers or shapes.MODELS[options.model].layers
    shared = (layers, options.precision, options.threads, options.repeats)
    plain = Job(
        "tree",
        0,
        *shared,
        model=options.model,
        pack_tokens=options.pack_tokens,
        keep_memory=not options.glibc,
        device=options.device,
        attention=options.attention,
        checkpointing=options.checkpointing,
    )
    prompts = options.prompts or ([0] if options.trees else [256, 768, 1536])
    files = options.trees or [""]
    subjects = [replace(plain, file=f, prompt=p, first=options.first) for f in files for p in prompts]
    rows = [row for file in options.earlier for row in json.loads(file.read_text())["rows"]]
    for base in subjects:
        trees = base.trees()
        unique, raw = sum(t.n_tokens for t in trees), sum(t.n_tokens_flat for t in trees)
        got = {m: spawn(replace(base, method=m), pythons[m]) for m in methods}
        seconds = {m: g["wall" if options.wall else "cpu"] for m, g in got.items()}
        speedup = seconds["flat"] / seconds["tree"]
        cost = {flat: flops(trees, options.model, layers, flat=flat) for flat in (False, True)}
        row: dict[str, object] = {
            "model": options.model,
            "layers": layers,
            "trees": f"{len(trees)} of a run" if base.file else "random",
            "prompt": round(sum(len(t.nodes[0].tokens) for t in trees) / len(trees)),
            "unique": unique,
            "raw": raw,
            **{f"{m} s": f"{s:.2f}" for m, s in seconds.items()},
            "raw/unique": f"{raw / unique:.2f}",
            # Sampled tokens are shared less than prompts, and the head runs on them alone; deep tokens attend to more.
            "work": f"{cost[True] / cost[False]:.2f}",
            "flat/tree": f"{speedup:.2f}",
            "of raw/unique": f"{speedup / raw * unique:.0%}",
            "of work": f"{speedup * cost[False] / cost[True]:.0%}",
            **{f"{m}/tree": f"{seconds[m] / seconds['tree']:.2f}" for m in methods if m not in ("tree", "flat")},
            "peak MiB tree, flat": f"{got['tree']['peak_MiB']}, {got['flat']['peak_MiB']}",
            "of peak": f"{cost[False] / seconds['tree'] / ceiling:.0%}",
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    print(shapes.table(rows))
    if options.json is not None:
        asked = {k: str(v) for k, v in vars(options).items()}
        options.json.write_text(json.dumps({**machine.described(), "options": asked, "rows": rows}))
    if options.plot is not None:
        draw(rows, options.plot)


if __name__ == "__main__":
    main()
