"""`chatsmith rl`: let a fine-tuned model improve on what can be checked, and write `<run>/rl/bundle`.

Reinforcement learning with verifiable rewards. Each step the model answers a batch of problems several times over,
by the engine, with the calculator at hand; a function says what each reply is worth; and the shared training loop
makes likelier what earned more than the other replies to the same problem (`train/policy_gradient.py` has the
formula). Development problems choose the weights that are kept; test problems are asked once, at the end.
"""

import contextlib
import time
from typing import TYPE_CHECKING

from chatsmith.cli.config import RlConfig as Config

if TYPE_CHECKING:
    from chatsmith.bundle import Bundle
    from chatsmith.data.dataset import DataManifest
    from chatsmith.rl.replay import Replay
    from chatsmith.tasks.problem_set import ProblemSet
    from chatsmith.tasks.reward import Judge

STAGE = "rl"

USUAL_STEPS = 100
"""Where neither steps nor minutes are given."""


def main(config: Config) -> None:
    """Practise, unless the run's model is already what this would make."""
    from chatsmith.bundle import bundle_fingerprint, load_bundle, resolve_bundle
    from chatsmith.data.dataset import load_manifest
    from chatsmith.rl.trainer import Place, Practice
    from chatsmith.runtime.console import Reporter
    from chatsmith.runtime.device import detect_runtime, settled
    from chatsmith.runtime.distributed import process_group
    from chatsmith.runtime.run_directory import RunDirectory, stage_key

    started = time.monotonic()
    run = RunDirectory(config.run)
    runtime = detect_runtime(config.device, config.dtype)
    reporter = Reporter(silent=not runtime.is_main)
    with process_group(runtime), run.lock() if runtime.is_main else contextlib.nullcontext():
        source = resolve_bundle(config.from_) if config.from_ else resolve_bundle(run.stage("sft"))
        judge, reward_fingerprint = find_judge(config)
        problems = find_problems(config)
        manifest = load_manifest(run.data) if config.replay else None
        key = stage_key(
            config,
            bundle=bundle_fingerprint(source),
            problems=problems.fingerprint,
            reward=reward_fingerprint,
            replay=manifest.fingerprint if manifest else "",
        )
        if run.is_done(STAGE, key):
            reporter.line(f"The practised model in {run.bundle(STAGE)} is up to date.")
            return
        start = load_bundle(source, device=runtime.device)
        place = Place(run, runtime, reporter, key, started)
        replay = make_replay(config, start, manifest)
        with settled():
            practice = Practice(config, place, start, problems, judge, replay)
            if runtime.is_main:
                run.keep_settings(STAGE, key, config)
            practice.run_to_the_end()


def find_judge(config: Config) -> "tuple[Judge, str]":
    """The reward that is asked for, and a fingerprint of the file it comes from, if any."""
    from chatsmith.tasks.reward import (
        Judge,
        honest_answer,
        load_reward,
        marked_answer,
        right_answer,
        sound_form,
    )

    form = marked_answer if config.task == "gsm8k" and not config.problems else sound_form
    if config.reward:
        function, fingerprint = load_reward(config.reward)
        return Judge(function, form, config.form_weight), fingerprint
    if config.problems or config.task != "kindergarten":
        return Judge(right_answer, form, config.form_weight), ""
    return Judge(honest_answer, form, config.form_weight, right=right_answer), ""


def find_problems(config: Config) -> "ProblemSet":
    """The problems that are asked for. Raises UserError if there are none."""
    from chatsmith.tasks.benchmark_files import default_folder
    from chatsmith.tasks.problem_set import file_set, gsm8k_set, kindergarten_set

    if config.problems:
        needs_answers = not config.reward
        return file_set(config.problems, config.test_problems, config.seed, needs_answers=needs_answers)
    if config.task == "gsm8k":
        return gsm8k_set(config.eval_data or default_folder(), config.seed)
    return kindergarten_set(config.seed)


def make_replay(config: Config, start: "Bundle", manifest: "DataManifest | None") -> "Replay":
    """The texts on which the model is held to itself: those of the manifest, if there is one."""
    from chatsmith.rl.replay import Replay

    return Replay(
        manifest.read_conversations("train") if manifest else (),
        (document.text for document in manifest.read_documents("train")) if manifest else (),
        start.tokenizer,
        context_length=start.config.context_length,
        seed=config.seed,
    )
