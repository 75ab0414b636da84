"""`chatsmith evaluate`: how good a model is, with how sure that is and what it took.

Suites: `base`, bits per byte on a run's validation text, and CORE where the benchmarks' files are at hand; `core`, the
22 tasks of CORE alone; `chat`, what a model that holds conversations knows and can do; `exam`, the kindergarten's.
Within a run the results go to `<run>/evals/` and into the model card, and are not measured again until the model, the
data or the settings change. A bundle that stands alone is measured, and nothing is written unless --results says where.

Two more questions: `--compare A B`, whether a difference between two measured models is real, and `--leakage`, whether
test items stand in the text a run learns from.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from chatsmith.bundle import bundle_fingerprint, with_scores
from chatsmith.cli.config import EvaluateConfig as Config
from chatsmith.cli.settings import expanded
from chatsmith.data.dataset import FILE_NAME, file_sha256, load_manifest
from chatsmith.evals import report
from chatsmith.evals.comparison import compare_means, compare_tasks, compare_text, on_different_files
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.leakage import LeakageCheck, find_test_sets
from chatsmith.evals.results import KINDERGARTEN, ResultFiles, SuiteResult, files_in, read_results, result_key
from chatsmith.evals.suites import measure, suite_key, tasks_of
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, detect_runtime
from chatsmith.runtime.distributed import main_number, process_group
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import BUNDLE_STAGES, RunDirectory, resolve_bundle
from chatsmith.tasks.benchmark_files import MissingFileError, default_folder, fetch, has_file, origins

STAGE = "evaluate"


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
            try:
                by_stage = {
                    stage: {result.suite: result.result for result in evaluate(one, runtime, reporter)}
                    for stage, one in each_stage(config).items()
                }
            except MissingFileError as error:
                raise UserError(
                    f"{error} (--download fetches the benchmarks, --eval-data names a folder)"
                ) from None
            found = by_stage if config.stages else by_stage[""]
    if config.json and runtime.is_main:
        sys.stdout.write(json.dumps(found) + "\n")


def each_stage(config: Config) -> dict[str, Config]:
    """The settings for each stage that is asked for; under an empty name where none is.

    Of the suite `all`, a model that only continues text is measured by `base`, and one that chats by `chat`. Raises
    UserError for a stage that the run does not have.
    """
    if not config.stages:
        return {"": config}
    run = RunDirectory(config.run)
    there = [stage for stage in BUNDLE_STAGES if run.bundle(stage).is_dir()]
    wanted = there if config.stages == ("all",) else config.stages
    if not there or not set(wanted) <= set(there):
        raise UserError(
            f"{config.run} has no model of {', '.join(sorted(set(wanted) - set(there))) or 'any stage'}; it has "
            f"those of: {', '.join(there) or 'none'}",
            setting="stages",
        )
    suites = {stage: "base" if stage == "pretrain" else "chat" for stage in wanted}
    return {
        stage: replace(
            config,
            run=run.stage(stage),
            stages=(),
            suite=suite if config.suite == "all" else config.suite,
        )
        for stage, suite in suites.items()
    }


def evaluate(config: Config, runtime: Runtime, reporter: Reporter) -> list[SuiteResult]:
    """The results of the suites that were asked for, shown and written down."""
    run = None if config.hf else run_of(config.run)
    evaluation = what_to_measure(config, run, runtime, reporter)
    suites = choose_suites(config, evaluation, run, reporter)
    reporter.stage("Evaluate", str(evaluation.model))
    writes = run is not None and runtime.is_main
    with run.lock() if run and writes else contextlib.nullcontext():
        results = []
        for suite in suites:
            result = measure(suite, evaluation)
            if runtime.is_main:
                report.show(result, reporter)
            results.append(result)
        is_whole = config.max_examples is None and config.split == "exam" and not config.text
        if run and writes and is_whole:
            record(evaluation, run, results)
    return results


def run_of(path: Path) -> RunDirectory | None:
    """The run of the bundle that is meant by `path`; None for a bundle that stands alone. Raises UserError if there is
    no bundle."""
    bundle = resolve_bundle(path)
    is_in_run = bundle.name == "bundle" and bundle.parent.name in BUNDLE_STAGES
    return RunDirectory(bundle.parent.parent) if is_in_run else None


def what_to_measure(
    config: Config, run: RunDirectory | None, runtime: Runtime, reporter: Reporter
) -> Evaluation:
    """The model, how it is asked, and where its results go. Raises UserError if there is none, or if the run's data
    have changed or cannot be read, and are needed. A run that never had data is none of that."""
    manifest = None
    if config.hf:
        model, fingerprint = config.hf.resolve(), transformers_fingerprint(config.hf)
    else:
        model = resolve_bundle(config.run)
        fingerprint = bundle_fingerprint(model)
    if run and (run.data / FILE_NAME).is_file():
        try:
            manifest = load_manifest(run.data)
        except UserError as error:
            if config.suite in ("auto", "base", "all") and not config.text:
                raise UserError(
                    f"{error}, or name a suite that does without: --suite exam, core or chat"
                ) from None
            reporter.notice(f"The run's data cannot be used: {error}")
    # Named text is measured for once: its figure must not pass for the run's own.
    folder = None if config.text else run.evals if run else config.results
    stage = model.parent.name if run else model.name
    return Evaluation(
        model=model,
        fingerprint=fingerprint,
        runtime=runtime,
        reporter=reporter,
        benchmarks=eval_folder(config),
        files=ResultFiles(folder, stage, config.split, config.max_examples) if folder else None,
        manifest=manifest,
        data=run.data if run else None,
        tokens=run.tokens if run else None,
        text=config.text,
        is_transformers=config.hf is not None,
        split=config.split,
        max_examples=config.max_examples,
        tries=config.tries,
        dtype=config.dtype,
        batch_size=config.batch_size,
        batch_tokens=config.batch_tokens,
    )


def transformers_fingerprint(path: Path) -> str:
    """What is in a checkpoint of the transformers library, as a hash. Raises UserError if there is none."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder with a transformers checkpoint")
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".json", ".safetensors", ".txt", ".model"):
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def choose_suites(
    config: Config, evaluation: Evaluation, run: RunDirectory | None, reporter: Reporter
) -> list[str]:
    """The suites to measure. Raises UserError if one was named that there are no data for, or if none was and nothing
    says what the model's run has taught."""
    if config.hf:
        return ["core"]
    if config.text:
        return ["base"]
    has_text = evaluation.manifest is not None
    # Of a bundle alone nobody can know; of a run nothing is asked that its data do not speak for.
    if not has_text and (config.suite == "base" or (config.suite == "auto" and run)):
        lack = f"{run.path} has no data of its own" if run else f"{evaluation.model} belongs to no run"
        raise UserError(
            f"{lack}, so there is no validation text to measure bits per byte on; "
            f"give {'' if run else 'a run, '}a text with --text, or --suite core, chat or exam"
        )
    if config.suite in ("core", "chat", "exam"):
        return [config.suite]
    if not has_text:
        reporter.notice("There is no validation text here: bits per byte are left out.")
    suites = ["base"] if has_text else []
    if config.suite == "auto":
        if evaluation.manifest is None or evaluation.manifest.source == KINDERGARTEN:
            return [*suites, "exam"]
        reporter.notice(
            "This model was not taught the kindergarten: its exam is left out (--suite exam asks it)."
        )
        return suites
    wanted = ["core", "chat"] if config.suite == "all" else ["core"]
    if config.split == "development":
        wanted.remove("core")  # it has no other items
    for suite in wanted:
        paths = [task.files[evaluation.part] for task in tasks_of(suite, evaluation)]
        missing = [path for path in paths if not has_file(evaluation.benchmarks, path)]
        if missing:
            reporter.notice(
                f"The suite {suite} is left out: {missing[0]} is not in {evaluation.benchmarks} "
                "(--download fetches it, --eval-data names another folder)."
            )
        else:
            suites.append(suite)
    return [*suites, "exam"] if config.suite == "all" else suites


