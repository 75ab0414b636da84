"""Supervised fine-tuning: the trainer and the optimizer of pretraining, on whole conversations, with a loss on what the
assistant says and nothing else. The score is the loss on validation conversations.
"""

from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import NamedTuple

import torch

from chatsmith.bundle import Bundle
from chatsmith.data.packing import Batch, ConversationRows, NothingToLearnError
from chatsmith.model.config import model_cost
from chatsmith.model.loss import token_losses
from chatsmith.runtime.console import counted
from chatsmith.text.chat import Conversation, render
from chatsmith.train.plan import Plan
from chatsmith.train.step import expected_seconds, prepare, uncompiled
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import Job, TrainingRun, TrainingSettings, TrainResult, fit, measure_tokens


class FineTuned(NamedTuple):
    """How a fine-tuning ended; the model is the one it was given."""

    plan: Plan
    """With the steps that were done."""
    result: TrainResult
    rows: ConversationRows


def fine_tune(
    run: TrainingRun,
    start: Bundle,
    conversations: Iterable[Conversation],
    validation_conversations: Iterable[Conversation],
    settings: TrainingSettings,
    *,
    tokens: int = 0,
    epochs: float = 1.0,
    budget: TimeBudget | None = None,
) -> FineTuned:
    """Fine-tune the model of `start` on about `tokens` tokens (padding and prompts included), if 0 on so many `epochs`,
    or with a `budget` on as many tokens as its minutes hold. Nothing is scored where no validation conversation fits.

    Raises NothingToLearnError if no conversation is left to learn from, else as `Trainer` does.
    """
    runtime, reporter = run.runtime, run.reporter
    model, tokenizer, shape = start.model, start.tokenizer, start.config

    def rows_of(conversations: Iterable[Conversation]) -> ConversationRows:
        return ConversationRows(
            (render(conversation, tokenizer) for conversation in conversations),
            shape.context_length,
            settings.seed,
            turn_end_id=tokenizer.special("<|assistant_end|>"),
            padding_id=tokenizer.bos_id,
        )

    rows = rows_of(conversations)
    validation: ConversationRows | None = None
    try:
        validation = rows_of(validation_conversations)
    except NothingToLearnError as error:
        if error.skipped:
            reporter.notice(
                f"none of the {error.skipped:,} validation conversations fits into {shape.context_length} tokens, so "
                "nothing is validated"
            )
    reporter.line(
        f"{counted(rows.num_conversations, 'conversation')} in {counted(rows.rows_per_epoch, 'row')} of "
        f"{shape.context_length} tokens, "
        f"{1 - rows.utilisation:.0%} of it padding"
    )
    if rows.cut:
        reporter.notice(f"{rows.cut:,} conversations are longer than a row: only their first turns are used")
    if rows.skipped:
        reporter.notice(f"{rows.skipped:,} conversations are skipped: not one reply of them fits into a row")

    epoch_tokens = rows.rows_per_epoch * shape.context_length
    tokens = tokens or max(1, int(epochs * epoch_tokens))
    flops = tokens * model_cost(shape).training_flops_per_token
    model.train()
    seconds = 60 * budget.minutes if budget else expected_seconds(flops, runtime)
    compute_loss = prepare(model, runtime, settings.compile, reporter.notice, seconds)

    def evaluate(rows: ConversationRows, plan: Plan) -> dict[str, float]:
        """Mean loss, in nats a token, of the assistant's words in a sample of the rows."""
        count = max(1, settings.evaluate_tokens // (plan.rows_per_microbatch * plan.sequence_length))
        total, targets = 0.0, 0
        for batch in islice(rows.validation_batches(plan.rows_per_microbatch), count):
            on_device = batch.to(runtime.device)
            with torch.no_grad(), uncompiled():
                hidden = model(on_device.inputs).flatten(0, 1)
                losses = token_losses(model, hidden, on_device.targets.flatten())
            total += losses.cpu().double().sum().item()  # Apple's GPUs know no float64
            targets += batch.num_targets
        return {"validation": total / max(targets, 1)}

    def job(plan: Plan) -> Job[Batch]:
        return Job(
            lambda row: rows.batches(plan.rows_per_microbatch, row, runtime.rank, runtime.world_size),
            compute_loss,
            evaluate=partial(evaluate, validation, plan) if validation else None,
            evaluate_every=settings.evaluate_every(plan),
        )

    if budget:
        tokens = budget.get("tokens") or 0
        if not tokens:
            first = settings.plan(shape, epoch_tokens, runtime.world_size)
            tokens = measure_tokens(budget, model, first, job(first), settings.evaluations)
    plan = settings.plan(shape, tokens, runtime.world_size)
    result = fit(run, model, plan, job(plan), budget)
    return FineTuned(plan.with_steps(result.steps), result, rows)
