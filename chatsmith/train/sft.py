"""Mid-training and supervised fine-tuning: the trainer and the optimizer of pretraining, on a mixture of conversations
and documents; of conversations the loss may count all, or what the assistant says and nothing else. The scores are the
loss on validation conversations and, where documents are in the mixture, bits per byte.
"""

from itertools import islice

import torch

from chatsmith.bundle import Bundle
from chatsmith.data.mixture import Mixture
from chatsmith.data.packing import ConversationRows, ValidationRows
from chatsmith.data.tokens import TokenCache
from chatsmith.model.loss import token_losses
from chatsmith.runtime.errors import UserError
from chatsmith.train.plan import Plan
from chatsmith.train.pretrain import bits_per_byte_on
from chatsmith.train.step import uncompiled
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import TrainingRun, TrainingSettings, TrainResult, train


def fine_tune(
    run: TrainingRun,
    start: Bundle,
    mixture: Mixture,
    settings: TrainingSettings,
    *,
    validation: ConversationRows | None = None,
    validation_text: TokenCache | None = None,
    tokens: int = 0,
    epochs: float = 1.0,
    budget: TimeBudget | None = None,
) -> tuple[Plan, TrainResult]:
    """Fine-tune the model of `start` on about `tokens` tokens (padding and prompts included), if 0 on so many passes
    (`epochs`) over the mixture, or with a `budget` on as many tokens as its minutes hold.
    Returns the plan with the steps that were done, and how they ended.

    Raises UserError for a mixture of weights alone where nothing says how long, else as `Trainer` does.
    """
    runtime, model, shape = run.runtime, start.model, start.config
    if not (tokens or budget or mixture.has_end):
        raise UserError("a mixture of weights alone has no end; give tokens or minutes", setting="tokens")
    pass_tokens = mixture.rows_per_pass * shape.context_length
    tokens = tokens or max(1, int(epochs * pass_tokens))
    run.place(model.train(), run.runtime)
    run.adjust(model)
    text_rows = ValidationRows(validation_text, shape.context_length) if validation_text else None

    def evaluate(plan: Plan) -> dict[str, float]:
        scores = {"validation": talk_loss(validation, plan)} if validation else {}
        if text_rows:
            scores["bpb"] = bits_per_byte_on(text_rows, model, start.tokenizer, settings, plan, runtime)
        return scores

    def talk_loss(rows: ConversationRows, plan: Plan) -> float:
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
        return total / max(targets, 1)

    return train(
        run,
        model,
        mixture,
        settings,
        evaluate if validation or text_rows else None,
        tokens=tokens,
        guess=pass_tokens,
        budget=budget,
    )
