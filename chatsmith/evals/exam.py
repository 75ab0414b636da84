"""An exam: problems put to the engine, replies decided by each problem's own rule, a score for each section.

Greedy, so that a model has one score, unless several tries a problem are asked for; all problems at once, in the
engine's one continuous batch. It neither loads models nor makes problems nor writes files.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from random import Random
from typing import Any, TypeVar

from chatsmith.data.problems import Problem
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, Sampling
from chatsmith.evals.statistics import Score
from chatsmith.runtime.console import Reporter
from chatsmith.text.chat import Part, conversation_to_json, render_prompt
from chatsmith.text.tokenizer import Tokenizer

Item = TypeVar("Item")

MAX_REPLY_TOKENS = 128
"""Longer replies are cut: no right answer to an exam comes near it, and a babbler must not hold up all."""

DOES_NOT_FIT = "the prompt does not fit the model's context"


@dataclass(frozen=True)
class Reply:
    """One line of the transcript: what was asked, what would have been right, what came."""

    id: str
    section: str
    prompt: list[dict[str, Any]]
    """Messages as JSON."""
    expected: str
    reply: list[dict[str, str]]
    """Parts as JSON: text, calls of the tool and its outputs."""
    correct: bool
    finish_reason: str


@dataclass(frozen=True)
class ExamResult:
    """Every reply, in the order of the problems, and how long the exam took."""

    replies: tuple[Reply, ...]
    seconds: float

    @property
    def overall(self) -> Score:
        """The score over all problems; a section weighs as much as it has problems."""
        return Score(sum(reply.correct for reply in self.replies), len(self.replies))

    @property
    def sections(self) -> dict[str, Score]:
        """The score of each section, in the order in which sections first appear."""
        verdicts: dict[str, list[bool]] = {}
        for reply in self.replies:
            verdicts.setdefault(reply.section, []).append(reply.correct)
        return {section: Score(sum(correct), len(correct)) for section, correct in verdicts.items()}

    def to_json(self) -> dict[str, Any]:
        """What `evaluate --json` prints as "exam": shares of right answers, and 95 % intervals by section."""
        return {
            "overall": self.overall.accuracy,
            "n": self.overall.n,
            "low": self.overall.interval[0],
            "high": self.overall.interval[1],
            "chance": 0.0,  # replies are written, not chosen
            "seconds": round(self.seconds, 2),
            "sections": {name: _score_to_json(score) for name, score in self.sections.items()},
        }

    def transcript(self) -> list[dict[str, Any]]:
        """Every reply as JSON."""
        return [asdict(reply) for reply in self.replies]


def run_exam(
    engine: Engine,
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    *,
    reporter: Reporter,
    max_tokens: int = MAX_REPLY_TOKENS,
    label: str = "exam",
    tries: int = 1,
    temperature: float = 0.0,
) -> ExamResult:
    """Put all problems to the engine and decide the replies. The engine's tool, if it has one, may be called.

    Each problem is asked `tries` times, one after another in the result, each time with a seed of its own. A problem
    whose prompt does not fit the model's context counts as answered wrongly.
    """
    started = time.perf_counter()
    asked = [problem for problem in problems for _ in range(tries)]
    prompts = [tuple(render_prompt(problem.messages, tokenizer)) for problem in asked]
    fitting = [index for index, prompt in enumerate(prompts) if len(prompt) < engine.config.context_length]
    requests = [
        Request(
            prompts[index], Sampling(temperature=temperature, max_tokens=max_tokens, seed=index % tries + 1)
        )
        for index in fitting
    ]
    with reporter.progress(label, len(requests), "problems") as bar:
        completions = engine.generate(requests, on_finish=lambda *_: bar.advance(1))
    completion_of = dict(zip(fitting, completions, strict=True))
    # In threads, for some rules run programs and wait for them; no more than there are processors, for the programs
    # have a limit on the wall, too, and together a limit on memory.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        replies = tuple(pool.map(_decided, asked, map(completion_of.get, range(len(asked)))))
    return ExamResult(replies, time.perf_counter() - started)


def grade(problems: Sequence[Problem], texts: Sequence[str]) -> ExamResult:
    """The result of someone who gives `texts` as replies: of a baseline, say."""
    replies = tuple(
        _reply(problem, [Part("text", text)], "stop") for problem, text in zip(problems, texts, strict=True)
    )
    return ExamResult(replies, 0.0)


def choose_problems(problems: Sequence[Item], max_examples: int | None) -> list[Item]:
    """At most `max_examples` of the problems (None: all), drawn at random once, the same for every model."""
    if max_examples is None or max_examples >= len(problems):
        return list(problems)
    chosen = sorted(Random(0).sample(range(len(problems)), max_examples))
    return [problems[index] for index in chosen]


def _decided(problem: Problem, completion: Completion | None) -> Reply:
    if completion is None:
        return _reply(problem, [], DOES_NOT_FIT)
    return _reply(problem, completion.parts, completion.error or completion.finish_reason)


def _reply(problem: Problem, parts: Sequence[Part], finish_reason: str) -> Reply:
    text = "".join(part.text for part in parts if part.kind == "text")
    return Reply(
        id=problem.id,
        section=problem.section,
        prompt=conversation_to_json(problem.messages)["messages"],
        expected=problem.answer,
        reply=[{"type": part.kind, "text": part.text} for part in parts],
        correct=problem.check(text),
        finish_reason=finish_reason,
    )


def _score_to_json(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"accuracy": score.accuracy, "n": score.n, "low": low, "high": high}
