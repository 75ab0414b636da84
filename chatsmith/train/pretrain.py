"""Pretraining: a model from random weights to one that continues text; or further, on other text.

The rows of the tokenized documents come in a seeded order; the score is bits per byte on a fixed sample of the
validation text.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import torch

from chatsmith.data.mixture import Mixture
from chatsmith.data.packing import Batch, TrainingRows, ValidationRows
from chatsmith.data.tokens import TokenCache
from chatsmith.model.config import GPTConfig, model_cost
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.runtime.console import counted
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import main_number
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.plan import Plan
from chatsmith.train.step import expected_seconds, prepare, uncompiled
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import Job, TrainingRun, TrainingSettings, TrainResult, fit, tokens_within


class Trained(NamedTuple):
    """A trained model, and how it became one."""

    model: GPT
    plan: Plan
    """With the steps that were done."""
    result: TrainResult


def pretrain(
    run: TrainingRun,
    start: GPTConfig | GPT,
    tokenizer: Tokenizer,
    rows: TrainingRows | Mixture,
    validation_text: TokenCache,
    settings: TrainingSettings,
    *,
    tokens: int,
    budget: TimeBudget | None = None,
    sample: Callable[[GPT], Mapping[str, Any]] | None = None,
) -> Trained:
    """Train a model on about `tokens` tokens of `rows`, or with a `budget` on as many as its minutes hold: a new one if
    `start` is its shape, else `start` itself.

    `sample` gives what the model says at every evaluation, as `Job` has it. Raises as `Trainer` does, and where there
    is no text.
    """
    runtime, reporter = run.runtime, run.reporter
    if isinstance(start, GPT):
        model = start.train()
    else:
        model = GPT(start)
        model.init_weights(torch.Generator().manual_seed(settings.seed))
    run.place(model, runtime)
    shape = model.config
    flops_per_token = model_cost(shape).training_flops_per_token
    measured = partial(expected_seconds, tokens * flops_per_token, runtime)
    seconds = 60 * budget.minutes if budget else run.once("expected_seconds", measured)
    compute_loss = prepare(model, runtime, settings.compile, reporter.notice, seconds, run.gradient_of)

    @cache  # not before an evaluation: it waits for all of the validation text
    def validation_rows() -> ValidationRows:
        return ValidationRows(validation_text, shape.context_length)

    def evaluate(plan: Plan) -> dict[str, float]:
        return {"bpb": bits_per_byte_on(validation_rows(), model, tokenizer, settings, plan, runtime)}

    def job(plan: Plan) -> Job[Batch]:
        return Job(
            lambda row: rows.batches(plan.rows_per_microbatch, row, runtime.rank, runtime.world_size),
            compute_loss,
            evaluate=partial(evaluate, plan),
            evaluate_every=settings.evaluate_every(plan),
            sample=partial(sample, model) if sample else None,
        )

    def planned(tokens: int, notice: Callable[[str], object]) -> Plan:
        is_new = model is not start
        return settings.plan(model, tokens, run, compute_loss, notice, from_scratch=is_new)

    if budget:
        # A guess from half the matrix peak is enough to choose the batch size that is then measured.
        guess = main_number(max(1.0, seconds / expected_seconds(flops_per_token, runtime)), runtime)
        tokens = tokens_within(run, budget, model, int(guess), planned, job, settings.evaluations)
    plan = planned(tokens, reporter.notice)
    reporter.line(
        f"{plan.cost.parameters:,} parameters, {plan.tokens:,} tokens in {counted(plan.steps, 'step')} "
        f"of {plan.tokens_per_step:,}"
    )
    result = fit(run, model, plan, job(plan), budget)
    return Trained(model, plan.with_steps(result.steps), result)


def bits_per_byte_on(
    rows: ValidationRows,
    model: GPT,
    tokenizer: Tokenizer,
    settings: TrainingSettings,
    plan: Plan,
    runtime: Runtime,
) -> float:
    """Bits per byte on `settings.evaluate_tokens` of the validation text, the same at every call."""
    num_rows = max(1, settings.evaluate_tokens // plan.sequence_length)
    sampled = rows.batches(plan.rows_per_microbatch, max_rows=num_rows)
    byte_lengths = torch.from_numpy(tokenizer.token_byte_lengths.copy()).to(runtime.device)
    with uncompiled():
        return bits_per_byte(model, (batch.to(runtime.device) for batch in sampled), byte_lengths)
