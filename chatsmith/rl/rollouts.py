"""Rollouts: replies to many problems at once, by the engine over the very model in training, and what they are worth;
and the replay texts of a step.

All problems times all samples go into one continuous batch. What a reply is depends on the weights, its problem and
its seed alone, so a step that was interrupted can be written again. Training, development scores and the final test
all come through here. It updates no weights.
"""

import math
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from chatsmith.data.problems import Problem, Reply, RewardFunction, Verdict
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, SamplingParams
from chatsmith.rl.objective import ScoredReply, advantages, merged
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_numbers
from chatsmith.runtime.errors import UserError
from chatsmith.text.chat import Conversation, render, render_prompt
from chatsmith.text.tokenizer import Tokenizer

PASS_AT_K_PROBLEMS = 64
"""Development problems that are answered several times, for pass@k."""

MOST_FAILURES_SHOWN = 3

MOST_TEXTS = 20_000
"""Conversations and documents, each, that are held in memory for replay: more than most runs come to see."""


@dataclass(frozen=True)
class Group:
    """The replies to one problem."""

    problem: Problem
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def num_right(self) -> int:
        """How many of the replies solve the problem."""
        return sum(verdict.is_right for verdict in self.verdicts)

    def scored(self, scale: bool) -> list[ScoredReply]:
        """What there is to learn from: each different reply with its advantage; nothing where all rewards are equal."""
        found = advantages([verdict.reward for verdict in self.verdicts], scale)
        if found is None:
            return []
        return merged(
            [
                ScoredReply(one.prompt_ids, one.ids, one.sampled, _logprobs(one), advantage)
                for one, verdict, advantage in zip(self.completions, self.verdicts, found, strict=True)
                if verdict.reward is not None and any(one.sampled)
            ]
        )


