"""What reinforcement learning minimizes: the policy-gradient loss of sampled replies, and a penalty for forgetting
texts.

**Policy gradient** (`policy_gradient`): make replies likelier that earned more than others to the same problem. A
problem is answered S times; the replies i = 1..S earn rewards r_i. Each sampled token t of reply i gets the reply's
group-relative advantage (GRPO: Shao et al. 2024, arXiv:2402.03300), so that no second network has to guess values:

    A_i = r_i - mean(r_1..r_S)              optionally divided by the group's standard deviation, as GRPO does;
                                            Dr. GRPO (Liu et al. 2025, arXiv:2503.20783) shows that the division
                                            favors problems that are almost all right or almost all wrong

With p the probability under the weights being trained, q that under which the token was sampled and s that under
the initial model (the reference), the loss to be minimized is

    rho_it = p(o_it) / q(o_it)
    L = 1/N  sum_i sum_t [ -min(rho_it A_i, clip(rho_it, 1 - low, 1 + high) A_i)  +  beta k_it ]
    k_it = s(o_it) / p(o_it) - ln(s(o_it) / p(o_it)) - 1         (Schulman's estimate of KL(p || s), never negative)

N counts the sampled tokens of the whole step, so every token weighs the same, in long replies and short ones (DAPO:
Yu et al. 2025, arXiv:2503.14476); means taken reply by reply would make long wrong answers cheap. DAPO's two other
ideas are here as well: a clip that is wider upwards (high > low) leaves unlikely tokens room to grow, and groups whose
rewards are all equal, which have no gradient, do not count. When a batch is used once, p = q and the clip is idle:
the gradient is then plain REINFORCE with the group's mean as baseline.

The gradient of L by ln p(o_it) is a plain number, known as soon as the probabilities are:

    dL/d ln p = -w_it / N,   w = A rho where the clip lets it through, else 0,   + beta (s/p - 1)

so the step is a cross-entropy in which each token weighs w_it, which `chunked_loss` can do without ever holding all
logits. Ids that a tool forced into a reply are context: they are never targets.

**Forgetting penalty** (`distillation`): the updates move weights that carry everything else, too. To train on replay
texts again (Ouyang et al. 2022, arXiv:2203.02155) teaches what they say at the cost of what they do not say. Here the
model is its own teacher instead (Li & Hoiem 2016, "Learning without forgetting", arXiv:1606.09282): with x the ids of
the texts and M the number of places in a step's texts where a text continues,

    L = weight / M  sum_t [p(x_t+1) < s(x_t+1)] KL(s(. | x_..t) || p(. | x_..t))

over the whole vocabulary, wherever the model finds the next id less likely than the reference does. What it finds
likelier it has not forgotten: learning to copy makes it surer in texts as well, and penalizing that, too, took back a
quarter of the gain (docs/lab-log.md). There is no gradient as long as nothing is forgotten, and one back to the
reference as soon as something is. Texts share rows, as they did in pretraining.

`RLLoss` adds the two. Each is a mean over its own tokens of the step, on all processes: more samples of a problem make
the one less noisy, and more texts the other, and neither heavier. Nothing here samples, rewards or chooses
texts."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from chatsmith.data.packing import NOT_TRAINED_ON, best_fit
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import chunked_divergence, chunked_loss, logprob_gradient, token_losses
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_numbers

MOST_PADDING = 256
"""Tokens of padding that cost about as much as one batch more."""

TARGETS_MULTIPLE = 64
"""The head's products are of so many targets, or twice as many, ...: few shapes, as for batches."""


