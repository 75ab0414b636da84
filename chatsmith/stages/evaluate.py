"""`chatsmith evaluate`: how good a model is, with how sure that is.

Suites: `base`, bits per byte on a run's validation text; `exam`, the kindergarten exam, greedy, by section,
with 95 % intervals and the score of a baseline that has learnt nothing. Within a run the results go to
`<run>/evals/<stage>-<suite>.json` and into the model card, and are not measured again until the model, the
data or the settings change. A bundle that stands alone is measured, and nothing is written.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.checkpoint import Bundle
    from chatsmith.data.manifest import DataManifest
    from chatsmith.evals.result_file import SuiteResult
    from chatsmith.runtime.logs import Reporter
    from chatsmith.runtime.run_directory import RunDirectory
    from chatsmith.tasks.task import Problem

STAGE = "evaluate"
SUITES = ("base", "exam")
KINDERGARTEN = "kindergarten"


@dataclass(frozen=True)
class Config:
    """Measure a model."""

    run: Path = Path("runs/kindergarten")
    """A run, whose newest stage is measured, or a bundle."""
    suite: Literal["all", "base", "exam"] = "all"
    """What to measure: base (bits per byte), exam, or all that this model can be asked."""
    split: Literal["exam", "development"] = "exam"
    """The exam's problems: those for the final score, or those to tune on."""
    max_examples: int | None = None
    """At most this many problems, and rows of validation text: a random choice, the same for every model."""
    batch_size: int = 64
    """How many replies are written at once."""
    batch_tokens: int = 8192
    """How many tokens of validation text are scored at once."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: str = "auto"
    """What to compute in: auto, fp32 or bf16."""
    json: bool = False
    """Print one JSON object on stdout, and everything for people on stderr."""

    def __post_init__(self) -> None:
        for name in ("max_examples", "batch_size", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True)
class Target:
    """What is measured: a bundle, and the run it belongs to, if it does."""

    bundle: Path
    fingerprint: str
    run: "RunDirectory | None"
    manifest: "DataManifest | None"

    @property
    def stage(self) -> str:
        """The stage that made the bundle: the name of the folder it is in."""
        return self.bundle.parent.name


def main(config: Config) -> None:
    """Measure, show, and write down. Raises UserError for whatever a person can put right."""
    from chatsmith.runtime.logs import Reporter

    reporter = Reporter(json=config.json)
    target = find_target(config, reporter)
    suites = choose_suites(config.suite, target, reporter)
    reporter.stage("Evaluate", str(target.bundle))
    with target.run.lock() if target.run else contextlib.nullcontext():
        results = measure(config, target, suites, reporter)
    for result in results:
        show(result, reporter)
    if config.json:
        sys.stdout.write(json.dumps({result.suite: result.result for result in results}) + "\n")


def find_target(config: Config, reporter: "Reporter") -> Target:
    """The bundle that is meant, and its run. Raises UserError if there is none, or no data that is needed."""
    from chatsmith.checkpoint import bundle_fingerprint, resolve_bundle
    from chatsmith.data.manifest import load_manifest
    from chatsmith.runtime.run_directory import BUNDLE_STAGES, RunDirectory

    bundle = resolve_bundle(config.run)
    run = RunDirectory(bundle.parent.parent)
    if bundle.name != "bundle" or bundle.parent.name not in BUNDLE_STAGES:
        return Target(bundle, bundle_fingerprint(bundle), run=None, manifest=None)
    manifest = None
    try:
        manifest = load_manifest(run.data)
    except UserError as error:
        if config.suite == "base":
            raise
        reporter.notice(f"The run's data cannot be used: {error}")
    return Target(bundle, bundle_fingerprint(bundle), run, manifest)


def choose_suites(wanted: str, target: Target, reporter: "Reporter") -> list[str]:
    """The suites to measure. Raises UserError if one was named that the target has no data for."""
    if wanted == "base" and target.manifest is None:
        raise UserError(
            f"{target.bundle} belongs to no run, so there is no validation text to measure bits per byte on; "
            "give a run, or --suite exam"
        )
    if wanted != "all":
        return [wanted]
    if target.manifest is None:
        reporter.notice("There is no validation text here: bits per byte are left out.")
        return ["exam"]
    if target.manifest.source != KINDERGARTEN:
        reporter.notice(
            "This model was not taught the kindergarten: its exam is left out (--suite exam asks it)."
        )
        return ["base"]
    return list(SUITES)


def measure(config: Config, target: Target, suites: list[str], reporter: "Reporter") -> list["SuiteResult"]:
    """Results of the suites, read where they are known already, else measured and written down."""
    from chatsmith.evals.result_file import read_result, suite_key, write_result

    paths = [result_path(config, target, suite) for suite in suites]
    keys = [result_key(config, target, suite) for suite in suites]
    found = [read_result(path, key) if path else None for path, key in zip(paths, keys, strict=True)]
    loaded = None if all(found) else _load(config, target, reporter)
    results: list[SuiteResult] = []
    for suite, path, key, result in zip(suites, paths, keys, found, strict=True):
        if result is None:
            assert loaded is not None
            result = _MEASURE[suite](config, target, loaded, reporter)
            if path:
                write_result(path, key, result)
        else:
            reporter.line(f"{suite}: measured before, see {path}")
        results.append(result)
    is_full = config.max_examples is None and config.split == "exam"
    if target.run and is_full and not target.run.is_done(STAGE, done_key := suite_key(keys=keys)):
        _add_to_card(target.bundle, results)
        target.run.mark_done(STAGE, done_key, _facts(results), outputs=[path for path in paths if path])
    return results


def result_path(config: Config, target: Target, suite: str) -> Path | None:
    """Where a suite's results go; None without a run. Partial results never take the place of full ones."""
    if target.run is None:
        return None
    split = "-development" if suite == "exam" and config.split == "development" else ""
    part = f"-{config.max_examples}" if config.max_examples else ""
    return target.run.evals / f"{target.stage}-{suite}{split}{part}.json"


