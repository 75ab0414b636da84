"""`chatsmith evaluate`: how good a model is, with how sure that is and what it took.

Suites: `base`, bits per byte on a run's validation text, and CORE where the benchmarks' files are at hand; `core`, the
22 tasks of CORE alone; `chat`, what a model that holds conversations knows and can do; `exam`, the kindergarten's.
`--stages all` measures every stage of a run, `--tasks a,b` some tasks alone. Within a run the results go to
`<run>/evals/` and into the model card, and are not measured again until the model, the data or the settings change. A
bundle that stands alone is measured, and nothing is written unless --results says where.

Two more questions: `--compare A B`, whether a difference between two measured models is real, and `--leakage`, whether
test items stand in the text a run learns from.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from chatsmith.bundle import bundle_fingerprint
from chatsmith.cli.config import EvaluateConfig as Config
from chatsmith.cli.data import eval_folder, fetch_benchmarks
from chatsmith.data.dataset import FILE_NAME, file_sha256, load_manifest
from chatsmith.evals import report, results
from chatsmith.evals.comparison import compare_means, compare_tasks, compare_text, on_different_files
from chatsmith.evals.evaluation import Evaluation
from chatsmith.evals.leakage import LeakageCheck, find_test_sets
from chatsmith.evals.suites import all_tasks, measure, suite_key, tasks_of
from chatsmith.report.model_card import with_scores
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, detect_runtime
from chatsmith.runtime.distributed import main_number, process_group
from chatsmith.runtime.errors import UserError, did_you_mean
from chatsmith.runtime.metrics import open_tracker
from chatsmith.runtime.run_directory import BUNDLE_STAGES, RunDirectory, resolve_bundle, run_of
from chatsmith.tasks.benchmark_files import MissingFileError, has_file

STAGE = "evaluate"
Measured = tuple[str, Evaluation, list[results.SuiteResult]]
"""A stage, what was measured of it, and what came of that."""


def main(config: Config) -> None:
    """Measure, show, and write down. Raises UserError for whatever a person can put right."""
    runtime = detect_runtime(config.device, config.dtype)
    reporter = Reporter(json=config.json, silent=not runtime.is_main)
    with process_group(runtime):
        if config.download:
            if runtime.is_main:
                fetch_benchmarks(eval_folder(config.eval_data), reporter, config.mirror)
            main_number(0.0, runtime)  # the others wait for the files
        if config.compare:
            found = compare(config, reporter)
        elif config.leakage:
            found = find_leakage(config, reporter)
        else:
            try:
                found = evaluate(config, runtime, reporter)
            except MissingFileError as error:
                raise UserError(
                    f"{error} (--download fetches the benchmarks, --eval-data names a folder)"
                ) from None
    reporter.result(found)


def evaluate(config: Config, runtime: Runtime, reporter: Reporter) -> dict[str, Any]:
    """The results that were asked for, shown and written down, as --json prints them: by suite, or with --stages by
    stage and suite."""
    run, models = find_models(config)
    writes = run is not None and runtime.is_main
    is_whole = not (config.max_examples or config.text or config.tasks or config.results)
    found: dict[str, Any] = {}
    measured: list[Measured] = []
    # What is measured already is shown all the same.
    can_write = run is not None and os.access(run.path, os.W_OK)
    with run.lock() if run and writes and can_write else contextlib.nullcontext():
        for stage, model in models.items():
            evaluation = what_to_measure(config, run, stage, model, runtime, reporter)
            suites = choose_suites(config, evaluation, run, stage)
            if not suites:
                continue
            reporter.stage("Evaluate", str(model))
            scored = []
            for suite in suites:
                result = measure(suite, evaluation)
                if runtime.is_main:
                    report.show(result, reporter, is_part=bool(config.tasks))
                scored.append(result)
            if run and writes:
                if config.track != "none":
                    track(config.track, run, stage, scored)
                if is_whole and config.split == "exam" and config.prompts == "own":
                    measured.append((stage, evaluation, scored))
            # Of a single model its bits per byte on training text are not shown.
            trained = {one.suite: {"train": one.train} if one.train else {} for one in scored}
            found[stage] = {one.suite: {**one.result, **trained[one.suite]} for one in scored}
            if not config.stages:
                found = {result.suite: result.result for result in scored}
        if run and measured:
            write_record(run, models, measured)
    return found


def find_models(config: Config) -> tuple[RunDirectory | None, dict[str, Path]]:
    """The run, None for what stands alone, and the models to measure by what they are called there: sft,
    pretrain@2000. Raises UserError if there is none, or a stage has none."""
    if config.hf:
        return None, {config.hf.resolve().name: config.hf.resolve()}
    if not config.stages:
        bundle = resolve_bundle(config.run)
        run, name = run_of(bundle) or (None, bundle.name)
        return run, {name: bundle}
    run = RunDirectory(config.run)
    names = [name for text in config.stages for name in text.split(",") if name]
    if names == ["all"]:
        run.newest_bundle()  # or the error that says that there is none
        names = [name for name in BUNDLE_STAGES if run.bundle(name).is_dir()]
    models = {}
    for name in names:
        if name.partition("@")[0] not in BUNDLE_STAGES:
            raise UserError(
                f"stages takes all, or of {', '.join(BUNDLE_STAGES)} (or a checkpoint, pretrain@1000), not {name!r}",
                setting="stages",
            )
        models[name] = resolve_bundle(run.path / name)
    return run, models


def what_to_measure(
    config: Config,
    run: RunDirectory | None,
    stage: str,
    model: Path,
    runtime: Runtime,
    reporter: Reporter,
) -> Evaluation:
    """The model, how it is asked, and where its results go. Raises UserError if the run's data have changed or cannot
    be read, and are needed. A run that never had data is none of that."""
    manifest = None
    if run and (run.data / FILE_NAME).is_file():
        try:
            manifest = load_manifest(run.data)
        except UserError as error:
            if config.suite in ("auto", "base", "all") and not (config.text or config.tasks):
                raise UserError(
                    f"{error}, or name a suite that does without: --suite exam, core or chat"
                ) from None
            reporter.notice(f"The run's data cannot be used: {error}")
    if config.results:
        try:
            config.results.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"results cannot be written to {config.results} ({error.strerror}); choose another folder"
            ) from None
    # Named text is measured for once: its figure must not pass for the run's own.
    folder = None if config.text else config.results or (run.evals if run else None)
    options = (stage, config.split, config.max_examples)
    taken = ("text", "split", "max_examples", "tries", "prompts", "dtype", "batch_size", "batch_tokens")
    return Evaluation(
        model=model,
        fingerprint=transformers_fingerprint(model) if config.hf else bundle_fingerprint(model),
        runtime=runtime,
        reporter=reporter,
        benchmarks=eval_folder(config.eval_data),
        files=results.ResultFiles(folder, *options, prompts=config.prompts) if folder else None,
        manifest=manifest,
        tokens=run.tokens if run else None,
        is_transformers=config.hf is not None,
        tasks=chosen_tasks(config, is_base=stage.startswith("pretrain")),
        **{name: getattr(config, name) for name in taken},
    )


def chosen_tasks(config: Config, *, is_base: bool) -> tuple[str, ...]:
    """--tasks as SUITE/TASK. What both suites have is asked as the suite says, by default as CORE of a base model and
    as chat of others. Raises UserError for unknown ones."""
    names = {suite: [task.name for task in all_tasks(suite)] for suite in ("core", "chat")}
    names["exam"] = [results.KINDERGARTEN]
    suites = [config.suite] if config.suite in names else ["core", "chat"] if is_base else ["chat", "core"]
    suites += ["exam"] * (config.suite not in names)
    known = {f"{suite}/{name}": f"{suite}/{name}" for suite in names for name in names[suite]}
    known |= {name: f"{suite}/{name}" for suite in reversed(suites) for name in names[suite]}
    asked = [name for text in config.tasks for name in text.split(",") if name]
    for name in asked:
        if name not in known:
            listed = ", ".join(dict.fromkeys(name for suite in suites for name in names[suite]))
            raise UserError(
                f"there is no task {name!r}{did_you_mean(name, known)}; known are {listed}", setting="tasks"
            )
    return tuple(known[name] for name in asked)


def transformers_fingerprint(path: Path) -> str:
    """What is in a checkpoint of the transformers library, as a hash. Raises UserError if there is none."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder with a transformers checkpoint")
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".json", ".safetensors", ".txt", ".model"):
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def choose_suites(config: Config, evaluation: Evaluation, run: RunDirectory | None, stage: str) -> list[str]:
    """The suites to measure. Raises UserError if one was named that there are no data for, or if none was and nothing
    says what the model's run has taught."""
    if config.hf:
        return ["core"]
    if config.text:
        return ["base"]
    if config.tasks:
        return [suite for suite in ("core", "chat", "exam") if f"{suite}/" in " ".join(evaluation.tasks)]
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
    notice = evaluation.reporter.notice
    if not has_text:
        notice("There is no validation text here: bits per byte are left out.")
    # Where all stages are measured, a model that only continues text is asked no questions.
    converses = not (config.stages and stage.startswith("pretrain"))
    suites = ["base"] if has_text else []
    if config.suite == "auto":
        if evaluation.manifest is None or evaluation.was_taught_kindergarten:
            return [*suites, "exam"] if converses else suites
        notice("This model was not taught the kindergarten: its exam is left out (--suite exam asks it).")
        return suites
    asks = config.suite == "all" and converses
    for suite in (["core"] if config.split == "exam" else []) + (["chat"] if asks else []):
        paths = [task.files[evaluation.part] for task in tasks_of(suite, evaluation)]
        missing = [path for path in paths if not has_file(evaluation.benchmarks, path)]
        if missing:
            notice(
                f"The suite {suite} is left out: {missing[0]} is not in {evaluation.benchmarks} "
                "(--download fetches it, --eval-data names another folder)."
            )
        else:
            suites.append(suite)
    return [*suites, "exam"] if asks else suites