class RolloutWorker:
    """Writes replies with one engine, and says what they are worth."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        reward: RewardFunction,
        reporter: Reporter,
        *,
        max_tokens: int,
    ) -> None:
        """`reporter` shows the first few replies whose reward function failed."""
        self._engine, self._tokenizer, self._reward = engine, tokenizer, reward
        self._reporter, self._max_tokens = reporter, max_tokens
        self._is_graded = False
        self._failures = 0

    def write(self, problems: Sequence[Problem], samples: int, seeds: Sequence[int]) -> list[Group]:
        """`samples` replies to each problem at temperature 1, the policy itself, with log-probabilities.

        A prompt that does not fit the context gives replies without reward, and counts as not solved.
        """
        requests = [
            request
            for problem, seed in zip(problems, seeds, strict=True)
            for request in self._request(problem, 1.0, seed, logprobs=0).replicas(samples)
        ]
        completions = self._complete(requests)
        return [
            self._group(problem, completions[index * samples : (index + 1) * samples])
            for index, problem in enumerate(problems)
        ]

    def answer(self, problems: Sequence[Problem]) -> list[Group]:
        """One greedy reply to each problem."""
        completions = self._complete([self._request(problem, 0.0, seed=0) for problem in problems])
        return [self._group(problem, [one]) for problem, one in zip(problems, completions, strict=True)]

    def scores(self, problems: Sequence[Problem], runtime: Runtime) -> list[float]:
        """What one greedy reply to each problem is worth: 1 for right and 0 for wrong, or a graded reward; NaN where
        the reward failed. The processes share them."""
        mine = range(runtime.rank, len(problems), runtime.world_size)
        groups = self.answer([problems[index] for index in mine])
        scores = dict.fromkeys(map(str, range(len(problems))), 0.0)
        scores |= {str(index): _score(group.verdicts[0]) for index, group in zip(mine, groups, strict=True)}
        return list(sum_numbers(scores, runtime).values())

    def development_scores(
        self, problems: Sequence[Problem], samples: int, seed: int, runtime: Runtime
    ) -> dict[str, float]:
        """Greedy pass@1 on all problems and pass@k on the first of them, over all processes; of a graded reward, before
        these, the mean on all problems; and how many rewards failed, if any. Raises UserError where all did."""
        started = time.perf_counter()
        scores = self.scores(problems, runtime)
        known = [score for score in scores if not math.isnan(score)]
        if scores and not known:
            raise UserError("the reward failed for every development problem; see above", setting="reward")
        self._is_graded |= is_graded(scores)  # though all may be 0 or 1 in a later evaluation
        mean = {"dev_reward": sum(known) / max(1, len(known))} if self._is_graded else {}
        some = range(runtime.rank, min(len(problems), PASS_AT_K_PROBLEMS), runtime.world_size)
        # No round of training has the number -1, so the seeds are different.
        groups = self.write([problems[index] for index in some], samples, seeds_of(seed, -1, some))
        counts = {"solved": sum(group.num_right > 0 for group in groups), "asked": len(groups)}
        sums = sum_numbers(counts, runtime)
        return {
            **mean,
            "dev_pass_at_1": sum(score >= 1 for score in scores) / max(len(scores), 1),
            f"dev_pass_at_{samples}": sums["solved"] / max(sums["asked"], 1),
            "evaluation_seconds": time.perf_counter() - started,
        } | ({"dev_failed_rewards": len(scores) - len(known)} if len(known) < len(scores) else {})

    def _request(
        self, problem: Problem, temperature: float, seed: int, logprobs: int | None = None
    ) -> Request:
        prompt = tuple(render_prompt(problem.messages, self._tokenizer))
        sampling = SamplingParams(temperature, seed=seed, logprobs=logprobs, max_tokens=self._max_tokens)
        return Request(prompt, sampling)

    def _complete(self, requests: list[Request]) -> list[Completion]:
        self._engine.weights_changed()
        return self._engine.generate(requests)

    def _group(self, problem: Problem, completions: Sequence[Completion]) -> Group:
        verdicts = tuple(self._verdict(problem, one) for one in completions)
        for one, verdict in zip(completions, verdicts, strict=True):
            if verdict.failure:
                self._show_failure(problem, one, verdict.failure)
        return Group(problem, tuple(completions), verdicts)

    def _verdict(self, problem: Problem, one: Completion) -> Verdict:
        if one.finish_reason == "error":
            is_too_long = len(one.prompt_ids) >= self._engine.config.context_length
            return Verdict(None, False, "" if is_too_long else one.error or "the engine failed")
        return self._reward(problem, Reply(one.text, one.parts, one.finish_reason == "stop"))

    def _show_failure(self, problem: Problem, completion: Completion, reason: str) -> None:
        self._failures += 1
        if self._failures <= MOST_FAILURES_SHOWN:
            self._reporter.notice(
                f"no reward for a reply, which is therefore not trained on: {reason}. The problem was {problem.id}, "
                f"{shortened(problem.messages[-1].text)!r}; the reply {shortened(shown_reply(completion))!r}"
            )
        if self._failures == MOST_FAILURES_SHOWN:
            self._reporter.notice("further ones are only counted: failed_rewards in metrics.jsonl")


def is_graded(scores: Sequence[float]) -> bool:
    """Whether some of these are known and neither 0 nor 1."""
    return any(score not in (0.0, 1.0) and not math.isnan(score) for score in scores)


def _score(verdict: Verdict) -> float:
    if verdict.reward is None:
        return math.nan
    return float(verdict.is_right) if verdict.score is None else verdict.score


def fits(problem: Problem, tokenizer: Tokenizer, context_length: int, max_tokens: int) -> bool:
    """Whether there is room for a reply after the prompt: for the longest, or for a quarter of the context."""
    room = min(max_tokens, context_length // 4)
    return len(render_prompt(problem.messages, tokenizer)) + room <= context_length


def seeds_of(seed: int, round: int, indices: Sequence[int]) -> list[int]:
    """The sampling seeds of a round's problems: they depend on seed, round and index alone."""
    return [random.Random(f"{seed} {round} {index}").getrandbits(62) for index in indices]