def result_key(config: Config, target: Target, suite: str) -> str:
    """What a suite's result depends on, as a hash."""
    from chatsmith.evals.result_file import suite_key
    from chatsmith.tasks.task import problem_to_json

    parts: dict[str, Any] = {"bundle": target.fingerprint, "n": config.max_examples, "dtype": config.dtype}
    if target.manifest:  # the baseline of the exam, too, comes from the data
        parts["data"] = target.manifest.fingerprint
    if suite == "exam":
        parts["problems"] = [problem_to_json(problem) for problem in _problems(config)]
    return suite_key(suite=suite, **parts)


def show(result: "SuiteResult", reporter: "Reporter") -> None:
    """The result, for people."""
    from chatsmith.runtime.logs import format_seconds

    found, took = result.result, format_seconds(result.seconds)
    if result.suite == "base":
        reporter.line(f"Bits per byte: {_base_in_words(found)}, in {took}")
        return
    rows = [
        [name, _percent(score["accuracy"]), _interval(score), f"{score['n']:,}"]
        for name, score in _scores(found)
    ]
    baseline = _scores(result.baseline) if result.baseline else []
    for row, (_, score) in zip(rows, baseline, strict=False):
        row.append(_percent(score["accuracy"]))
    columns = ["section", "right", "95 % interval", "problems", "nearest question"]
    reporter.table(f"Exam, in {took}", columns if baseline else columns[:-1], rows)


def _load(config: Config, target: Target, reporter: "Reporter") -> "Bundle":
    from chatsmith.checkpoint import load_bundle
    from chatsmith.runtime.device import detect_runtime

    runtime = detect_runtime(config.device, config.dtype)
    reporter.line(runtime.describe())
    return load_bundle(target.bundle, device=runtime.device, dtype=runtime.compute_dtype)


