"""From logits to the next token, for all rows of a step at once.

Each row has its own SamplingParams. The order: logit bias, penalties, bans and constraint; temperature; top-k, top-p,
min-p; then one uniform number picks from the cumulative distribution. That number is a function of seed and position
alone, so neither the rest of the batch nor a pre-emption can change a completion. A row that stands for several
completions has a seed for each, and chooses for each.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from chatsmith.engine.request import SamplingParams, TokenLogprob

MASK_64 = 2**64 - 1


class Row(NamedTuple):
    """What one row of logits is sampled with."""

    sampling: SamplingParams
    seeds: tuple[int, ...]
    """Of the completions that the row stands for, one at least."""
    position: int
    """Index, in its sequence, of the token to choose."""
    prompt_ids: Sequence[int] = ()
    sampled_ids: Sequence[int] = ()
    banned_ids: Sequence[int] = ()
    allowed: Tensor | None = None
    """(V,) bool: the ids that a constraint lets through. None: all."""


class Choice(NamedTuple):
    """The chosen id and, if asked for, its log-probability; id None where nothing can be chosen."""

    id: int | None
    logprob: TokenLogprob | None = None


def choose(logits: Tensor, rows: Sequence[Row]) -> list[Choice]:
    """Choose one token for each seed of each row of `logits` (R, V), float32 or float64."""
    if logits.device.type == "mps":
        logits = logits.cpu()  # no float64 there
    is_sound, logits = _sound(logits)
    adjusted = _adjust(logits, rows)
    if adjusted is not logits:
        can_choose, adjusted = _sound(adjusted)
        is_sound = is_sound & can_choose
    owners = [index for index, row in enumerate(rows) for _ in row.seeds]  # the row of each choice
    drawn = [index for index, row in enumerate(rows) if row.sampling.temperature > 0]
    if len(drawn) == len(rows):
        chosen = draw(probabilities(adjusted, rows), rows)
    else:
        chosen = _spread(adjusted.argmax(dim=-1), owners)
        if drawn:
            subset = [rows[index] for index in drawn]
            picked = draw(probabilities(adjusted[drawn], subset), subset)
            is_drawn = [rows[owner].sampling.temperature > 0 for owner in owners]
            chosen[torch.tensor(is_drawn, device=logits.device)] = picked
    logprobs = _logprobs(logits, chosen, owners, rows)
    sound_ids = torch.where(_spread(is_sound, owners), chosen, -1).tolist()
    return [
        Choice(None if id < 0 else id, logprobs.get(index) if id >= 0 else None)
        for index, id in enumerate(sound_ids)
    ]


def _spread(values: Tensor, owners: Sequence[int]) -> Tensor:
    """The value (R,) of the row of each choice. Most rows have one, and then there is nothing to gather."""
    return values if len(owners) == len(values) else values[owners]


def _sound(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Which rows (R,) something can be chosen from, and the logits with zeros for the other rows."""
    # One NaN makes the maximum NaN; rows of nothing but -inf have no finite maximum either.
    is_sound = logits.amax(dim=-1).isfinite()
    if logits.is_cuda or not is_sound.all():  # a GPU is not waited for
        logits = torch.where(is_sound[:, None], logits, 0.0)
    return is_sound, logits


