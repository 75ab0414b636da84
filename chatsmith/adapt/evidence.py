"""What adapting a model to documents has changed, measured before and after on the same things, with intervals.

Bits per byte of pages that were held out, and of general text; questions about what was trained on, and about what was
held out (whose answers nobody should know). Beside the model before and the one after stand the one that was trained on
the text alone and, for questions, the answer of the most similar training pair. What an interval does not separate from
nothing is called nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chatsmith.adapt.passages import Passage
from chatsmith.adapt.questions import Question, is_right
from chatsmith.adapt.search import PassageIndex
from chatsmith.bundle import bundle_fingerprint, load_bundle
from chatsmith.evals.bpb import measure_text
from chatsmith.evals.comparison import Comparison, compare_tasks, compare_text
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.results import TaskResult
from chatsmith.llm import LLM
from chatsmith.report.render import adapted_tables
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.text.chat import Message, render_prompt

BASE, ADAPTED, NEAREST = "before", "after", "nearest pair"
REPLY_TOKENS = 64
SAMPLES = 10
SAID = {"training": "what it read", "held_out": "pages it never saw", "general": "other text"}
_TEXT = {
    "held_out": {
        "better": "It learned the wording of your documents",
        "worse": "It did not learn the wording of your documents, but got worse at it",
        "nothing": "It learned nothing of your documents' wording that can be told from luck",
    },
    "general": {
        "better": "Other text it knows no worse",
        "worse": "Other text it knows less well than before",
        "nothing": "On other text, no loss was seen",
    },
}
_ANSWERS = {"better": "", "worse": ": worse than before", "nothing": ": no gain that can be told from luck"}
_KEPT = {**_ANSWERS, "nothing": ": no loss was seen"}


@dataclass(frozen=True)
class Material:
    """What is measured on."""

    texts: Mapping[str, Path]
    """Files of documents by name: `held_out`, and `general` where there is other text."""
    questions: Mapping[str, Sequence[Question]]
    """By where the answers stand: `training`, `held_out`, `general`."""
    pairs: Sequence[Question]
    """What was trained on."""


def measure(
    models: Mapping[str, Path], material: Material, runtime: Runtime, reporter: Reporter
) -> dict[str, Any]:
    """The evidence as `adapt --json` prints it. `models` are bundles by name, with BASE first and ADAPTED last."""
    asked = {name: list(questions) for name, questions in material.questions.items() if questions}
    parts: dict[str, dict[str, Any]] = {name: {} for name in material.texts}
    figures: dict[str, dict[str, Any]] = {name: {} for name in material.texts}
    replies: dict[str, dict[str, list[str]]] = {name: {} for name in asked}
    for model, path in models.items():
        reporter.stage(f"Measuring the model {model}", str(path))
        llm = LLM(load_bundle(path, device=runtime.device, dtype=runtime.compute_dtype), max_running=32)
        for name, file in material.texts.items():
            length = llm.bundle.config.context_length  # a row is a part: what the bootstrap draws anew
            found = measure_text(
                Evaluation(
                    path, "", runtime, Reporter(silent=True), Path(), text=(file,), batch_tokens=length
                )
            )
            parts[name][model], figures[name][model] = list(found.transcript), found.result
        for name, questions in asked.items():
            replies[name][model] = _replies(llm, questions)
    nearest = PassageIndex([Passage(str(at), "", one.question) for at, one in enumerate(material.pairs)])
    for name, questions in asked.items():
        best = [nearest.best(one.question, 1) for one in questions]
        replies[name][NEAREST] = [material.pairs[int(one[0].document)].answer if one else "" for one in best]
    results = {
        model: [_result(name, asked[name], found[model]) for name, found in replies.items()]
        for model in (*models, NEAREST)
    }
    tests = compare_tasks(results[BASE], results[ADAPTED])
    text = {
        name: {**figures[name], "change": _change(compare_text(parts[name][BASE], parts[name][ADAPTED]))}
        for name in material.texts
    }
    questions = {
        test.name: {
            "n": len(asked[test.name]),
            **{
                model: {"right": round(sum(one.points)), **one.to_json()}
                for model, found in results.items()
                for one in found
                if one.task == test.name
            },
            "change": _change(test),
            "by_form": _by_form(asked[test.name], replies[test.name][ADAPTED]),
        }
        for test in tests
    }
    evidence = {
        "models": {
            model: {"path": str(path), "model": bundle_fingerprint(path)} for model, path in models.items()
        },
        "text": text,
        "questions": questions,
        "samples": _samples({name: asked[name] for name in asked if name != "general"}, replies, models),
    }
    return {"sentence": sentence(evidence), **evidence}


def sentence(evidence: Mapping[str, Any]) -> str:
    """The outcome in one honest sentence or three."""
    text, said = evidence["text"], []

    def outcome(name: str) -> str:
        before, after = (text[name][model]["bits_per_byte"] for model in (BASE, ADAPTED))
        return f"{_TEXT[name][_verdict(text[name]['change'])]}: {before:.2f} → {after:.2f} bits per byte"

    if "held_out" in text:
        said.append(f"{outcome('held_out')} on pages it was not trained on.")
    for name, asked in evidence["questions"].items():
        before, after = (asked[model]["right"] for model in (BASE, ADAPTED))
        figures = f"Of {asked['n']} questions about {SAID[name]}, it answers {after}, before {before}"
        outcomes = _KEPT if name == "general" else _ANSWERS
        said.append(f"{figures}{outcomes[_verdict(asked['change'])]}.")
        if name == "training":
            said.append(f"Looking up the most similar training pair would answer {asked[NEAREST]['right']}.")
    if "general" in text:
        said.append(f"{outcome('general')}.")
    else:
        said.append("What it has forgotten was not measured: no other text was at hand.")
    return " ".join(said)


def show(evidence: dict[str, Any], reporter: Reporter) -> None:
    """The evidence, for people."""
    for title, columns, rows in adapted_tables(evidence):
        reporter.table(title, columns, rows)
    reporter.line()
    reporter.line(evidence["sentence"])


def _replies(llm: LLM, questions: Sequence[Question]) -> list[str]:
    prompts = [render_prompt((Message.of("user", one.question),), llm.tokenizer) for one in questions]
    room = llm.bundle.config.context_length - REPLY_TOKENS // 4
    fitting = [prompt for prompt in prompts if len(prompt) <= room]
    written = iter(llm.generate(fitting, llm.sampling(temperature=0.0, max_tokens=REPLY_TOKENS)))
    return [next(written).text if len(prompt) <= room else "" for prompt in prompts]


def _result(name: str, questions: Sequence[Question], replies: Sequence[str]) -> TaskResult:
    points = [float(is_right(reply, one.answer)) for one, reply in zip(questions, replies, strict=True)]
    return TaskResult(name, tuple(one.question for one in questions), tuple(points), 0.0, 0.0)


def _by_form(questions: Sequence[Question], replies: Sequence[str]) -> dict[str, dict[str, int]]:
    right = Counter(
        one.form for one, reply in zip(questions, replies, strict=True) if is_right(reply, one.answer)
    )
    return {form: {"n": n, "right": right[form]} for form, n in Counter(o.form for o in questions).items()}


def _change(test: Comparison | None) -> dict[str, Any] | None:
    if test is None:  # too little text for an interval
        return None
    change = test.difference
    is_separate = test.is_real and not change.low <= 0 <= change.high
    is_better = (change.difference > 0) == test.higher_is_better
    return {**asdict(change), "verdict": ("better" if is_better else "worse") if is_separate else "nothing"}


def _verdict(change: Mapping[str, Any] | None) -> str:
    return change["verdict"] if change else "nothing"


def _samples(
    asked: Mapping[str, Sequence[Question]],
    replies: Mapping[str, Mapping[str, Sequence[str]]],
    models: Mapping[str, Path],
) -> list[dict[str, Any]]:
    """The first questions of each kind, as they came: none is chosen."""
    return [
        {
            "question": one.question,
            "answer": one.answer,
            "passage": one.passage,
            "about": name,
            "replies": {model: replies[name][model][at] for model in models},
        }
        for name, questions in asked.items()
        for at, one in enumerate(questions[: SAMPLES // len(asked)])
    ]