def _measure_base(config: Config, target: Target, bundle: "Bundle", reporter: "Reporter") -> "SuiteResult":
    from chatsmith.data.packing import ValidationRows
    from chatsmith.data.token_cache import open_token_cache
    from chatsmith.evals.bits_per_byte import score_text
    from chatsmith.evals.result_file import SuiteResult

    assert target.run is not None
    length = bundle.config.context_length
    cache = open_token_cache(
        target.run.tokens, data_folder=target.run.data, tokenizer_folder=target.bundle, split="validation"
    )
    with cache:
        rows = ValidationRows(cache, length)
        if rows.num_targets == 0:
            raise UserError(
                f"{target.run.path} has no validation text; give it some with `chatsmith data prepare`"
            )
        num_rows = min(rows.num_rows, config.max_examples or rows.num_rows)
        score = score_text(
            bundle.model,
            rows.batches(max(1, config.batch_tokens // length), max_rows=config.max_examples),
            bundle.tokenizer.token_byte_lengths,
            reporter=reporter,
            total_tokens=rows.num_targets * num_rows // rows.num_rows,
        )
    return SuiteResult("base", score.to_json(), score.seconds)


def _measure_exam(config: Config, target: Target, bundle: "Bundle", reporter: "Reporter") -> "SuiteResult":
    from chatsmith.engine.engine import Engine
    from chatsmith.evals.exam import run_exam
    from chatsmith.evals.result_file import SuiteResult
    from chatsmith.tools.calculator import calculator_tool

    problems = _problems(config)
    engine = Engine(
        bundle.model,
        bundle.tokenizer,
        tool=calculator_tool,
        max_running=config.batch_size,
        tokens_per_step=max(1024, config.batch_size),
    )
    result = run_exam(engine, problems, bundle.tokenizer, reporter=reporter)
    baseline = _baseline(target, problems, reporter)
    return SuiteResult("exam", result.to_json(), result.seconds, baseline, tuple(result.transcript()))


def _baseline(target: Target, problems: "list[Problem]", reporter: "Reporter") -> dict[str, Any] | None:
    """The exam's result for the answer to the nearest training question; None if the exam's matter is not taught."""
    from chatsmith.evals.exam import grade

    if target.manifest is None or target.manifest.source != KINDERGARTEN:
        return None
    from chatsmith.tasks.kindergarten.baseline import NearestQuestion

    with reporter.progress("baseline", len(problems), "problems") as bar:
        nearest = NearestQuestion(target.manifest.read_conversations("train"))
        texts = []
        for problem in problems:
            texts.append(nearest.answer(problem.messages))
            bar.advance()
    return grade(problems, texts).to_json()


_MEASURE: "dict[str, Callable[[Config, Target, Bundle, Reporter], SuiteResult]]" = {
    "base": _measure_base,
    "exam": _measure_exam,
}


def _problems(config: Config) -> "list[Problem]":
    """The problems this configuration asks for, the same every time."""
    from chatsmith.evals.exam import choose_problems
    from chatsmith.tasks.kindergarten import Kindergarten

    return choose_problems(list(Kindergarten().problems(config.split)), config.max_examples)


def _add_to_card(bundle: Path, results: "list[SuiteResult]") -> None:
    """Write the results into the bundle's model card."""
    from chatsmith.checkpoint import with_scores
    from chatsmith.runtime.atomic import write_text

    card = bundle / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    write_text(
        card, with_scores(text, {name: words for result in results for name, words in _in_words(result)})
    )


def _in_words(result: "SuiteResult") -> list[tuple[str, str]]:
    """Lines of a model card: label and figure."""
    found = result.result
    if result.suite == "base":
        return [("bits per byte", _base_in_words(found))]
    lines = []
    for name, score in _scores(found):
        words = f"{_percent(score['accuracy'])} ({_interval(score)}; {score['n']:,} problems)"
        lines.append((f"kindergarten exam, {name}", words))
    if result.baseline:
        lines.append(("the same exam by the nearest training question", _percent(result.baseline["overall"])))
    return lines


def _facts(results: "list[SuiteResult]") -> dict[str, Any]:
    """Figures for the run's table of results."""
    facts: dict[str, Any] = {}
    for result in results:
        if result.suite == "base":
            facts["bits_per_byte"] = round(result.result["bits_per_byte"], 4)
        else:
            score = _scores(result.result)[-1][1]
            facts["exam"] = _percent(score["accuracy"])
            facts["interval"] = _interval(score)
            if result.baseline:
                facts["nearest_question"] = _percent(result.baseline["overall"])
    return {**facts, "seconds": round(sum(result.seconds for result in results), 2)}


def _scores(exam: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Each section and its score, and last the score overall."""
    from chatsmith.evals.statistics import Score

    overall = Score(round(exam["overall"] * exam["n"]), exam["n"])
    low, high = overall.interval
    return [
        *exam["sections"].items(),
        ("overall", {"accuracy": overall.accuracy, "n": overall.n, "low": low, "high": high}),
    ]


def _base_in_words(base: dict[str, Any]) -> str:
    text = f"{base['bytes']:,} bytes of validation text ({base['tokens']:,} tokens)"
    return f"{base['bits_per_byte']:.4f} on {text}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(score: dict[str, Any]) -> str:
    return f"{100 * score['low']:.1f} to {100 * score['high']:.1f} %"