def write_record(run: RunDirectory, models: Mapping[str, Path], measured: Sequence[Measured]) -> None:
    """Write whole results of one or several stages into the model cards and the run's record, unless they are there."""
    keys, outputs, facts, before = list[str](), list[Path](), dict[str, Any](), ""
    for stage, evaluation, scored in measured:
        assert evaluation.files is not None
        keys += [suite_key(result.suite, evaluation) for result in scored]
        outputs += [evaluation.files.suite(result.suite) for result in scored]
        words = {name: words for one in scored for name, words in report.in_words(one).items()}
        card = models[stage] / "README.md"
        text = card.read_text(encoding="utf-8") if card.is_file() else ""
        if with_scores(text, words) != text:  # a disk that cannot be written to matters only then
            write_text(card, with_scores(text, words))
        new, seconds = report.facts(scored), facts.pop("seconds", 0)
        earlier = {name if " " in name else f"{before} {name}": value for name, value in facts.items()}
        facts = {**new, **earlier, "seconds": round(seconds + new["seconds"], 2)}  # the last one comes first
        before = stage
    key = results.result_key(keys=keys)
    if not run.is_done(STAGE, key) and not all("@" in stage for stage, _, _ in measured):
        run.mark_done(STAGE, key, facts, outputs=outputs)  # a checkpoint's scores are not the run's


