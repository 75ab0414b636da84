"""`chatsmith evaluate`: how good a model is, with how sure that is and what it took.

Suites: `base`, bits per byte on a run's validation text, and CORE where the benchmarks' files are at hand; `core`, the
22 tasks of CORE alone; `chat`, what a model that holds conversations knows and can do; `exam`, the kindergarten's.
Within a run the results go to `<run>/evals/` and into the model card, and are not measured again until the model, the
data or the settings change. A bundle that stands alone is measured, and nothing is written unless --results says where.

Two more questions: `--compare A B`, whether a difference between two measured models is real, and `--leakage`, whether
test items stand in the text a run learns from.
"""

import contextlib
import json
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from chatsmith.bundle import Bundle, load_bundle, with_scores
from chatsmith.cli.config import EvaluateConfig as Config
from chatsmith.cli.settings import expanded
from chatsmith.data.dataset import load_manifest
from chatsmith.evals.chat import LETTER_TASKS, WRITTEN_TASKS
from chatsmith.evals.comparison import (
    Comparison,
    compare_means,
    compare_tasks,
    compare_text,
    on_different_files,
)
from chatsmith.evals.examiner import Examiner
from chatsmith.evals.examiner import Settings as ExaminerSettings
from chatsmith.evals.leakage import LeakageCheck
from chatsmith.evals.report import MEANS, facts, in_words, show, show_comparison, show_leakage
from chatsmith.evals.result_file import SuiteResult, suite_key
from chatsmith.evals.results import read_results
from chatsmith.evals.target import ResultPlaces, Target, find_results, find_target, transformers_target
from chatsmith.evals.test_sets import find_test_sets
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, detect_runtime
from chatsmith.runtime.distributed import main_number, process_group
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.tasks.benchmark_downloads import fetch, missing_files
from chatsmith.tasks.benchmark_files import default_folder, has_file
from chatsmith.tasks.core import TASKS

STAGE = "evaluate"
KINDERGARTEN = "kindergarten"


def main(config: Config) -> None:
    """Measure, show, and write down. Raises UserError for whatever a person can put right."""

    runtime = detect_runtime(config.device, config.dtype)
    reporter = Reporter(json=config.json, silent=not runtime.is_main)
    with process_group(runtime):
        if config.download:
            if runtime.is_main:
                download(config, reporter)
            main_number(0.0, runtime)  # the others wait for the files
        if config.compare:
            found = compare(config, reporter)
        elif config.leakage:
            found = find_leakage(config, reporter)
        else:
            found = {result.suite: result.result for result in measure(config, runtime, reporter)}
    if config.json and runtime.is_main:
        sys.stdout.write(json.dumps(found) + "\n")


def measure(config: Config, runtime: Runtime, reporter: Reporter) -> list[SuiteResult]:
    """The results of the suites that were asked for, shown and written down."""

    if config.hf:
        target = transformers_target(config.hf)
    else:
        needs_data = config.suite in ("auto", "base", "all") and not config.text
        target = find_target(config.run, reporter, needs_data=needs_data)
    suites = choose_suites(config, target, reporter)
    reporter.stage("Evaluate", str(target.path))
    folder = None if config.text else target.run.evals if target.run else config.results
    places = ResultPlaces(folder, target.stage, config.split, config.max_examples) if folder else None
    settings = ExaminerSettings(
        folder=eval_folder(config),
        split=config.split,
        max_examples=config.max_examples,
        tries=config.tries,
        text=config.text,
        dtype=config.dtype,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
    )
    examiner = Examiner(
        target,
        settings,
        load=lambda: _load(target, runtime, reporter),
        places=places,
        runtime=runtime,
        reporter=reporter,
    )
    is_ours = target.run is not None and runtime.is_main
    with target.run.lock() if target.run and is_ours else contextlib.nullcontext():
        results = []
        for suite in suites:
            result = examiner.measure(suite)
            if suite in examiner.was_known and places:
                reporter.line(f"{suite}: measured before, see {places.suite(suite)}")
            if runtime.is_main:
                show(result, reporter)
            results.append(result)
        if is_ours and places and config.max_examples is None and config.split == "exam":
            _record(config, target, examiner, results)
    return results


def choose_suites(config: Config, target: Target, reporter: Reporter) -> list[str]:
    """The suites to measure. Raises UserError if one was named that the target has no data for, or if none was and
    nothing says what the target's run has taught."""
    if config.hf:
        return ["core"]
    if config.text:
        return ["base"]
    has_text = target.manifest is not None
    # Of a bundle alone nobody can know; of a run nothing is asked that its data do not speak for.
    if not has_text and (config.suite == "base" or (config.suite == "auto" and target.run)):
        lack = (
            f"{target.run.path} has no data of its own" if target.run else f"{target.path} belongs to no run"
        )
        raise UserError(
            f"{lack}, so there is no validation text to measure bits per byte on; "
            f"give {'' if target.run else 'a run, '}a text with --text, or --suite core, chat or exam"
        )
    if config.suite in ("core", "chat", "exam"):
        return [config.suite]
    if not has_text:
        reporter.notice("There is no validation text here: bits per byte are left out.")
    suites = ["base"] if has_text else []
    if config.suite == "auto":
        if target.manifest is None or target.manifest.source == KINDERGARTEN:
            return [*suites, "exam"]
        reporter.notice(
            "This model was not taught the kindergarten: its exam is left out (--suite exam asks it)."
        )
        return suites
    if config.split == "exam":  # CORE has no other items
        suites += _if_at_hand("core", config, reporter)
    if config.suite == "base":
        return suites
    return [*suites, *_if_at_hand("chat", config, reporter), "exam"]


