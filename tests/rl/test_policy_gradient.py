"""The objective: against sums done by hand, finite differences, and the expected reward it is meant to climb."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from chatsmith.data.packing import NOT_TRAINED_ON
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.rl.objective import (
    Clip,
    RolloutBatch,
    ScoredReply,
    Tally,
    advantages,
    divergence,
    merged,
    policy_gradient,
    rollout_batches,
    terms,
    with_reference,
)

BANDIT = GPTConfig(vocab_size=5, context_length=4, num_layers=1, num_heads=1, head_dim=16)


def bandit(seed: int, spread: float = 0.5) -> GPT:
    """A model in float64 that is small enough to shake every weight."""
    model = GPT(BANDIT)
    model.init_weights(torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.double()


def distribution(model: GPT, prompt: list[int]) -> Tensor:
    """What the model says after the prompt, (V,)."""
    return model.logits(model(torch.tensor([prompt])))[0, -1].softmax(dim=-1)


def log_probability(model: GPT, reply: ScoredReply) -> list[float]:
    ids = [*reply.prompt_ids, *reply.ids]
    logprobs = model.logits(model(torch.tensor([ids[:-1]])))[0].log_softmax(dim=-1)
    start = len(reply.prompt_ids)
    return [logprobs[place - 1, ids[place]].item() for place in range(start, len(ids))]


def replies_of(sampler: GPT) -> list[ScoredReply]:
    """Two groups of replies with the sampler's own log-probabilities; one of them has a forced id in its middle."""
    drawn = [
        ([1], [2, 3], [True, True], 0.75),
        ([1], [4], [True], -0.25),
        ([1, 0], [3, 2], [True, True], -0.5),
        ([2], [0, 3, 1], [True, False, True], 0.5),
    ]
    made = [ScoredReply(*parts[:3], [0.0] * len(parts[1]), parts[3]) for parts in drawn]
    return [one._replace(logprobs=log_probability(sampler, one)) for one in made]


def test_the_advantage_is_the_reward_beyond_the_mean_of_its_group():
    assert advantages([1.0, 0.0, 0.0, 1.0]) == [0.5, -0.5, -0.5, 0.5]
    assert advantages([3.0, 1.0], scale=True) == [1.0, -1.0]
    assert advantages([0.0, 0.0, 0.0, 1.0], scale=True) == pytest.approx(
        [-1 / math.sqrt(3)] * 3 + [math.sqrt(3)]
    )


def test_a_group_that_can_teach_nothing_is_none():
    assert advantages([1.0, 1.0, 1.0]) is None
    assert advantages([0.0, None, 0.0]) is None
    assert advantages([1.0, None]) is None


def test_a_reply_whose_reward_failed_does_not_move_the_mean_of_the_others():
    assert advantages([1.0, None, 0.0]) == [0.5, 0.0, -0.5]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "weight", "clipped"),
    [
        (1.0, 2.0, -2.0, 2.0, False),
        (1.1, 2.0, -2.2, 2.2, False),
        (1.5, 2.0, -2.6, 0.0, True),  # 1.3 is the upper bound: no more to be gained
        (1.5, -2.0, 3.0, -3.0, False),  # a bad token that became likelier is still pushed down
        (0.5, 2.0, -1.0, 1.0, False),  # a good one that became rarer is still pushed up
        (0.5, -2.0, 1.6, 0.0, True),  # 0.8 is the lower bound
    ],
)
def test_the_clip_stops_only_what_went_far_enough_in_the_right_direction(
    ratio, advantage, loss, weight, clipped
):
    sampler = torch.tensor([-1.0], dtype=torch.float64)
    found = terms(
        sampler + math.log(ratio),
        sampler,
        torch.tensor([advantage], dtype=torch.float64),
        None,
        Clip(0.2, 0.3),
        0.0,
    )
    assert (found.loss.item(), found.weights.item()) == pytest.approx((loss, weight))
    assert found.clipped.item() is clipped