def track(tracker: str, run: RunDirectory, stage: str, scored: Sequence[results.SuiteResult]) -> None:
    """Send the figures and samples of a stage's model to an experiment tracker, at its last step."""
    name, _, step = stage.partition("@")
    at = int(step or (run.done_facts(name) or {}).get("steps", 0))
    with contextlib.closing(open_tracker(tracker, run.path)) as opened:
        for result in scored:
            values = report.numbers(result)
            opened.log(name, at, {f"evaluate/{label}": value for label, value in values.items()})
            replies = [one for one in result.transcript if one.get("section") in results.LENGTHS]
            opened.text(
                name, at, "samples", "\n\n".join(f"{one['prompt']}\n{one['reply']}" for one in replies)
            )


def compare(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Which differences between two measured models are real."""
    one, two = (results.read_results(find_results(path, config)) for path in config.compare)
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


def find_results(path: Path, config: Config) -> results.ResultFiles:
    """Where the results of a run, of a bundle in a run, or of a folder or file made by --results are. Raises UserError
    if there are none, or those of several models."""
    bundle, in_run = path, None
    with contextlib.suppress(UserError):
        bundle = resolve_bundle(path)
        in_run = run_of(bundle)
    if in_run is None or not in_run[0].evals.is_dir():
        return results.files_in(path, config.split, config.max_examples)
    run, name = in_run
    fingerprint = bundle_fingerprint(bundle)
    return results.ResultFiles(
        run.evals, name, config.split, config.max_examples, fingerprint, config.prompts
    )


def find_leakage(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Which test items share 13 words in a row with the training text of the run."""
    manifest = load_manifest(RunDirectory(config.run).data)
    reporter.stage("Leakage", str(config.run))
    test_sets = find_test_sets(eval_folder(config.eval_data))
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
