"""How much faster CORE is scored through the engine than one example at a time.

    python bench/evaluate.py [--max-examples 50] [--json]

Both ways score the same items with the same model of random weights: ours, length-sorted and packed, with common
prefixes computed once and logits made only where they are scored; and the naive way, one example after another, its
choices in a padded batch, all logits, nothing shared (what nanochat does). The decisions must be the same wherever the
margin between the two best choices exceeds what rounding can move.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

from chatsmith.bundle import Bundle
from chatsmith.cli.config import Compute, Natural, Output, Positive, VocabSize
from chatsmith.cli.settings import from_flags
from chatsmith.evals.core import questions_of
from chatsmith.evals.scoring import Decision, EngineScorer, PassageScore, Question, decide, decide_all
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, detect_runtime
from chatsmith.tasks.benchmark_files import default_folder
from chatsmith.tasks.core import TASKS, CoreTask, Item, Kind, core_items, prompts
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer
from chatsmith.train.plan import model_shape

MARGIN = 1e-4
"""Nats a token between the two best choices, below which rounding may decide."""


class Config(Compute, Output):
    """Measure the speed of scoring CORE."""

    depth: Positive = 4
    """Layers of the model."""
    width: Natural = 0
    """Channels of the model; 0 means 64 times the depth."""
    head_dim: Positive = 64
    """Channels of an attention head."""
    vocab_size: VocabSize = 32_768
    """Vocabulary size; it is learned from the benchmarks' text."""
    context_length: Positive = 2048
    """The most tokens of a prompt."""
    max_examples: Positive = 50
    """Items of each task."""
    eval_data: Path | None = None
    """The folder of the benchmarks; by default the cache that `chatsmith evaluate --download` fills."""
    dtype: Literal["auto", "fp32", "bf16"] = "fp32"
    """What to compute in, both ways. In bf16 rounding moves losses by up to 0.02, and close decisions with them."""


def main(config: Config) -> None:
    """Measure, and print a table or one JSON object."""

    reporter = Reporter(json=config.json)
    runtime = detect_runtime(config.device, config.dtype)
    folder = config.eval_data or default_folder()
    items = {task: core_items(task, folder) for task in TASKS}
    reporter.stage("Speed of CORE", f"depth {config.depth}, {runtime.describe()}")
    bundle = random_bundle(config, items, runtime, reporter)
    scorer = EngineScorer(bundle)
    _measure_task(
        TASKS[0], items[TASKS[0]], 1, scorer, bundle, runtime, Reporter(silent=True)
    )  # warms both ways up
    rows = [
        _measure_task(task, items[task], config.max_examples, scorer, bundle, runtime, reporter)
        for task in TASKS
    ]
    figures = summarize(rows)
    _show(figures, reporter)
    reporter.result(figures)


def random_bundle(
    config: Config, items: dict[CoreTask, list[Item]], runtime: Runtime, reporter: Reporter
) -> Bundle:
    """A model of random weights (none of them zero), with a vocabulary learned from the items."""

    reporter.line("Learning a vocabulary from the items …")
    tokenizer = _tokenizer(items, config.vocab_size)
    shape = model_shape(
        config.depth,
        config.vocab_size,
        sequence_length=config.context_length,
        width=config.width or None,
        head_dim=config.head_dim,
    )
    model = GPT(shape)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.to(runtime.device, runtime.compute_dtype).eval()
    return Bundle(model, tokenizer, shape, {}, {}, Path())


def plain_decision(
    bundle: Bundle, kind: Kind, question: Question, gold: int | None
) -> tuple[Decision, float]:
    """One item the naive way: its passages padded into a batch, all logits, the losses and guesses of all places.

    Also returns by how much the decision is clear of another one: nats between the two best choices, or, in language
    modeling, between the two best ids where they are closest.
    """

    device = bundle.model.embedding.weight.device
    longest = max(len(passage.ids) for passage in question)
    padded = [
        [*passage.ids, *[bundle.tokenizer.bos_id] * (longest - len(passage.ids))] for passage in question
    ]
    inputs = torch.tensor(padded, device=device)
    with torch.inference_mode():
        logits = bundle.model.logits(bundle.model(inputs))  # (B, T, V)
        targets = inputs.roll(-1, dims=1)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(inputs)
        guesses = logits.argmax(dim=-1)
        scores = []
        for row, passage in enumerate(question):
            places = slice(passage.start - 1, len(passage.ids) - 1)
            is_likeliest = bool((guesses[row, places] == targets[row, places]).all())
            scores.append(PassageScore(tuple((-losses[row, places]).tolist()), is_likeliest))
        decision = decide(kind, scores, gold)
        if kind == "language modeling":
            best = logits[0, question[0].start - 1 : len(question[0].ids) - 1].topk(2, dim=-1).values
            return decision, float((best[:, 0] - best[:, 1]).amin())
    return decision, margin(decision)