def record(evaluation: Evaluation, run: RunDirectory, results: Sequence[SuiteResult]) -> None:
    """Write whole results into the model card and the run's record, unless they are there."""
    done_key = result_key(keys=[suite_key(result.suite, evaluation) for result in results])
    if run.is_done(STAGE, done_key):
        return
    card = evaluation.model / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    scores = {name: words for result in results for name, words in report.in_words(result).items()}
    write_text(card, with_scores(text, scores))
    assert evaluation.files is not None
    outputs = [evaluation.files.suite(result.suite) for result in results]
    run.mark_done(STAGE, done_key, report.facts(results), outputs=outputs)


def compare(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Which differences between two measured models are real."""
    one, two = (read_results(find_results(path, config)) for path in config.compare)
    text = compare_text(one.text, two.text)
    lines = [text] if text else []
    for suite in ("core", "chat", "exam"):
        a, b = one.tasks[suite], two.tasks[suite]
        if suite in report.MEANS and (mean := compare_means(report.MEANS[suite], a, b)):
            lines.append(mean)
        # ARC is a task of both suites, asked in two ways.
        lines += [replace(line, name=f"{suite}/{line.name}") for line in compare_tasks(a, b)]
        for name in on_different_files(a, b):
            reporter.notice(f"{name} is left out: the two were measured on different files.")
    if not lines:
        part = f" --max-examples {config.max_examples}" if config.max_examples else ""
        raise UserError(
            f"{config.compare[0]} and {config.compare[1]}, as they are now, have no results in common; measure both "
            f"first, with the same settings: chatsmith evaluate{part}"
        )
    report.show_comparison(str(config.compare[0]), str(config.compare[1]), lines, reporter)
    return {"compare": {line.name: line.to_json() for line in lines}}


def find_results(path: Path, config: Config) -> ResultFiles:
    """Where the results of a run, of a bundle in a run, or of a folder or file made by --results are. Raises UserError
    if there are none, or those of several models."""
    run = RunDirectory(path.parents[1] if path.name == "bundle" else path)
    if not run.evals.is_dir():
        return files_in(path, config.split, config.max_examples)
    bundle = resolve_bundle(path)
    return ResultFiles(
        run.evals, bundle.parent.name, config.split, config.max_examples, bundle_fingerprint(bundle)
    )


def find_leakage(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Which test items share 13 words in a row with the training text of the run."""
    manifest = load_manifest(RunDirectory(config.run).data)
    reporter.stage("Leakage", str(config.run))
    test_sets = find_test_sets(eval_folder(config))
    reporter.line(f"Test sets: {', '.join(test_sets)}")
    check = LeakageCheck(test_sets)
    documents = (document.text for document in manifest.read_documents("train"))
    conversations = manifest.read_conversations("train")
    rendered = ("\n".join(message.text for message in one) for one in conversations)
    characters = 0
    with reporter.progress("training text", None, "characters") as bar:
        for read in check.read(chain(documents, rendered)):
            characters += read
            bar.advance(read)
    found = check.report()
    report.show_leakage(found, characters, reporter)
    return {"leakage": found}


def download(config: Config, reporter: Reporter) -> None:
    """Fetch the benchmarks' files that are missing."""
    folder = eval_folder(config)
    missing = [origin for path, origin in origins().items() if not has_file(folder, path)]
    if not missing:
        return
    with reporter.progress("benchmarks", len(missing), "files") as bar:
        for origin in missing:
            try:
                notice = fetch(origin, folder, mirror=config.mirror)
            except UserError as error:
                raise UserError(
                    f"{error}; try again, name a copy with --mirror, or put the files in place by hand "
                    "(docs/evaluation.md has the layout)"
                ) from None
            if notice:
                reporter.notice(notice)
            bar.advance(1)


def eval_folder(config: Config) -> Path:
    """Where the benchmarks' files are, or will be."""
    return expanded(config.eval_data) if config.eval_data else default_folder()
