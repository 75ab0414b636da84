"""`chatsmith rl`: reinforcement learning with verifiable rewards (GRPO), and write `<run>/rl/bundle`.

Each step the model answers a batch of problems several times over, with the calculator at hand; a function says what
each reply is worth; and an update makes likelier what earned more than the other replies to the same problem
(`chatsmith/rl/objective.py` has the formula). The test at the end goes to `<run>/evals/rl.json`.
"""

import json

from chatsmith.backends import choose_backend
from chatsmith.bundle import Bundle, bundle_fingerprint
from chatsmith.cli.config import RlConfig as Config
from chatsmith.cli.data import eval_folder
from chatsmith.cli.training import facts_of, load_start, training_stage
from chatsmith.data.dataset import DataManifest, load_manifest
from chatsmith.evals.before_after import BeforeAfter
from chatsmith.rl.rollouts import ReplayTexts, fits
from chatsmith.rl.trainer import Problems, RLSettings, reinforce
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.device import settled
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.tasks.problem_set import ProblemSet, file_set, gsm8k_set
from chatsmith.tasks.reward_monitor import RewardMonitor
from chatsmith.tasks.rewards import Judge, honest_answer, load_reward, marked_answer, right_answer, sound_form
from chatsmith.tools.calculator import calculator_tool
from chatsmith.worlds.kindergarten.exam import rl_problem_set


def main(config: Config) -> None:
    """Train on problems, unless the run's model is already what this would make."""
    with training_stage("rl", config) as stage:
        run, runtime = stage.run, stage.runtime
        source = resolve_bundle(config.from_ or run.stage("sft"))
        reward, reward_fingerprint = find_reward(config)
        found = find_problems(config)
        manifest = load_manifest(run.data) if config.replay else None
        if stage.is_up_to_date(
            bundle=bundle_fingerprint(source),
            problems=found.fingerprint,
            reward=reward_fingerprint,
            replay=manifest.fingerprint if manifest else "",
        ):
            return

        start = load_start(source, runtime.device)
        start.model.compute_dtype = runtime.compute_dtype
        context_length = start.config.context_length
        fitting = found.fitting(
            lambda problem: fits(problem, start.tokenizer, context_length, config.max_tokens)
        )
        training = stage.training_run(start.tokenizer)
        budget = stage.budget(
            training,
            evaluations_come_on_top=True,
            steps_per_round=config.updates,
            most_steps=config.steps * config.updates,
        )
        stage.reporter.stage("Reinforcement learning", f"{source}, on {runtime.describe()}")
        with settled():
            plan, result, progress, test, before, after = reinforce(
                training,
                start,
                Problems(fitting.train, fitting.development, fitting.test),
                reward,
                calculator_tool,
                RewardMonitor(config.give_up_after, config.max_tokens),
                stage.settings(RLSettings),
                backend=choose_backend(start.model),
                replay=find_replay(config, start, manifest) if manifest else None,
                budget=budget,
            )
        if runtime.is_main:
            tested = BeforeAfter(test, before, after)
            tested.show(stage.reporter)
            facts = tested.facts() | facts_of(training, plan, result, start.model)
            for name in ("loss", "tokens_per_second", "share_of_peak"):  # they say nothing here
                del facts[name]
            facts |= {
                "tokens": progress.tokens,
                "rollout_tokens": progress.rollout_tokens,
                "best_step": progress.best_step,
                "practice_seconds": round(facts["seconds"] - progress.evaluation_seconds, 1),
            }
            task = {"key": stage.key, "task": str(config.problems or config.task), "seed": config.seed}
            path = run.evals / "rl.json"
            content = {**task, **tested.to_json(), "facts": facts}
            write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            summary = (
                "A small assistant: pretrained on text, fine-tuned on conversations, then trained by reinforcement "
                "learning on problems whose answers a program checks."
            )
            stage.finish(start.model, start.tokenizer, plan, facts, summary, [path])


def find_reward(config: Config) -> tuple[Judge, str]:
    """The reward that is asked for, and a fingerprint of the file it comes from, if any."""
    form = marked_answer if config.task == "gsm8k" and not config.problems else sound_form
    if config.reward:
        function, fingerprint = load_reward(config.reward)
        return Judge(function, form, config.form_weight), fingerprint
    if config.problems or config.task != "kindergarten":
        return Judge(right_answer, form, config.form_weight), ""
    return Judge(honest_answer, form, config.form_weight, right=right_answer), ""


def find_problems(config: Config) -> ProblemSet:
    """The problems that are asked for. Raises UserError if there are none."""
    if config.problems:
        needs_answers = not config.reward
        return file_set(config.problems, config.test_problems, config.seed, needs_answers=needs_answers)
    if config.task == "gsm8k":
        return gsm8k_set(eval_folder(config.eval_data), config.seed)
    return rl_problem_set(config.seed)


def find_replay(config: Config, start: Bundle, manifest: DataManifest) -> ReplayTexts:
    """The run's own texts, of which nothing is to be forgotten."""
    return ReplayTexts(
        manifest.read_conversations("train"),
        (document.text for document in manifest.read_documents("train")),
        start.tokenizer,
        context_length=start.config.context_length,
        seed=config.seed,
    )
