"""Bits per byte of a model over text, with how much text that was and how sure the figure is.

The measure itself is `model.loss.bits_per_byte`; this adds progress, the device, the counts and an interval. The text
is the validation text of the model's run, with a sample of its training text beside it, or any files that are named.
"""

import math
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chatsmith.data.conversations import holds_conversations
from chatsmith.data.dataset import SplitName
from chatsmith.data.packing import NOT_TRAINED_ON, Batch, TrainingRows, ValidationRows
from chatsmith.data.tokens import TokenCache
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import LENGTHS, SuiteResult
from chatsmith.evals.statistics import ratio_interval
from chatsmith.ingest.files import find_files
from chatsmith.ingest.hub import open_tokens
from chatsmith.ingest.survey import survey
from chatsmith.ingest.tokenizing import open_token_cache
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.distributed import gathered
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Message, render_prompt

TRAINING_TOKENS = 65_536
"""Tokens of training text that are scored: far apart from the validation text's, the figures tell overfitting."""

FREE = 8
"""Texts from nothing."""

TextPart = tuple[float, int, int]
"""Bits, bytes and tokens of one batch: what the model spent on it, and how much text it was."""


def score_text(
    model: GPT,
    batches: Iterable[Batch],
    token_byte_lengths: np.ndarray,
    *,
    reporter: Reporter,
    total_tokens: int | None = None,
) -> list[TextPart]:
    """What the model spends on every target of `batches` that stands for bytes; `token_byte_lengths` (V,) says how many
    it does. `total_tokens` (None: unknown) is for the progress bar alone.
    """
    device = next(model.parameters()).device
    byte_lengths = torch.from_numpy(np.array(token_byte_lengths))  # (V,)
    lengths_on_device = byte_lengths.to(device)
    parts: list[TextPart] = []
    with reporter.progress("bits per byte", total_tokens, "tokens") as bar:
        for batch in batches:
            predicted = batch.targets[batch.targets != NOT_TRAINED_ON]
            lengths = byte_lengths[predicted]
            num_bytes = int(lengths.sum())
            if num_bytes:
                pair = (batch.inputs.to(device), batch.targets.to(device))
                bits = bits_per_byte(model, [pair], lengths_on_device) * num_bytes
                parts.append((bits, num_bytes, int((lengths > 0).sum())))
            bar.advance(predicted.numel())
    return parts


def text_score(parts: Sequence[TextPart], vocab_size: int, seconds: float = 0.0) -> dict[str, Any]:
    """What `evaluate --json` prints as "base": bits for all of the text by its bytes (NaN for no text), how much text
    that was, and what guessing gives: less than 8, for the tokenizer knows something, too. The interval says how much
    other text of this kind, and as much of it, could change the figure; batches of rows in random order are what is
    drawn anew."""
    bits, size, tokens = (sum(part[column] for part in parts) for column in range(3))
    low, high = ratio_interval([(bits, float(bytes)) for bits, bytes, _ in parts])
    return {
        "bits_per_byte": bits / size if size else math.nan,
        "low": None if math.isnan(low) else low,  # JSON knows no NaN
        "high": None if math.isnan(high) else high,
        "bytes": size,
        "tokens": tokens,
        "chance": math.log2(vocab_size) * tokens / size if size else None,
        "seconds": round(seconds, 2),
    }