def probabilities(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """What each row is drawn from (R, V): softmax at its temperature, truncated, not renormalized."""
    temperatures = [row.sampling.temperature for row in rows]
    if any(temperature != 1 for temperature in temperatures):
        # Outside, the best token wins anyway or all are alike, and float32 would make the temperature 0 or infinite.
        divisors = logits.new_tensor(temperatures).clamp(1e-6, torch.finfo(logits.dtype).max)[:, None]
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / divisors
    probs = logits.softmax(dim=-1)
    truncated = [index for index, row in enumerate(rows) if _truncates(row.sampling)]
    if truncated:
        subset = [rows[index].sampling for index in truncated]
        floors = _smallest_allowed(probs[truncated], subset)
        probs[truncated] = torch.where(probs[truncated] >= floors, probs[truncated], 0.0)
    return probs


def draw(probs: Tensor, rows: Sequence[Row]) -> Tensor:
    """One id for each seed of each row of `probs` (R, V), by inverting the cumulative distribution."""
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    most = max(len(row.seeds) for row in rows)
    numbers = [[uniform(seed, row.position) for seed in row.seeds] for row in rows]
    padded = cumulative.new_tensor([some + [0.0] * (most - len(some)) for some in numbers])  # (R, most)
    # The first entry above the target: never one of probability 0.
    found = torch.searchsorted(cumulative, padded * cumulative[:, -1:], right=True)
    if most == 1:
        return found[:, 0]
    counts = torch.tensor([[len(row.seeds)] for row in rows], device=probs.device)
    return found[torch.arange(most, device=probs.device) < counts]


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that depends on nothing but its arguments (SplitMix64, Steele et al. 2014).

    52 bits, not 53, so that its product with any total rounds to less than the total.
    """
    state = _mix(_mix(seed & MASK_64) + (position + 1) * 0x9E3779B97F4A7C15)
    return (state >> 12) * 2.0**-52


def _mix(state: int) -> int:
    state &= MASK_64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK_64
    return state ^ (state >> 31)


def _truncates(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0


def _smallest_allowed(probs: Tensor, samplings: Sequence[SamplingParams]) -> Tensor:
    """The smallest probability (R, 1) each row may still choose.

    Only values are compared, never ranks: tokens of equal probability stay or go together, so the outcome
    does not depend on how a sort breaks ties.
    """
    vocab_size = probs.shape[-1]
    limits = [min(s.top_k or vocab_size, vocab_size) for s in samplings]
    # Top-p alone needs all values in order; top-k only the first k.
    needed = max(
        limit if s.top_p < 1 or limit < vocab_size else 1 for s, limit in zip(samplings, limits, strict=True)
    )
    best = probs.topk(needed, dim=-1).values  # descending
    counts = torch.tensor(limits, device=probs.device)[:, None].clamp(max=needed)
    best = best.where(torch.arange(needed, device=probs.device) < counts, 0.0)
    top_p = probs.new_tensor([s.top_p for s in samplings])[:, None]
    # A token belongs to the nucleus while those before it have not reached top_p of what top-k left.
    before = best.cumsum(dim=-1, dtype=torch.float64) - best
    in_nucleus = before < top_p * best.sum(dim=-1, keepdim=True, dtype=torch.float64)
    last = (in_nucleus & (best > 0)).sum(dim=-1, keepdim=True).clamp(min=1) - 1
    floors = best.gather(-1, last)
    for index, (sampling, limit) in enumerate(zip(samplings, limits, strict=True)):
        if sampling.top_p == 1 and limit == vocab_size:
            floors[index] = 0  # min-p only
    min_p = probs.new_tensor([s.min_p for s in samplings])[:, None]
    return torch.maximum(floors, min_p * best[:, :1])


def _adjust(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Bias, penalties and bans, on a copy; few rows have any, so they are done one by one."""
    unusual = [(index, row) for index, row in enumerate(rows) if _is_adjusted(row)]
    if not unusual:
        return logits
    adjusted = logits.clone()
    # Whatever a request asks for, logits stay finite: overflow would leave nothing to choose from.
    limits = torch.finfo(logits.dtype)

    def bounded(number: float, least: float = limits.min) -> float:
        return min(max(number, least), limits.max)

    for index, row in unusual:
        sampling, one = row.sampling, adjusted[index]
        if sampling.logit_bias:
            for id, bias in sampling.logit_bias.items():
                one[id] += bounded(bias)
            one.clamp_(limits.min, limits.max)
        if sampling.repetition_penalty != 1:
            seen = _ids({*row.prompt_ids, *row.sampled_ids}, one.device)
            values = one[seen]
            penalty = bounded(sampling.repetition_penalty, limits.tiny)
            one[seen] = torch.where(values > 0, values / penalty, values * penalty)
            one.clamp_(limits.min, limits.max)
        if (sampling.frequency_penalty or sampling.presence_penalty) and row.sampled_ids:
            counts = Counter(row.sampled_ids)
            times = one.new_tensor(list(counts.values()))
            penalties = (bounded(sampling.frequency_penalty) * times).clamp_(limits.min, limits.max)
            penalties += bounded(sampling.presence_penalty)
            one[_ids(counts, one.device)] -= penalties.clamp_(limits.min, limits.max)
            one.clamp_(limits.min, limits.max)
        if row.banned_ids:
            one[_ids(row.banned_ids, one.device)] = float("-inf")
        if row.allowed is not None:
            one.masked_fill_(~row.allowed.to(one.device), float("-inf"))
    return adjusted


def _is_adjusted(row: Row) -> bool:
    s = row.sampling
    penalties = s.repetition_penalty != 1 or s.frequency_penalty or s.presence_penalty
    return bool(s.logit_bias or penalties or row.banned_ids or row.allowed is not None)


def _ids(ids: Iterable[int], device: torch.device) -> Tensor:
    return torch.tensor(list(ids), dtype=torch.int64, device=device)


def token_logprobs(
    logits: Tensor, ids: Tensor, owners: Sequence[int], num_top: Sequence[int]
) -> list[TokenLogprob]:
    """Log-probabilities of ids (N,) under those rows of `logits` (R, V) that own them, each with its number of most
    likely ones."""
    totals = logits.logsumexp(dim=-1)
    rows = torch.tensor(owners, device=logits.device)
    own = (logits[rows, ids] - totals[rows]).tolist()
    best = logits.topk(min(max(num_top), logits.shape[-1]), dim=-1)
    best_ids, best_values = best.indices.tolist(), (best.values - totals[:, None]).tolist()
    return [
        TokenLogprob(one, tuple(zip(best_ids[row][:count], best_values[row][:count], strict=True)))
        for one, row, count in zip(own, owners, num_top, strict=True)
    ]


def _logprobs(
    logits: Tensor, chosen: Tensor, owners: Sequence[int], rows: Sequence[Row]
) -> dict[int, TokenLogprob]:
    asking = [index for index, owner in enumerate(owners) if rows[owner].sampling.logprobs is not None]
    if not asking:
        return {}
    theirs = [owners[index] for index in asking]
    num_top = [rows[owner].sampling.logprobs or 0 for owner in theirs]
    return dict(zip(asking, token_logprobs(logits, chosen[asking], theirs, num_top), strict=True))
