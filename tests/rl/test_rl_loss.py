"""The policy gradient on replies and the penalty on texts: neither weighs more because there is more of it."""

import pytest
import torch

from chatsmith.rl.objective import Clip, RLLoss, ScoredReply, rollout_batches, text_batches
from chatsmith.runtime.device import detect_runtime


def reply(*ids: int, advantage: float, copies: int = 1) -> ScoredReply:
    return ScoredReply([1, 2], ids, [True] * len(ids), [-1.0] * len(ids), advantage, copies)


REPLIES = [reply(3, 4, 5, advantage=0.75), reply(6, advantage=-0.25)]
TEXTS = [[1, 2, 3, 8], [4, 5, 6, 7]]


def loss_of(new_model, replies: list[ScoredReply], texts: list[list[int]]) -> float:
    """Of one step, as the training loop would add it up."""
    model, reference = new_model(torch.float64, 1), new_model(torch.float64, 2)
    loss = RLLoss(Clip(), 0.0, reference, replay_weight=3.0)
    batches = [
        *rollout_batches(replies, max(1, len(replies)), 2),
        *text_batches(texts, 4, max(1, len(texts)), 1),
    ]
    loss.expect(batches, detect_runtime("cpu", "fp32"))
    tokens = sum(batch.num_targets for batch in batches)
    return sum(loss(model, batch, 1 / tokens).item() for batch in batches if batch.num_targets)


def test_the_loss_is_the_mean_over_replies_and_the_mean_over_texts(new_model):
    gained, held = loss_of(new_model, REPLIES, []), loss_of(new_model, [], TEXTS)
    assert gained != 0 and held > 0
    assert loss_of(new_model, REPLIES, TEXTS) == pytest.approx(gained + held)


def test_more_samples_or_more_texts_do_not_shift_the_balance(new_model):
    expected = loss_of(new_model, REPLIES, TEXTS)
    often = [one._replace(copies=4) for one in REPLIES]
    assert loss_of(new_model, often, TEXTS) == pytest.approx(expected)
    assert loss_of(new_model, REPLIES, TEXTS * 2) == pytest.approx(expected)


def test_the_tallies_of_both_are_given(new_model):
    model, reference = new_model(torch.float64, 1), new_model(torch.float64, 2)
    loss = RLLoss(Clip(), 0.0, reference, replay_weight=3.0)
    batches = [*rollout_batches(REPLIES, 2, 1), *text_batches(TEXTS, 4, 2, 1)]
    loss.expect(batches, detect_runtime("cpu", "fp32"))
    for batch in batches:
        loss(model, batch, 0.1)
    tally = loss.take_tally()
    assert tally.trained == 4 and tally.held == 6
    assert loss.take_tally().held == 0
