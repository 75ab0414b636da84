"""`chatsmith rl`: reinforcement learning with verifiable rewards (GRPO), and write `<run>/rl/bundle`.

Each step the model answers a batch of problems several times over, with the calculator at hand; a function says what
each reply is worth; and an update makes likelier what earned more than the other replies to the same problem
(`chatsmith/rl/objective.py` has the formula). The test at the end goes to `<run>/evals/rl.json`.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from chatsmith.backends import choose_backend
from chatsmith.bundle import Bundle, bundle_fingerprint, load_bundle
from chatsmith.cli.training import (
    exclusive,
    facts_of,
    finish,
    save_trained,
    settings_from,
    time_budget,
    training_run,
)
from chatsmith.data.dataset import DataManifest, load_manifest
from chatsmith.evals.before_after import BeforeAfter
from chatsmith.rl.rollouts import ReplayTexts, fits
from chatsmith.rl.trainer import Problems, RLSettings, reinforce
from chatsmith.runtime.atomic import write_text
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.garbage import settled
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle, stage_key
from chatsmith.tasks.benchmark_files import default_folder
from chatsmith.tasks.problem_set import ProblemSet, file_set, gsm8k_set
from chatsmith.tasks.reward import Judge, honest_answer, load_reward, marked_answer, right_answer, sound_form
from chatsmith.tools.calculator import calculator_tool
from chatsmith.worlds.kindergarten.rl_problems import rl_problem_set

STAGE = "rl"


@dataclass(frozen=True)
class Config:
    """Improve a fine-tuned model on problems whose answers a program can check."""

    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset(
        {
            "track",
            "save_minutes",
            "rows_per_microbatch",
            "eval_data",
            "show_every",
            "give_up_after",
            "problems",
            "test_problems",
        }
    )

    run: Path = Path("runs/kindergarten")
    """The run directory."""
    from_: Path | None = None
    """The bundle to start from; by default the run's fine-tuned model."""
    task: Literal["kindergarten", "gsm8k"] = "kindergarten"
    """Where the problems come from."""
    problems: Path | None = None
    """Problems of your own instead, as JSON lines with "prompt" and "answer"; a part of them is held out."""
    test_problems: Path | None = None
    """Problems for the test at the end; by default another part of --problems."""
    eval_data: Path | None = None
    """The folder of the benchmarks, for gsm8k; by default the cache of downloads."""
    reward: str = ""
    """A reward of your own, path.py:function, called with (problem, reply); by default 1 for a right answer."""
    form_weight: float = 0.0
    """Added to the reward, times 1 for good form: an end, calls of the calculator that work, `####` in gsm8k."""
    steps: int = 0
    """Batches of rollouts, at most; 0 means as many as `minutes` hold, or 100 where they are not given either."""
    minutes: float = 0.0
    """The horizon in minutes of this machine, without evaluations; 0 means not by time."""
    prompts: int = 32
    """Problems a step, over all processes."""
    samples: int = 8
    """Replies to each problem."""
    max_tokens: int = 256
    """Longest reply, results of the calculator included."""
    updates: int = 1
    """Updates of the weights from one batch of rollouts."""
    rate_scale: float = 0.05
    """Multiplies all learning rates of the plan; where `minutes` hold fewer than `steps`, up to twice as much."""
    kl: float = 0.0
    """How strongly the model is held near the one it began as."""
    clip_low: float = 0.2
    """How far below 1 the ratio of a token's new to its old probability counts, with several updates."""
    clip_high: float = 0.28
    """How far above 1 it counts."""
    scale_advantage: bool = False
    """Divide advantages by the standard deviation of their group."""
    blend: float = 1.0
    """How far the kept weights go from where practising began (0) to the best ones (1): below 1, a little less is
    learned and much less of everything else forgotten (Wortsman et al. 2022, arXiv:2109.01903)."""
    replay: int = 0
    """Texts of the run's data a step, half conversations and half documents, over all processes, that the model shall
    not find less likely than before, so that the rest is not forgotten (Li & Hoiem 2016, arXiv:1606.09282)."""
    replay_weight: float = 2.0
    """How strongly: what is forgotten, in nats a token, weighs so many times what is gained, in reward a token."""
    evaluations: int = 4
    """How often the development problems are asked along the way."""
    development: int = 200
    """At most how many of them."""
    test: int = 0
    """At most how many test problems are asked at the end; 0 means all."""
    give_up_after: int = 10
    """Stop after so many steps in which no reply earned anything."""
    show_every: int = 10
    """Show a few replies with their rewards every so many steps; 0 never."""
    rows_per_microbatch: int = 0
    """Replies that go through the network at once; 0 means as many as memory holds."""
    seed: int = 1
    """Decides the problems, their order, and what is sampled."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """What activations are computed in; auto: bf16 where the hardware multiplies it."""
    save_minutes: float = 5.0
    """Save the training state this often."""
    track: Literal["none", "wandb", "tensorboard", "trackio"] = "none"
    """Send the metrics somewhere besides metrics.jsonl."""

    def __post_init__(self) -> None:
        for name in ("prompts", "max_tokens", "updates", "development", "give_up_after"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.samples < 2:
            raise UserError(f"samples is {self.samples}; replies are compared, so it must be at least 2")
        for name in ("steps", "test", "replay", "evaluations", "show_every", "rows_per_microbatch", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it cannot be negative")
        for name in ("minutes", "kl", "form_weight", "clip_high"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a number, and not negative")
        if not 0 <= self.clip_low < 1:
            raise UserError(f"clip_low is {self.clip_low}; it must be at least 0 and below 1")
        if not 0 < self.blend <= 1:
            raise UserError(f"blend is {self.blend}; it must be above 0 and at most 1")
        for name in ("rate_scale", "replay_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        if not self.save_minutes > 0:
            raise UserError(f"save_minutes is {self.save_minutes}; it must be above 0")
        if self.test_problems and not self.problems:
            raise UserError("--test-problems goes with --problems; give both")


def main(config: Config) -> None:
    """Train on problems, unless the run's model is already what this would make."""
    started = time.monotonic()
    run = RunDirectory(config.run)
    with exclusive(run, config.device, config.dtype) as (runtime, reporter):
        source = resolve_bundle(config.from_ or run.stage("sft"))
        reward, reward_fingerprint = find_reward(config)
        found = find_problems(config)
        manifest = load_manifest(run.data) if config.replay else None
        key = stage_key(
            config,
            bundle=bundle_fingerprint(source),
            problems=found.fingerprint,
            reward=reward_fingerprint,
            replay=manifest.fingerprint if manifest else "",
        )
        if run.is_done(STAGE, key):
            reporter.line(f"The model in {run.bundle(STAGE)} is up to date.")
            return

        start = load_bundle(source, device=runtime.device)
        start.model.compute_dtype = runtime.compute_dtype
        context_length = start.config.context_length
        fitting = found.fitting(
            lambda problem: fits(problem, start.tokenizer, context_length, config.max_tokens)
        )
        training = training_run(run, STAGE, key, config, runtime, reporter, started)
        budget = time_budget(
            run,
            training,
            config.minutes,
            evaluations_come_on_top=True,
            steps_per_round=config.updates,
            most_steps=config.steps * config.updates,
        )
        reporter.stage("Reinforcement learning", f"{source}, on {runtime.describe()}")
        with settled():
            plan, result, progress, test, before, after = reinforce(
                training,
                start,
                Problems(fitting.train, fitting.development, fitting.test),
                reward,
                calculator_tool,
                settings_from(config, RLSettings),
                backend=choose_backend(start.model),
                replay=find_replay(config, start, manifest) if manifest else None,
                budget=budget,
            )
        if runtime.is_main:
            tested = BeforeAfter(test, before, after)
            tested.show(reporter)
            facts = tested.facts() | facts_of(training, plan, result)
            for name in ("loss", "tokens_per_second", "share_of_peak"):  # they say nothing here
                del facts[name]
            facts |= {
                "tokens": progress.tokens,
                "rollout_tokens": progress.rollout_tokens,
                "best_step": progress.best_step,
                "practice_seconds": round(facts["seconds"] - progress.evaluation_seconds, 1),
            }
            summary = (
                "A small assistant: pretrained on text, fine-tuned on conversations, then trained by reinforcement "
                "learning on problems whose answers a program checks."
            )
            save_trained(
                run, STAGE, start.model, start.tokenizer, plan, facts, summary=summary, seed=config.seed
            )
            task = {"key": key, "task": str(config.problems or config.task), "seed": config.seed}
            path = run.evals / "rl.json"
            content = {**task, **tested.to_json(), "facts": facts}
            write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
            finish(run, STAGE, key, facts, [path])


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
        return gsm8k_set(config.eval_data or default_folder(), config.seed)
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
