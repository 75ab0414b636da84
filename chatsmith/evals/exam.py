"""An exam: problems put to the engine, replies decided by each problem's own rule, a score for each section.

Greedy, so that a model has one score, unless several tries a problem are asked for; all problems at once, in the
engine's one continuous batch. The suite `exam` is the kindergarten's, beside the score of a method that knows nothing
but the training questions.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from random import Random
from typing import Any, TypeVar

from chatsmith.data.problems import Problem
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import SuiteResult
from chatsmith.evals.statistics import points_interval
from chatsmith.runtime.console import Reporter
from chatsmith.text.chat import Part, conversation_to_json, render_prompt
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.worlds.kindergarten import Kindergarten
from chatsmith.worlds.kindergarten.exam import NearestQuestion

Item = TypeVar("Item")

MAX_REPLY_TOKENS = 128
"""Longer replies are cut: no right answer to an exam comes near it, and a babbler must not hold up all."""

TRIES_TEMPERATURE = 0.8
"""At which several tries a problem are drawn, as in the HumanEval paper."""


def run_exam(
    engine: Engine,
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    *,
    reporter: Reporter,
    max_tokens: int = MAX_REPLY_TOKENS,
    label: str = "exam",
    tries: int = 1,
) -> list[dict[str, Any]]:
    """Put all problems to the engine and decide the replies. The engine's tool, if it has one, may be called.

    Returns what a transcript keeps of each: `id` and `section` of the problem, the `prompt` as messages, a right answer
    as `expected`, the `reply` as parts (text, calls of the tool, their outputs), `correct`, `finish_reason`.

    Each problem is asked `tries` times, one after another in the result, each time with a seed of its own; once only,
    it is asked greedily. A problem whose prompt does not fit the model's context counts as answered wrongly.
    """
    asked = [problem for problem in problems for _ in range(tries)]
    temperature = TRIES_TEMPERATURE if tries > 1 else 0.0
    requests = []
    for index, problem in enumerate(asked):
        sampling = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=index % tries + 1)
        requests.append(Request(tuple(render_prompt(problem.messages, tokenizer)), sampling))
    with reporter.progress(label, len(requests), "problems") as bar:
        completions = engine.generate(requests, on_finish=lambda *_: bar.advance(1))
    parts = [one.parts for one in completions]
    endings = [one.error or one.finish_reason for one in completions]
    # In threads, for some rules run programs and wait for them; no more than there are processors, for the programs
    # have a limit on the wall, too, and together a limit on memory.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_reply, asked, parts, endings))


def exam_score(replies: Sequence[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What `evaluate --json` prints as "exam", from the transcript: shares of right answers, and 95 % intervals by
    section, in the order in which sections first appear."""
    right: dict[str, list[bool]] = {}
    for reply in replies:
        right.setdefault(reply["section"], []).append(reply["correct"])
    overall = _score([reply["correct"] for reply in replies])
    return {
        "overall": overall.pop("accuracy"),
        **overall,
        "chance": 0.0,  # replies are written, not chosen
        "seconds": round(seconds, 2),
        "sections": {section: _score(correct) for section, correct in right.items()},
    }


def grade(problems: Sequence[Problem], texts: Sequence[str]) -> dict[str, Any]:
    """The score of someone who gives `texts` as replies: of a baseline, say."""
    return exam_score(
        [_reply(one, [Part("text", text)], "stop") for one, text in zip(problems, texts, strict=True)], 0.0
    )


def exam_problems(evaluation: Evaluation) -> list[Problem]:
    """The kindergarten's problems that are asked, the same every time."""
    return choose_problems(list(Kindergarten().problems(evaluation.split)), evaluation.max_examples)


def answered(
    evaluation: Evaluation,
    problems: Sequence[Problem],
    label: str = "exam",
    max_tokens: int = MAX_REPLY_TOKENS,
    tries: int = 1,
) -> tuple[list[dict[str, Any]], float]:
    """The transcript of all problems, asked by all processes, and this one's seconds. See `run_exam`."""
    started = time.perf_counter()
    replies = run_exam(
        evaluation.engine,
        evaluation.share(problems),
        evaluation.bundle.tokenizer,
        reporter=evaluation.reporter,
        max_tokens=max_tokens,
        label=label,
        tries=tries,
    )
    seconds = time.perf_counter() - started
    tried = [replies[start : start + tries] for start in range(0, len(replies), tries)]
    return list(chain.from_iterable(evaluation.collect(tried, len(problems)))), seconds


def measure_exam(evaluation: Evaluation) -> SuiteResult:
    """The kindergarten's exam; where the model's run was taught the kindergarten, with the score of the answer to the
    nearest training question."""
    problems, reporter = exam_problems(evaluation), evaluation.reporter
    replies, seconds = answered(evaluation, problems)
    baseline, manifest = None, evaluation.manifest
    if manifest is not None and evaluation.was_taught_kindergarten:
        with reporter.progress("baseline", len(problems), "problems") as bar:
            nearest = NearestQuestion(manifest.read_conversations("train"))
            texts = []
            for problem in problems:
                texts.append(nearest.answer(problem.messages))
                bar.advance()
        baseline = grade(problems, texts)
    return SuiteResult("exam", exam_score(replies, seconds), seconds, baseline, tuple(replies))


def choose_problems(problems: Sequence[Item], max_examples: int | None) -> list[Item]:
    """At most `max_examples` of the problems (None: all), drawn at random once, the same for every model."""
    if max_examples is None or max_examples >= len(problems):
        return list(problems)
    chosen = sorted(Random(0).sample(range(len(problems)), max_examples))
    return [problems[index] for index in chosen]


def _reply(problem: Problem, parts: Sequence[Part], finish_reason: str) -> dict[str, Any]:
    return {
        "id": problem.id,
        "section": problem.section,
        "prompt": conversation_to_json(problem.messages)["messages"],
        "expected": problem.answer,
        "reply": [{"type": part.kind, "text": part.text} for part in parts],
        "correct": problem.check("".join(part.text for part in parts if part.kind == "text")),
        "finish_reason": finish_reason,
    }


def _score(right: Sequence[bool]) -> dict[str, Any]:
    low, high = points_interval(right)
    return {"accuracy": sum(right) / max(1, len(right)), "n": len(right), "low": low, "high": high}