def test_the_kl_term_is_schulman_s_and_pulls_towards_the_reference():
    logprob, reference = math.log(0.5), math.log(0.2)
    found = terms(*torch.tensor([[logprob], [logprob], [0.0], [reference]]).double(), Clip(), beta=0.1)
    assert found.loss.item() == pytest.approx(0.1 * (0.4 - math.log(0.4) - 1))
    assert found.weights.item() == pytest.approx(0.1 * (0.4 - 1))  # likelier than the reference: down


def test_the_gradient_of_a_case_done_by_hand():
    """One reply of one token: dL/dlogits = -A (onehot - p), through the softcap, times the hidden state."""
    model = bandit(1)
    reply = ScoredReply([1, 3], [2], [True], [0.0], 0.75)
    reply = reply._replace(logprobs=log_probability(model, reply))
    (batch,) = rollout_batches([reply], 1, 1)
    policy_gradient(model, batch, 0.5, Tally(), Clip()).backward()
    with torch.no_grad():
        hidden = model(torch.tensor([[1, 3]]))[0, -1]  # (C,)
        logits = model.logits(hidden)  # (V,)
        p = logits.softmax(dim=-1)
        by_logits = -0.75 * 0.5 * (torch.eye(5)[2] - p)
        by_raw = by_logits * (1 - (logits / model.config.softcap) ** 2)
    torch.testing.assert_close(model.head.weight.grad, by_raw[:, None] * hidden, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_gradient_equals_finite_differences(beta):
    """Weights away from the sampler's, so that some tokens are clipped; the reference is a third model."""
    sampler, reference, model = bandit(1, 0.3), bandit(2, 0.3), bandit(1, 0.31)
    (batch,) = rollout_batches(replies_of(sampler), 4, 1)
    if beta:
        batch = with_reference(batch, reference)
    tally = Tally()
    objective = partial(policy_gradient, tally=tally, clip=Clip(0.02, 0.03), beta=beta)
    objective(model, batch, 0.125).backward()
    assert 0 < tally.clipped < batch.num_targets
    step = 1e-6
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for place in {0, gradient.abs().argmax().item()}:
            values = []
            for sign in (1, -1):
                flat[place] += sign * step
                with torch.no_grad():
                    values.append(objective(model, batch, 0.125).item())
                flat[place] -= sign * step
            expected = (values[0] - values[1]) / (2 * step)
            assert gradient[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-8), (name, place)


def test_a_step_climbs_the_expected_reward_of_a_bandit():
    """Where all five answers are equally likely, a group with each of them once is the exact expectation."""
    model = bandit(3)
    with torch.no_grad():
        model.head.weight.zero_()
    rewards = torch.tensor([0.0, 1.0, 0.25, 0.0, 0.5], dtype=torch.float64)
    scores = advantages(rewards.tolist())
    assert scores is not None
    replies = [ScoredReply([1], [arm], [True], [math.log(0.2)], scores[arm]) for arm in range(5)]
    (batch,) = rollout_batches(replies, 5, 1)
    policy_gradient(model, batch, 1 / 5, Tally(), Clip()).backward()
    found = model.head.weight.grad
    assert found is not None
    model.head.weight.grad = None
    (distribution(model, [1]) @ rewards).backward()
    assert model.head.weight.grad is not None
    torch.testing.assert_close(found, -model.head.weight.grad, rtol=1e-6, atol=1e-9)


def test_however_replies_are_cut_into_batches_every_token_weighs_the_same():
    sampler = bandit(1)
    replies = replies_of(sampler)
    gradients = []
    for rows, count in ((4, 1), (2, 2), (1, 4), (2, 3)):
        model = bandit(4)
        batches = rollout_batches(replies, rows, count)
        tokens = sum(batch.num_targets for batch in batches)
        assert tokens == 7 and len(batches) == count
        for batch in batches:
            if batch.num_targets:
                policy_gradient(model, batch, 1 / tokens, Tally(), Clip()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-6, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=40),
    st.integers(1, 12),
    st.sampled_from([1, 4, 16]),
    st.integers(0, 3),
)
def test_filled_up_batches_hold_every_reply_once_and_have_few_shapes(lengths, rows, multiple, spare):
    longest = 12
    replies = [
        ScoredReply([number], [1] * (length - 1), [True] * (length - 1), [0.0] * (length - 1), 1.0)
        for number, length in enumerate(lengths)
    ]
    count = math.ceil(len(replies) / rows) + spare
    batches = rollout_batches(replies, rows, count, multiple=multiple, most_inputs=longest - 1)
    assert len(batches) == count
    found = {}
    for batch in batches:
        num_rows, width = batch.inputs.shape
        assert num_rows <= rows and width <= longest - 1
        if batch.num_targets:
            assert num_rows % multiple == 0 or num_rows == rows
            assert width % multiple == 0 or width == longest - 1
        for ids, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            trained = sum(target != NOT_TRAINED_ON for target in targets)
            if trained:
                found[ids[0]] = trained + 1
    assert found == dict(enumerate(lengths))