def compare(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Which differences between two measured models are real."""

    one, two = (
        read_results(find_results(path, config.split, config.max_examples)) for path in config.compare
    )
    lines: list[Comparison] = []
    for suite in ("core", "chat", "exam"):
        if suite in MEANS and (mean := compare_means(MEANS[suite], one.tasks(suite), two.tasks(suite))):
            lines.append(mean)
        # ARC is a task of both suites, asked in two ways.
        tasks = compare_tasks(one.tasks(suite), two.tasks(suite))
        lines += [replace(line, name=f"{suite}/{line.name}") for line in tasks]
        for name in on_different_files(one.tasks(suite), two.tasks(suite)):
            reporter.notice(f"{name} is left out: the two were measured on different files.")
    text = compare_text(one.text, two.text)
    lines = [*([text] if text else []), *lines]
    if not lines:
        part = f" --max-examples {config.max_examples}" if config.max_examples else ""
        raise UserError(
            f"{config.compare[0]} and {config.compare[1]}, as they are now, have no results in common; measure both "
            f"first, with the same settings: chatsmith evaluate{part}"
        )
    show_comparison(str(config.compare[0]), str(config.compare[1]), lines, reporter)
    return {"compare": {line.name: line.to_json() for line in lines}}


def find_leakage(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Which test items share 13 words in a row with the training text of the run."""

    manifest = load_manifest(RunDirectory(config.run).data)
    reporter.stage("Leakage", str(config.run))
    test_sets = find_test_sets(eval_folder(config))
    reporter.line(f"Test sets: {', '.join(one.name for one in test_sets)}")
    check = LeakageCheck(test_sets)
    documents = (document.text for document in manifest.read_documents("train"))
    talks = manifest.read_conversations("train")
    conversations = ("\n".join(message.text for message in talk) for talk in talks)
    characters = 0
    with reporter.progress("training text", None, "characters") as bar:
        for read in check.read(chain(documents, conversations)):
            characters += read
            bar.advance(read)
    overlaps = check.report()
    show_leakage(overlaps, characters, reporter)
    return {"leakage": {one.name: one.to_json() for one in overlaps}}


def download(config: Config, reporter: Reporter) -> None:
    """Fetch the benchmarks' files that are missing."""

    folder = eval_folder(config)
    missing = missing_files(folder)
    if missing:
        with reporter.progress("benchmarks", len(missing), "files") as bar:
            for notice in fetch(missing, folder, mirror=config.mirror, on_fetched=lambda _: bar.advance(1)):
                reporter.notice(notice)


def eval_folder(config: Config) -> Path:
    """Where the benchmarks' files are, or will be."""

    return expanded(config.eval_data) if config.eval_data else default_folder()


def _if_at_hand(suite: str, config: Config, reporter: Reporter) -> list[str]:
    """The suite, if all of its files are there."""

    paths = [task.path for task in TASKS]
    if suite == "chat":
        paths = [task.path("test") for task in (*LETTER_TASKS, *WRITTEN_TASKS)]
    missing = [path for path in paths if not has_file(eval_folder(config), path)]
    if missing:
        reporter.notice(
            f"The suite {suite} is left out: {missing[0]} is not in {eval_folder(config)} "
            "(--download fetches it, --eval-data names another folder)."
        )
    return [] if missing else [suite]


def _load(target: Target, runtime: Runtime, reporter: Reporter) -> Bundle:

    reporter.line(runtime.describe())
    return load_bundle(target.path, device=runtime.device, dtype=runtime.compute_dtype)


def _record(config: Config, target: Target, examiner: Examiner, results: list[SuiteResult]) -> None:
    """Write whole results into the model card and the run's record, unless they stand there."""

    assert target.run is not None
    done_key = suite_key(keys=[examiner.key(result.suite) for result in results])
    if target.run.is_done(STAGE, done_key):
        return
    card = target.path / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    write_text(
        card, with_scores(text, {name: words for result in results for name, words in in_words(result)})
    )
    target.run.keep_settings(STAGE, done_key, config)
    outputs = [target.run.evals / f"{target.stage}-{result.suite}.json" for result in results]
    target.run.mark_done(STAGE, done_key, facts(results), outputs=outputs)