class ScoredReply(NamedTuple):
    """A reply as the sampler gave it, and its advantage."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]
    """What follows the prompt."""
    sampled: Sequence[bool]
    """For each of `ids`: did the model choose it?"""
    logprobs: Sequence[float]
    """For each of `ids`: its log-probability when it was sampled; any number where it was not."""
    advantage: float
    copies: int = 1
    """How many replies to the problem are this very one."""


class RolloutBatch(NamedTuple):
    """Replies as rows, one each, padded at the end; all tensors are (B, T)."""

    inputs: Tensor
    """int64 ids."""
    targets: Tensor
    """int64: the id sampled after each place; -1 in prompts, before forced ids and in padding."""
    advantages: Tensor
    sampler_logprobs: Tensor
    """ln q, where there is a target."""
    copies: Tensor
    """int64: how many replies a target stands for; 0 where there is none."""
    reference_logprobs: Tensor | None = None
    """ln s, where there is a target; None leaves the KL out."""

    @property
    def num_targets(self) -> int:
        """How many tokens are trained on, in all replies."""
        return int(self.copies.sum())

    def to(self, device: torch.device) -> "RolloutBatch":
        """The same batch on `device`."""
        return RolloutBatch(*(None if one is None else one.to(device) for one in self))  # pyright: ignore


def advantages(rewards: Sequence[float | None], scale: bool = False) -> list[float] | None:
    """A_i of one group; None where all rewards are equal, so that there is nothing to learn.

    A reward of None (the function that gives it failed) has no part in the mean and gets an advantage of 0. With
    `scale` they are divided by the standard deviation.
    """
    known = [reward for reward in rewards if reward is not None]
    if len(known) < 2 or max(known) == min(known):
        return None
    mean = sum(known) / len(known)
    deviation = (sum((reward - mean) ** 2 for reward in known) / len(known)) ** 0.5
    unit = deviation if scale else 1.0
    return [0.0 if reward is None else (reward - mean) / unit for reward in rewards]


def rollout_batches(
    replies: Sequence[ScoredReply],
    rows_per_batch: int,
    count: int,
    *,
    multiple: int = 1,
    most_inputs: int | None = None,
) -> list[RolloutBatch]:
    """The replies as `count` batches of at most `rows_per_batch` rows, the last ones perhaps empty.

    Replies of like length share a batch, and as far as `count` allows, no batch has more padding than MOST_PADDING.
    Rows and their places are filled up to multiples of `multiple`, as far as `rows_per_batch` and `most_inputs`
    allow: few shapes come again and again, where each new one costs time.
    """
    assert len(replies) <= rows_per_batch * count
    batches: list[list[ScoredReply]] = []
    rest = deque(sorted(replies, key=_num_inputs, reverse=True))
    while rest:
        # Every batch after this one may be needed for what this one does not take.
        fewest = len(rest) - rows_per_batch * (count - len(batches) - 1)
        width, padding, rows = _num_inputs(rest[0]), 0, [rest.popleft()]
        while rest and len(rows) < rows_per_batch:
            padding += width - _num_inputs(rest[0])
            is_enough = padding > MOST_PADDING or len(rows) + multiple > rows_per_batch
            if is_enough and len(rows) >= fewest and len(rows) % multiple == 0:
                break
            rows.append(rest.popleft())
        batches.append(rows)
    batches += [[] for _ in range(count - len(batches))]
    return [_batch(rows, rows_per_batch, multiple, most_inputs) for rows in batches]


def merged(replies: Sequence[ScoredReply]) -> list[ScoredReply]:
    """The replies to one problem without duplicates. Equal replies have the same probability and the same advantage, so
    one of them is computed and counts for all: nothing changes but the time it takes."""
    found: dict[tuple[tuple[int, ...], tuple[bool, ...], float], ScoredReply] = {}
    for reply in replies:
        said = tuple(reply.ids), tuple(reply.sampled), reply.advantage
        known = found.get(said)
        found[said] = reply if known is None else known._replace(copies=known.copies + reply.copies)
    return list(found.values())


def filled_up(count: int, multiple: int, most: int | None) -> int:
    """`count`, or the next multiple of `multiple`, if that is not above `most`."""
    filled = math.ceil(count / multiple) * multiple
    return filled if most is None else max(count, min(filled, most))


def padded_places(wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Where `wanted` (B, T) is true, as indices of the flattened tensor, padded to a multiple of TARGETS_MULTIPLE with
    any index, and which of them are real: both (n + filling,)."""
    places = wanted.flatten().nonzero()[:, 0]
    padded = F.pad(places, (0, -len(places) % TARGETS_MULTIPLE))
    return padded, torch.arange(len(padded), device=padded.device) < len(places)


def _num_inputs(reply: ScoredReply) -> int:
    """The last id is only a target."""
    return len(reply.prompt_ids) + len(reply.ids) - 1


def _batch(
    replies: Sequence[ScoredReply], most_rows: int, multiple: int, most_inputs: int | None
) -> RolloutBatch:
    width = filled_up(max(map(_num_inputs, replies), default=0), multiple, most_inputs)
    inputs = torch.zeros((filled_up(len(replies), multiple, most_rows), width), dtype=torch.int64)
    targets = torch.full_like(inputs, NOT_TRAINED_ON)
    weights = torch.zeros(inputs.shape)
    logprobs, copies = torch.zeros(inputs.shape), torch.zeros_like(inputs)
    for row, reply in enumerate(replies):
        ids = torch.tensor([*reply.prompt_ids, *reply.ids])
        place = slice(len(reply.prompt_ids) - 1, len(ids) - 1)
        chosen = torch.tensor(reply.sampled, dtype=torch.bool)
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, place] = torch.where(chosen, ids[len(reply.prompt_ids) :], NOT_TRAINED_ON)
        weights[row, place] = reply.advantage
        logprobs[row, place] = torch.tensor(reply.logprobs)
        copies[row, place] = reply.copies * chosen
    return RolloutBatch(inputs, targets, weights, logprobs, copies)