def measure_text(evaluation: Evaluation) -> SuiteResult:
    """Bits per byte on the validation text, or the rows of it that `max_examples` allows, and on as much of the
    training text, TRAINING_TOKENS at most; and what the model says to fixed prompts. Raises UserError if there is no
    text."""
    runtime, length = evaluation.runtime, evaluation.bundle.config.context_length
    rows_at_once, most = max(1, evaluation.batch_tokens // length), evaluation.max_examples
    with _text(evaluation, "validation") as cache:
        rows = ValidationRows(cache, length)
        if rows.num_targets == 0:
            raise UserError(f"{evaluation.model} has no validation text; give its run some, or name a file")
        num_rows = min(rows.num_rows, most or rows.num_rows)
        share = {"rank": runtime.rank, "world_size": runtime.world_size}
        batches = rows.batches(rows_at_once, **share, max_rows=most)
        parts, score = _score(evaluation, batches, rows.num_targets * num_rows // rows.num_rows)
    transcript = [{"bits": bits, "bytes": size, "tokens": tokens} for bits, size, tokens in parts]
    train = None
    if not evaluation.text:
        num_rows = min(num_rows, max(1, TRAINING_TOKENS // length))
        with _text(evaluation, "train") as cache:
            rows_at_once = min(rows_at_once, math.ceil(num_rows / runtime.world_size))
            batches = TrainingRows(cache, length, seed=0).batches(rows_at_once, **share)
            taken = islice(batches, math.ceil(num_rows / rows_at_once / runtime.world_size))
            _, train = _score(evaluation, taken, num_rows * length)
        transcript += samples(evaluation)
    return SuiteResult("base", score, score["seconds"], transcript=tuple(transcript), train=train)


def _score(
    evaluation: Evaluation, batches: Iterable[Batch], total_tokens: int
) -> tuple[list[TextPart], dict[str, Any]]:
    """The batches of all processes, and their score."""
    tokenizer, started = evaluation.bundle.tokenizer, time.perf_counter()
    mine = score_text(
        evaluation.bundle.model,
        batches,
        tokenizer.token_byte_lengths,
        reporter=evaluation.reporter,
        total_tokens=total_tokens // evaluation.runtime.world_size,
    )
    seconds = time.perf_counter() - started
    parts = gathered(mine, evaluation.runtime)
    return parts, text_score(parts, len(tokenizer.token_byte_lengths), seconds)


@contextmanager
def _text(evaluation: Evaluation, split: SplitName) -> Iterator[TokenCache]:
    """The text as a token cache: that of the run, which the main process builds if need be, or a temporary one of the
    files that are named. Raises UserError if there is no text in them."""
    tokenizer, paths = evaluation.bundle.tokenizer, evaluation.text
    if not paths:
        manifest, folder = evaluation.manifest, evaluation.tokens
        assert manifest and folder, "bits per byte are asked for where there is text"
        with open_tokens(folder, manifest, tokenizer, split, build=evaluation.runtime.is_main) as cache:
            yield cache
        return
    for file in find_files(paths):
        if holds_conversations(file):
            raise UserError(f"{file} holds conversations; bits per byte are measured on text")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nothing = folder / "nothing.txt"
        nothing.write_text("-")  # a manifest names something to train on, too
        manifest = survey([nothing], validation=paths)
        with open_token_cache(folder / "tokens", manifest, tokenizer, "validation") as cache:
            yield cache


def samples(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Fixed prompts, so that models and stages can be read side by side: a base model continues texts greedily, and
    writes freely from nothing, each time with a seed of its own; a model that was taught to converse answers questions,
    greedily. The replies are judged by nobody. Transcript entries: `id`, `section` (continued, free, answered),
    `prompt`, `reply`."""
    tokenizer = evaluation.bundle.tokenizer
    greedy = SamplingParams(temperature=0.0, max_tokens=LENGTHS["continued"])
    prompts = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
    asked: list[tuple[str, str, Request]] = []
    if evaluation.bundle.provenance.get("stage", "pretrain") == "pretrain":
        for text in prompts["texts"]:
            asked.append(("continued", text, Request((tokenizer.bos_id, *tokenizer.encode(text)), greedy)))
        for seed in range(1, FREE + 1):
            free = SamplingParams(temperature=1.0, max_tokens=LENGTHS["free"], seed=seed)
            asked.append(("free", f"(nothing, seed {seed})", Request((tokenizer.bos_id,), free)))
    else:
        answer = SamplingParams(temperature=0.0, max_tokens=LENGTHS["answered"])
        for text in prompts["questions"]:
            ids = tuple(render_prompt((Message.of("user", text),), tokenizer))
            asked.append(("answered", text, Request(ids, answer)))
    mine = evaluation.share(asked)
    completions = evaluation.engine.generate([request for _, _, request in mine])
    replies = evaluation.collect([None if one.error else one.text for one in completions], len(asked))
    return [
        {"id": f"{section} {prompt}", "section": section, "prompt": prompt, "reply": reply}
        for (section, prompt, _), reply in zip(asked, replies, strict=True)
        if reply is not None  # a context of a few tokens holds no question
    ]
