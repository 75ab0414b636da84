"""Pretraining: a model from random weights to one that continues text; or further, on other text.

The rows of the tokenized documents come in a seeded order; the score is bits per byte on a fixed sample of the
validation text.
"""

from functools import cache

import torch

from chatsmith.data.mixture import Mixture
from chatsmith.data.packing import TrainingRows, ValidationRows
from chatsmith.data.tokens import TokenCache
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import bits_per_byte
from chatsmith.runtime.device import Runtime
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.plan import Plan
from chatsmith.train.step import uncompiled
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import TrainingRun, TrainingSettings, TrainResult, train


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
) -> tuple[GPT, Plan, TrainResult]:
    """Train a model on about `tokens` tokens of `rows`, or with a `budget` on as many as its minutes hold: a new one if
    `start` is its shape, else `start` itself. Returns it, with the plan and the result that `train` gives.

    Raises as `Trainer` does, and where there is no text.
    """
    if isinstance(start, GPT):
        model = start.train()
    else:
        model = GPT(start)
        model.init_weights(torch.Generator().manual_seed(settings.seed))
    run.place(model, run.runtime)
    run.adjust(model)

    @cache  # not before an evaluation: it waits for all of the validation text
    def validation_rows() -> ValidationRows:
        return ValidationRows(validation_text, model.config.context_length)

    def evaluate(plan: Plan) -> dict[str, float]:
        return {"bpb": bits_per_byte_on(validation_rows(), model, tokenizer, settings, plan, run.runtime)}

    plan, result = train(
        run,
        model,
        rows,
        settings,
        evaluate,
        tokens=tokens,
        budget=budget,
        from_scratch=model is not start,
    )
    return model, plan, result


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