@torch.no_grad()
def with_reference(batch: RolloutBatch, reference: GPT) -> RolloutBatch:
    """The batch with the log-probabilities of its targets under `reference`."""
    if not batch.num_targets:
        return batch
    device = reference.embedding.weight.device
    wanted = batch.targets != NOT_TRAINED_ON
    hidden = reference(batch.inputs.to(device))[wanted.to(device)]
    logprobs = torch.zeros_like(batch.sampler_logprobs)
    logprobs[wanted] = -token_losses(reference, hidden, batch.targets[wanted].to(device)).to(logprobs)
    return batch._replace(reference_logprobs=logprobs)


def divergence(batch: RolloutBatch) -> tuple[float, int]:
    """The sum of k over the replies' tokens, under the sampler, and how many they are; (0, 0) without a reference."""
    if batch.reference_logprobs is None:
        return 0.0, 0
    wanted = batch.targets != NOT_TRAINED_ON
    difference = (batch.reference_logprobs - batch.sampler_logprobs)[wanted].double()
    return ((torch.expm1(difference) - difference) * batch.copies[wanted]).sum().item(), batch.num_targets


class Terms(NamedTuple):
    """The objective token by token; all are (n,)."""

    loss: Tensor
    """The bracket of L."""
    weights: Tensor
    """w: minus the derivative of the bracket by ln p."""
    clipped: Tensor
    """Where the clip holds the gradient back."""


@dataclass(frozen=True)
class Clip:
    """How far a token's probability may move on one batch of rollouts, as a ratio."""

    low: float = 0.2
    high: float = 0.28


def terms(
    logprobs: Tensor, sampler: Tensor, advantage: Tensor, reference: Tensor | None, clip: Clip, beta: float
) -> Terms:
    """The objective for n tokens: all arguments (n,), `logprobs` being ln p. Without gradients of its own."""
    ratio = torch.exp(logprobs - sampler)
    bound = ratio.clamp(1 - clip.low, 1 + clip.high)
    gain = torch.minimum(ratio * advantage, bound * advantage)
    clipped = bound * advantage < ratio * advantage
    loss, weights = -gain, torch.where(clipped, 0.0, ratio * advantage)
    if reference is not None and beta:
        difference = reference - logprobs
        loss = loss + beta * (torch.expm1(difference) - difference)
        weights = weights + beta * torch.expm1(difference)
    return Terms(loss, weights, clipped)


@dataclass
class Tally:
    """Sums over the tokens trained on, on this process, since the last update was logged."""

    trained: int = 0
    """Sampled tokens."""
    clipped: float = 0.0
    drift: float = 0.0
    """Of |ln p - ln q|: how far sampler and trainer disagree, as long as the weights are those of the sampler."""
    largest_drift: float = 0.0
    held: int = 0
    """Places of texts."""
    held_kl: float = 0.0
    """The sum of the KL over them, in nats: how much was forgotten."""

    def sums(self) -> dict[str, float]:
        """What can be added up over processes."""
        values = vars(self).copy()
        del values["largest_drift"]
        return values

    def add(self, logprobs: Tensor, sampler: Tensor, clipped: Tensor, copies: Tensor) -> None:
        """Count the sampled tokens of one batch; all arguments (n,)."""
        drift = (logprobs - sampler).abs()
        self.trained += int(copies.sum())
        self.clipped += (clipped * copies).sum().item()
        self.drift += (drift * copies).sum().item()
        if len(drift):
            self.largest_drift = max(self.largest_drift, drift.max().item())


def policy_gradient(
    model: GPT, batch: RolloutBatch, scale: float, tally: Tally, clip: Clip, beta: float = 0.0
) -> Tensor:
    """The batch's part of L, with its graph; `scale` is 1/N, `tally` counts what was seen."""
    places, is_real = padded_places(batch.targets != NOT_TRAINED_ON)
    hidden = model(batch.inputs).flatten(0, 1)[places]  # (n + filling, C)

    def known(values: Tensor) -> Tensor:
        return torch.where(is_real, values.flatten()[places], 0)

    targets, sampler, advantage = map(known, (batch.targets, batch.sampler_logprobs, batch.advantages))
    copies = known(batch.copies)
    reference = None if batch.reference_logprobs is None else known(batch.reference_logprobs)

    def gradient_of(raw: Tensor, rows: Tensor, softcap: float, weights: Tensor) -> tuple[Tensor, Tensor]:
        logprobs, gradient = logprob_gradient(raw, targets[rows], softcap)
        s = None if reference is None else reference[rows].to(logprobs)
        q = sampler[rows].to(logprobs)
        found = terms(logprobs, q, advantage[rows].to(logprobs), s, clip, beta)
        real = is_real[rows]
        tally.add(logprobs[real], q[real], found.clipped[real], copies[rows][real])
        return (weights * found.loss).sum(), gradient * (weights * found.weights)[:, None]

    weights = scale * copies.to(torch.promote_types(hidden.dtype, torch.float32))
    return chunked_loss(model, hidden, torch.arange(len(hidden), device=hidden.device), weights, gradient_of)


