"""Rollouts: replies to many problems at once, by the engine over the very model in training, and what they are worth.

All problems times all samples go into one continuous batch. What a reply is depends on the weights, its problem and
its seed alone, so a step that was interrupted can be written again. Training, development scores and the final test
all come through here. It updates no weights.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatsmith.backends import choose_backend
from chatsmith.data.problems import Problem, Reply, Verdict
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, Sampling
from chatsmith.model.gpt import GPT
from chatsmith.rl.objective import ScoredReply, advantages, merged
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_numbers
from chatsmith.tasks.reward import Judge
from chatsmith.text.chat import render_prompt
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.tools.calculator import calculator_tool

PASS_AT_K_PROBLEMS = 64
"""Development problems that are answered several times, for pass@k."""


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


class Roller:
    """Writes replies with one engine, and judges them."""

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        judge: Judge,
        *,
        max_tokens: int,
        max_running: int,
        on_failure: Callable[[Problem, Completion, str], None],
    ) -> None:
        """`on_failure` hears of every reply whose reward could not be had."""
        self._tokenizer = tokenizer
        self._judge = judge
        self._max_tokens = max_tokens
        self._on_failure = on_failure
        self._engine = Engine(
            model,
            tokenizer,
            backend=choose_backend(model),
            tool=calculator_tool,
            max_running=max_running,
            tokens_per_step=max(2048, max_running),
        )

    def describe(self) -> str:
        """One line on the engine's memory."""
        return self._engine.describe()

    @property
    def num_computed(self) -> int:
        """Tokens that went through the model so far: of replies that agree, each is computed once."""
        return self._engine.num_computed

    def write(self, problems: Sequence[Problem], samples: int, seeds: Sequence[int]) -> list[Group]:
        """`samples` replies to each problem at temperature 1, with log-probabilities: what the policy really says.

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

    def _request(
        self, problem: Problem, temperature: float, seed: int, logprobs: int | None = None
    ) -> Request:
        prompt = tuple(render_prompt(problem.messages, self._tokenizer))
        sampling = Sampling(temperature, seed=seed, logprobs=logprobs, max_tokens=self._max_tokens)
        return Request(prompt, sampling)

    def _complete(self, requests: list[Request]) -> list[Completion]:
        self._engine.weights_changed()
        return self._engine.generate(requests)

    def _group(self, problem: Problem, completions: Sequence[Completion]) -> Group:
        verdicts = []
        for one in completions:
            verdict = self._verdict(problem, one)
            if verdict.failure:
                self._on_failure(problem, one, verdict.failure)
            verdicts.append(verdict)
        return Group(problem, tuple(completions), tuple(verdicts))

    def _verdict(self, problem: Problem, one: Completion) -> Verdict:
        if one.finish_reason == "error":
            is_too_long = len(one.prompt_ids) >= self._engine.config.context_length
            return Verdict(None, False, "" if is_too_long else one.error or "the engine failed")
        return self._judge(problem, Reply(one.text, one.parts, one.finish_reason == "stop"))


def seeds_of(seed: int, round: int, places: Sequence[int]) -> list[int]:
    """The sampling seeds of a round's problems: they depend on seed, round and place alone."""
    return [random.Random(f"{seed} {round} {place}").getrandbits(62) for place in places]


def sums_of(groups: Sequence[Group], seconds: float) -> dict[str, float]:
    """Counts and sums over groups, to be added up over all processes and then read by `figures_of`."""
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
        "seconds": seconds,
    }


def figures_of(sums: dict[str, float], samples: int, world_size: int) -> dict[str, float]:
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
        # Sampled tokens surprise by their entropy on average; so the sampler's own numbers are an estimate of it.
        "entropy": sums["surprise"] / max(sums["sampled"], 1),
        "kl": sums["kl"] / max(sums["kl_tokens"], 1),
        # Processes roll out side by side, so the time of one is the time of all.
        "rollout_tokens_per_second": sums["tokens"] / max(sums["seconds"] / world_size, 1e-9),
    }


def development_scores(
    roller: Roller, problems: Sequence[Problem], samples: int, seed: int, runtime: Runtime
) -> dict[str, float]:
    """Greedy pass@1 on all problems and pass@k on the first of them, over all processes."""
    started = time.perf_counter()
    mine = range(runtime.rank, len(problems), runtime.world_size)
    some = [place for place in mine if place < PASS_AT_K_PROBLEMS]
    greedy = roller.answer([problems[place] for place in mine])
    # Round -1 is none of training's, so the seeds are others.
    sampled = roller.write([problems[place] for place in some], samples, seeds_of(seed, -1, some))
    sums = sum_numbers(
        {
            "right": sum(group.num_right for group in greedy),
            "asked": len(greedy),
            "solved": sum(group.num_right > 0 for group in sampled),
            "sampled": len(sampled),
        },
        runtime,
    )
    return {
        "dev_pass_at_1": sums["right"] / max(sums["asked"], 1),
        f"dev_pass_at_{samples}": sums["solved"] / max(sums["sampled"], 1),
        "evaluation_seconds": time.perf_counter() - started,
    }


def reply_in_words(completion: Completion) -> str:
    """A reply for people: its text, with calls of the calculator as [6*7 = 42]."""
    shown = {"text": "{}", "python": "[{} = ", "output": "{}] "}
    words = "".join(shown[part.kind].format(part.text) for part in completion.parts)
    return words if completion.finish_reason == "stop" else f"{words} ({completion.finish_reason})"


def _logprobs(completion: Completion) -> list[float]:
    assert completion.logprobs is not None
    return [0.0 if one is None else one.logprob for one in completion.logprobs]