def test_prompts_forced_ids_and_padding_are_not_trained_on():
    (batch,) = rollout_batches(replies_of(bandit(1)), 4, 1)
    assert batch.inputs.tolist() == [[1, 0, 3], [2, 0, 3], [1, 2, 0], [1, 0, 0]]
    assert batch.targets.tolist() == [[-1, 3, 2], [0, -1, 1], [2, 3, -1], [4, -1, -1]]
    assert (batch.targets == NOT_TRAINED_ON).sum() == 12 - batch.num_targets
    assert batch.advantages[:2].tolist() == [[0.0, -0.5, -0.5], [0.5, 0.5, 0.5]]


def test_drift_is_nothing_where_the_weights_are_the_sampler_s_and_shows_where_they_are_not():
    (batch,) = rollout_batches(replies_of(bandit(1)), 4, 1)
    same, other = Tally(), Tally()
    policy_gradient(bandit(1), batch, 1.0, same, Clip())
    policy_gradient(bandit(2), batch, 1.0, other, Clip())
    assert same.largest_drift < 1e-6 < 0.01 < other.drift


def test_the_divergence_from_a_reference_is_zero_from_itself_and_positive_from_another():
    (batch,) = rollout_batches(replies_of(bandit(1)), 4, 1)
    assert divergence(batch) == (0.0, 0)
    own, count = divergence(with_reference(batch, bandit(1)))
    far, _ = divergence(with_reference(batch, bandit(2)))
    assert count == 7 and abs(own) < 1e-6 < 0.1 < far


def test_what_is_said_again_counts_as_often_and_is_computed_once():
    """With the clip and the KL at work; nothing but the number of rows differs."""
    first, second, third, _ = replies_of(bandit(1, 0.3))
    worse = second._replace(prompt_ids=first.prompt_ids, advantage=-0.25)
    said = [first, worse, first, first, worse._replace(advantage=-0.5)]
    once = merged(said)
    assert once == [first._replace(copies=3), worse, worse._replace(advantage=-0.5)]
    found = []
    for replies in ([*said, third], [*once, third]):
        model, tally = bandit(1, 0.31), Tally()
        (batch,) = rollout_batches(replies, len(replies), 1)
        batch = with_reference(batch, bandit(2, 0.3))
        loss = policy_gradient(model, batch, 1 / batch.num_targets, tally, Clip(0.02, 0.03), 0.3)
        loss.backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        found.append((loss.item(), tally, divergence(batch), gradients))
    (loss, tally, kl, gradients), (loss_once, tally_once, kl_once, gradients_once) = found
    assert loss_once == pytest.approx(loss) and kl_once == pytest.approx(kl)
    assert tally_once.sums() == pytest.approx(tally.sums()) and 0 < tally.clipped < tally.trained
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_once[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def test_no_replies_are_empty_batches():
    batches = rollout_batches([], 2, 2)
    assert [batch.num_targets for batch in batches] == [0, 0]
    assert all(isinstance(with_reference(batch, bandit(1)), RolloutBatch) for batch in batches)