def margin(decision: Decision) -> float:
    """How far the best choice is ahead of the next, in nats a token; infinite without a choice."""
    ordered = sorted(loss for loss in decision.losses if not math.isnan(loss))
    return ordered[1] - ordered[0] if len(ordered) > 1 else math.inf


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All tasks together."""
    ours, plain = (sum(row[name] for row in rows) for name in ("seconds", "plain_seconds"))
    return {
        "seconds": ours,
        "plain_seconds": plain,
        "speedup": plain / ours,
        "items": sum(row["items"] for row in rows),
        "different_decisions": sum(row["different"] for row in rows),
        "tasks": {row["task"]: row for row in rows},
    }


def _measure_task(
    task: CoreTask,
    items: list[Item],
    max_examples: int,
    scorer: Any,
    bundle: Bundle,
    runtime: Runtime,
    reporter: Reporter,
) -> dict[str, Any]:

    indices = range(len(items))[:max_examples]

    def timed(work: Any) -> tuple[Any, float]:
        runtime.synchronize()
        started = time.perf_counter()
        result = work()
        runtime.synchronize()
        return result, time.perf_counter() - started

    def plain() -> list[Any]:
        decisions = []
        for index, question in zip(indices, questions_of(scorer, task, items, indices), strict=True):
            decisions.append(plain_decision(bundle, task.kind, question, items[index].get("gold")))
            bar.advance(1)
        return decisions

    def ours() -> list[Decision]:
        golds = [items[index].get("gold") for index in indices]
        return decide_all(scorer, task.kind, questions_of(scorer, task, items, indices), golds, bar)

    with reporter.progress(task.name, 2 * len(indices), "items") as bar:
        found, seconds = timed(ours)
        expected, plain_seconds = timed(plain)
    different = [
        index
        for index, mine, (other, margin) in zip(indices, found, expected, strict=True)
        if mine.is_right != other.is_right and margin > MARGIN
    ]
    apart = [
        abs(a - b)
        for mine, (other, _) in zip(found, expected, strict=True)
        for a, b in zip(mine.losses, other.losses, strict=True)
        if not math.isnan(a)
    ]
    return {
        "task": task.name,
        "items": len(indices),
        "seconds": seconds,
        "plain_seconds": plain_seconds,
        "speedup": plain_seconds / seconds,
        "different": len(different),
        "largest_loss_difference": max(apart, default=0.0),
    }


def _tokenizer(items: dict[CoreTask, list[Item]], vocab_size: int) -> Tokenizer:

    # Every fifth item or so of each file is plenty of text, and quick to learn from.
    texts = [
        prompts(task, listed, index)[-1]
        for task, listed in items.items()
        for index in range(0, len(listed), max(1, len(listed) // 200))
    ]
    return train_tokenizer(texts, vocab_size=vocab_size)


def _show(figures: dict[str, Any], reporter: Reporter) -> None:
    rows = [
        [
            row["task"],
            f"{row['items']}",
            f"{row['seconds']:.2f}",
            f"{row['plain_seconds']:.2f}",
            f"{row['speedup']:.1f}",
            f"{row['different']}",
            f"{row['largest_loss_difference']:.1e}",
        ]
        for row in [*figures["tasks"].values()]
    ]
    columns = [
        "task",
        "items",
        "s",
        "s, plain way",
        "times as fast",
        "decided differently",
        "largest difference",
    ]
    reporter.table("Scoring CORE", columns, rows)
    reporter.line(
        f"In all {figures['seconds']:.1f} s against {figures['plain_seconds']:.1f} s: "
        f"{figures['speedup']:.1f} times as fast; "
        f"{figures['different_decisions']} of {figures['items']:,} items decided differently"
    )


if __name__ == "__main__":
    main(Config(**from_flags(Config, sys.argv[1:], "python bench/evaluate.py")))