def sums_of(groups: Sequence[Group]) -> dict[str, float]:
    """Counts and sums over groups, to be added up over all processes and then read by `metrics_of`."""
    completions = [one for group in groups for one in group.completions]
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    rewards = [verdict.reward for verdict in verdicts if verdict.reward is not None]
    logprobs = [one.logprob for completion in completions for one in completion.logprobs or () if one]
    return {
        "groups": len(groups),
        "equal": sum(not group.scored(False) for group in groups),
        "solved": sum(group.num_right > 0 for group in groups),
        "replies": len(completions),
        "rewarded": len(rewards),
        "reward": sum(rewards),
        "squares": sum(reward**2 for reward in rewards),
        "nonzero": sum(reward != 0 for reward in rewards),
        "right": sum(verdict.is_right for verdict in verdicts),
        "cut": sum(one.finish_reason == "length" for one in completions),
        "tokens": sum(len(one.ids) for one in completions),
        "sampled": len(logprobs),
        "surprise": -sum(logprobs),
    }


def metrics_of(sums: dict[str, float], samples: int) -> dict[str, float]:
    """What one round of rollouts was like, from sums over all processes."""
    replies, rewarded = max(sums["replies"], 1), max(sums["rewarded"], 1)
    mean = sums["reward"] / rewarded
    return {
        "replies": sums["replies"],
        "reward": mean,
        "reward_spread": max(0.0, sums["squares"] / rewarded - mean**2) ** 0.5,
        "pass_at_1": sums["right"] / replies,
        f"pass_at_{samples}": sums["solved"] / max(sums["groups"], 1),
        "reply_tokens": sums["tokens"] / replies,
        "truncated": sums["cut"] / replies,
        "equal_groups": sums["equal"] / max(sums["groups"], 1),
        "failed_rewards": sums["replies"] - sums["rewarded"],
        "nonzero_rewards": sums["nonzero"] / rewarded,
        # A sampled token's surprise is the entropy on average; so the sampler's own numbers are an estimate of it.
        "entropy": sums["surprise"] / max(sums["sampled"], 1),
    }


def shown_reply(completion: Completion) -> str:
    """A reply for people: its text, with calls of the tool as [6*7 = 42]."""
    shown = {"text": "{}", "python": "[{} = ", "output": "{}] "}
    words = "".join(shown[part.kind].format(part.text) for part in completion.parts)
    return words if completion.finish_reason == "stop" else f"{words} ({completion.finish_reason})"


def shortened(text: str, longest: int = 70) -> str:
    """One line of `text`, cut where it is longer."""
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _logprobs(completion: Completion) -> list[float]:
    assert completion.logprobs is not None
    return [0.0 if one is None else one.logprob for one in completion.logprobs]


class ReplayTexts:
    """Texts of earlier training, on which the model must not get worse: conversations and documents by turns, in an
    endless order decided by a seed.

    Conversations of fine-tuning say how to answer, documents of pretraining what: what only those teach (in the
    kindergarten, how a word is spelled) would be forgotten first.
    """

    def __init__(
        self,
        conversations: Iterable[Conversation],
        documents: Iterable[str],
        tokenizer: Tokenizer,
        *,
        context_length: int,
        seed: int,
    ) -> None:
        """Conversations are sampled, since files often hold one kind after the other; of documents, of which there may
        be billions, the first are taken. What is longer than the context is cut."""
        self._tokenizer, self._longest = tokenizer, context_length
        rng = random.Random(f"{seed} replay")
        self._conversations = _some_of(conversations, MOST_TEXTS, rng)
        self._documents = list(islice(documents, MOST_TEXTS))
        rng.shuffle(self._conversations)
        rng.shuffle(self._documents)

    def texts(self, indices: Sequence[int]) -> list[list[int]]:
        """The ids of the texts at these places of the order."""
        return [self._text(index)[: self._longest] for index in indices]

    def _text(self, index: int) -> list[int]:
        number, is_document = divmod(index, 2) if self._documents and self._conversations else (index, None)
        if is_document or not self._conversations:
            text = self._documents[number % len(self._documents)]
            return [self._tokenizer.bos_id, *self._tokenizer.encode(text)]
        return render(self._conversations[number % len(self._conversations)], self._tokenizer).ids


Item = TypeVar("Item")


def _some_of(items: Iterable[Item], most: int, rng: random.Random) -> list[Item]:
    """All items, or `most` of them, each as likely as any other (reservoir sampling)."""
    kept: list[Item] = []
    for number, item in enumerate(items):
        if number < most:
            kept.append(item)
        elif (index := rng.randrange(number + 1)) < most:
            kept[index] = item
    return kept