class TextBatch(NamedTuple):
    """Rows of one text or several, padded at the end."""

    inputs: Tensor
    """(B, T) int64 ids."""
    goes_on: Tensor
    """(B, T) bool: False at the last id of a text, as nothing was ever trained to follow it, and in padding."""

    @property
    def num_targets(self) -> int:
        """How many places are compared with the reference."""
        return int(self.goes_on.sum())

    def to(self, device: torch.device) -> "TextBatch":
        """The same batch on `device`."""
        return TextBatch(self.inputs.to(device), self.goes_on.to(device))


def text_batches(
    texts: Sequence[Sequence[int]],
    row_length: int,
    rows_per_batch: int,
    count: int,
    *,
    multiple: int = 1,
) -> list[TextBatch]:
    """The texts, none longer than `row_length`, as `count` batches of at most `rows_per_batch` rows, the last ones
    perhaps empty.

    As many texts as fit go into a row, best fit; rows are padded to a multiple of `multiple` places, as far as
    `row_length` allows.
    """
    assert len(texts) <= rows_per_batch * count
    rows = best_fit(((len(text), text) for text in texts), row_length)
    return [
        _text_batch(rows[start : start + rows_per_batch], row_length, multiple)
        for start in range(0, rows_per_batch * count, rows_per_batch)
    ]


def _text_batch(rows: Sequence[Sequence[Sequence[int]]], row_length: int, multiple: int) -> TextBatch:
    width = filled_up(max((sum(map(len, row)) for row in rows), default=0), multiple, row_length)
    inputs = torch.zeros((len(rows), width), dtype=torch.int64)
    goes_on = torch.zeros((len(rows), width), dtype=torch.bool)
    for number, row in enumerate(rows):
        start = 0
        for text in row:
            end = start + len(text)
            inputs[number, start:end] = torch.tensor(text)
            goes_on[number, start : end - 1] = True
            start = end
    return TextBatch(inputs, goes_on)


def distillation(
    model: GPT, batch: TextBatch, scale: float, tally: Tally, reference: GPT, weight: float
) -> Tensor:
    """The batch's part of L, with its graph; `scale` is 1/M, `tally` counts what was seen."""
    places, is_real = padded_places(batch.goes_on)
    # The id at the next place; a text that goes on has one.
    targets = torch.where(is_real, batch.inputs.flatten().roll(-1)[places], NOT_TRAINED_ON)
    with torch.no_grad():
        theirs = reference(batch.inputs).flatten(0, 1)[places]  # (n + filling, C)
    mine = model(batch.inputs).flatten(0, 1)[places]
    found = chunked_divergence(model, mine, reference, theirs, targets)
    tally.held += batch.num_targets
    tally.held_kl += found.item()
    return scale * weight * found


@dataclass
class RLLoss:
    """The loss of batches of either kind, of which the trainer knows only how many tokens the step has in all."""

    clip: Clip
    beta: float
    """The weight of the KL term."""
    reference: GPT | None
    """Needed for replay texts; without them it may be None."""
    replay_weight: float
    tally: Tally = field(default_factory=Tally)
    _text_share: float = 0.0

    def expect(self, batches: Sequence[RolloutBatch | TextBatch], runtime: Runtime) -> None:
        """Learn what share of a step's tokens, on all processes, are those of texts: the step that is made of these
        batches and those of the other processes."""
        texts = sum(batch.num_targets for batch in batches if isinstance(batch, TextBatch))
        every = sum(batch.num_targets for batch in batches)
        sums = sum_numbers({"texts": float(texts), "every": float(every)}, runtime)
        self._text_share = sums["texts"] / max(sums["every"], 1.0)

    def __call__(self, model: GPT, batch: RolloutBatch | TextBatch, scale: float) -> Tensor:
        """The batch's part of the loss, with its graph; `scale` is one by the tokens of the step."""
        if isinstance(batch, RolloutBatch):
            scale /= 1 - self._text_share
            return policy_gradient(model, batch, scale, self.tally, self.clip, self.beta)
        assert self.reference, "texts need a reference"
        scale /= self._text_share
        return distillation(model, batch, scale, self.tally, self.reference, self.replay_weight)

    def take_tally(self) -> Tally:
        """What was seen since the last time."""
        taken, self.tally = self.tally, Tally()
        return taken
