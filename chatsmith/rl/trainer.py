"""One run of reinforcement learning, from the problems to the bundle: what `chatsmith rl` does once all is found.

It ties the parts together: the roller writes and judges replies, the objective and the shared loop learn from them,
development problems say which weights to keep, the watch says what goes wrong.
"""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from chatsmith.bundle import Bundle, load_bundle
from chatsmith.cli.rl import STAGE, USUAL_STEPS, Config
from chatsmith.data.problems import Problem
from chatsmith.engine.request import Completion
from chatsmith.model.gpt import GPT
from chatsmith.rl.exam import TestResult, ask_test, write_test
from chatsmith.rl.objective import (
    Clip,
    Distillation,
    PolicyGradient,
    PracticeLoss,
    RolloutBatch,
    TextBatch,
    divergence,
    rollout_batches,
    text_batches,
    with_reference,
)
from chatsmith.rl.progress import Progress, blended
from chatsmith.rl.replay import Replay
from chatsmith.rl.reward_monitor import Watch
from chatsmith.rl.rollouts import (
    Group,
    Roller,
    development_scores,
    figures_of,
    seeds_of,
    sums_of,
)
from chatsmith.rl.samples import failure_in_words, percents, reward_in_words, short, shown_replies
from chatsmith.runtime.console import Reporter, format_seconds
from chatsmith.runtime.device import Runtime, free_memory
from chatsmith.runtime.distributed import sum_numbers
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.tasks.problem_set import ProblemSet
from chatsmith.tasks.reward import Judge
from chatsmith.text.chat import render_prompt
from chatsmith.train.calibrate import TimeBudget, step_durations
from chatsmith.train.memory import affordable_tokens
from chatsmith.train.plan import Plan, make_rollout_plan
from chatsmith.train.session import Session, correction, facts_of, finish, horizon, save_trained
from chatsmith.train.trainer import Hooks, TrainResult

MOST_RUNNING = 512
"""Replies the engine writes at once; more would wait for a place."""

MOST_AT_ONCE = 16_384
"""Most tokens that go through the network at once: more take memory, and are no faster."""

ALIKE = 16
"""Rows of a batch, and their places, are multiples of this in bf16: on a CPU, oneDNN compiles a product of bf16 for
every number of rows it has not met (4 ms for 0.8 ms of work; docs/lab-log.md)."""

FEW = 16
"""Replies on which the KL is estimated when it is only to be told."""

FEWEST_TIMED, MOST_TIMED, TIMED_SHARE = 4, 12, 0.03
"""Rounds that are timed to know how many there is time for: as many as take about this share of it. Rounds differ by
what is asked: three in a row of the kindergarten's took two thirds of the mean, eight four fifths."""

FAILURES_TOLD = 3


@dataclass(frozen=True)
class Place:
    """Where a run's outputs go, and who is told."""

    run: RunDirectory
    runtime: Runtime
    reporter: Reporter
    key: str
    started: float


@dataclass(frozen=True)
class Round:
    """What one batch of rollouts on this process was."""

    groups: list[Group]
    seconds: float
    kl: float
    """The sum of the KL estimate over `kl_tokens` tokens."""
    kl_tokens: int

    def sums(self) -> dict[str, float]:
        """To be added up over processes."""
        return sums_of(self.groups, self.seconds) | {"kl": self.kl, "kl_tokens": self.kl_tokens}


class Practice:
    """The run. `run_to_the_end` is all there is to call."""

    def __init__(
        self,
        config: Config,
        place: Place,
        start: Bundle,
        problems: ProblemSet,
        judge: Judge,
        replay: Replay,
    ) -> None:
        self.config, self.place, self.runtime, self.reporter = config, place, place.runtime, place.reporter
        self.source, self.tokenizer, self.model = start.path, start.tokenizer, start.model
        self.reference = load_bundle(start.path, device=place.runtime.device).model
        for model in (self.model, self.reference):
            model.compute_dtype = self.runtime.compute_dtype
        self.problems, self.judge = problems.fitting(self._fits), judge
        self.replay = replay
        self.development = self.problems.development[: config.development]
        self.test = problems.test[: config.test or None]
        self.loss = PracticeLoss(
            PolicyGradient(Clip(config.clip_low, config.clip_high), config.kl),
            Distillation(self.reference, config.replay_weight),
        )
        self.progress = Progress(Watch(config.give_up_after, config.max_tokens))
        self.roller = self._roller(self.model)
        self.round = Round([], 0.0, 0.0, 0)
        self.step = 0
        self.failures_told = 0
        self.budget = TimeBudget(config.minutes, place.started, evaluations_come_on_top=True)
        self.score_before = 0.0
        self.is_measured = False
        """Is the horizon in time, and new?"""

    def run_to_the_end(self) -> None:
        """Practise, test, and write the bundle. Raises UserError where practising is pointless."""
        config, place = self.config, self.place
        self.reporter.stage("Reinforcement learning", f"{self.source}, on {self.runtime.describe()}")
        self.reporter.line(
            f"{config.prompts} problems with {config.samples} replies each a step; {self.roller.describe()}; "
            f"{len(self.development)} development problems, {len(self.test)} for the test"
        )
        scores = self._score_the_beginning()
        plan = self._plan(self._horizon())
        rounds = plan.steps // config.updates
        hooks = Hooks(
            evaluate=self._evaluate,
            evaluate_every=config.updates * math.ceil(rounds / config.evaluations)
            if config.evaluations
            else 0,
            save_seconds=60 * config.save_minutes,
            save_every=config.updates,
            figures=self._figures,
            shown=("reward", "pass_at_1", "reply_tokens", "entropy", "kl"),
            correct=correction(
                place.run, STAGE, place.key, self.runtime, self._steps_held if self.is_measured else None
            ),
        )
        session = Session.of(
            place.run, STAGE, place.key, self.runtime, self.reporter, config.track, place.started
        )
        result = session.train(
            self.model, plan, lambda row: self._batches(plan, row), self.loss, hooks, self.progress, scores
        )
        self._finish(replace(plan, steps=result.steps), result)

    def _roller(self, model: GPT) -> Roller:
        return Roller(
            model,
            self.tokenizer,
            self.judge,
            max_tokens=self.config.max_tokens,
            max_running=min(self._replies, MOST_RUNNING),
            on_failure=self._tell_failure,
        )

    @property
    def _replies(self) -> int:
        """Replies that a process writes in a round, at most."""
        return self.config.samples * math.ceil(self.config.prompts / self.runtime.world_size)

    def _fits(self, problem: Problem) -> bool:
        """Whether a reply has room behind the prompt: all it may take, or a quarter of the context."""
        context = self.model.config.context_length
        room = min(self.config.max_tokens, context // 4)
        return len(render_prompt(problem.messages, self.tokenizer)) + room <= context

    def _plan(self, steps: int) -> Plan:
        config, shape, runtime = self.config, self.model.config, self.runtime
        at_once = affordable_tokens(shape, runtime.compute_dtype, free_memory(runtime.device))
        return make_rollout_plan(
            shape,
            steps=steps,
            replies=self._replies,
            texts=math.ceil(config.replay / runtime.world_size),
            rows_per_microbatch=config.rows_per_microbatch
            or min(at_once, MOST_AT_ONCE) // shape.context_length,
            world_size=runtime.world_size,
            rate_scale=config.rate_scale,
            wanted_steps=config.steps * config.updates if config.minutes else 0,
        )

    def _horizon(self) -> int:
        """Updates to make: as many as are given, or as the minutes hold, if that is less; what they hold is measured
        once for these settings."""
        config, place = self.config, self.place
        if not config.minutes:
            return (config.steps or USUAL_STEPS) * config.updates
        held = horizon(place.run, STAGE, "steps", place.key, self.runtime, self._measured_horizon)
        return min(held, config.steps * config.updates) if config.steps else held

    def _measured_horizon(self) -> int:
        self.reporter.line("Measuring how far the time reaches ...")
        self.is_measured = True
        plan, updates = self._plan(1), self.config.updates
        # Of a round's updates the first waits for the replies, and the others do not: whole rounds are timed.
        durations = step_durations(
            self.model,
            plan,
            self._batches(plan, 0),
            self.loss,
            self.runtime,
            timed_steps=MOST_TIMED * updates,
            fewest_steps=FEWEST_TIMED * updates,
            enough_seconds=TIMED_SHARE * 60 * self.config.minutes,
        )
        self.loss.take_tally()
        whole = len(durations) // updates * updates
        seconds = sum(durations[:whole]) / whole * updates
        return updates * max(1, self.budget.steps(0, seconds))

    def _steps_held(self, step: int, step_seconds: float) -> int:
        """Updates that the minutes hold, at the pace so far: whole rounds, and not more than were asked for."""
        updates, asked = self.config.updates, self.config.steps * self.config.updates
        steps = self.budget.steps(step, step_seconds)
        held = math.ceil(steps / updates) * updates
        return min(held, asked) if asked else held

    def _batches(self, plan: Plan, start_row: int) -> Iterator[RolloutBatch | TextBatch]:
        """The batches of all rounds from the one that begins at `start_row` on; a round is written when it is asked
        for, by the model as it is then."""
        updates = self.config.updates
        self.step = start_row // plan.rows_per_step
        for number in itertools.count(self.step // updates):
            batches = self._roll_out(plan, number)
            for _ in range(updates):
                yield from batches

    def _roll_out(self, plan: Plan, number: int) -> list[RolloutBatch | TextBatch]:
        """This process's share of round `number`, as batches."""
        config, places = self.config, self._share(self.config.prompts, number)
        started = time.perf_counter()
        problems = [self.problems.train(place) for place in places]
        groups = self.roller.write(problems, config.samples, seeds_of(config.seed, number, places))
        seconds = time.perf_counter() - started
        replies = [reply for group in groups for reply in group.scored(config.scale_advantage)]
        multiple, longest = ALIKE if self.runtime.compute_dtype == torch.bfloat16 else 1, plan.sequence_length
        rows, count = plan.rows_per_microbatch, self._replies // plan.rows_per_microbatch
        batches = rollout_batches(replies, rows, count, multiple=multiple, most_inputs=longest)
        # Where nothing is learnt, nothing is forgotten.
        texts = self.replay.texts(self._share(config.replay, number)) if replies else []
        held = text_batches(texts, longest, rows, plan.accumulation - count, multiple=multiple)
        compared = batches if config.kl else rollout_batches(replies[:FEW], FEW, 1)
        compared = [with_reference(batch, self.reference) for batch in compared]
        batches = compared if config.kl else batches
        found = [divergence(batch) for batch in compared]
        self.round = Round(groups, seconds, sum(kl for kl, _ in found), sum(count for _, count in found))
        self.loss.expect([*batches, *held], self.runtime)
        return [*batches, *held]

    def _share(self, count: int, number: int) -> range:
        """This process's places in an endless order, of which every round takes `count`."""
        first = number * count
        return range(first + self.runtime.rank, first + count, self.runtime.world_size)

    def _figures(self, seconds: float) -> dict[str, Any]:
        """What the step just done was like, over all processes; and what the watch has to say."""
        config = self.config
        is_first_update = self.step % config.updates == 0
        self.step += 1
        tally, held = self.loss.take_tally()
        sums = sum_numbers(self.round.sums() | tally.sums() | held, self.runtime)
        trained = max(sums["trained"], 1)
        rollout_seconds = self.round.seconds if is_first_update else 0.0
        figures: dict[str, Any] = {
            "trained_tokens": sums["trained"],
            "clipped": sums["clipped"] / trained,
            "forgotten": sums["held_kl"] / max(sums["held"], 1),
            "rollout_seconds": rollout_seconds,
            "update_seconds": seconds - rollout_seconds,
            "rollout_share": rollout_seconds / seconds,
            "update_tokens_per_second": sums["trained"] / max(seconds - rollout_seconds, 1e-9),
        }
        self.progress.tokens += int(sums["trained"])
        if not is_first_update:
            return figures
        self.progress.rollout_tokens += int(sums["tokens"])
        figures |= figures_of(sums, config.samples, self.runtime.world_size)
        # Later updates move away from the sampler on purpose; only the first one shows what it disagrees by.
        figures |= {"drift": sums["drift"] / trained, "largest_drift": tally.largest_drift}
        for notice in self.progress.watch.look(figures):
            self.reporter.notice(notice)
        if config.show_every and (self.step - 1) // config.updates % config.show_every == 0:
            figures["shown"] = self._show_replies()
        return figures

    def _show_replies(self) -> list[dict[str, Any]]:
        """A few of this process's replies with their rewards: shown, and given for the metrics."""
        shown = shown_replies(self.round.groups)
        rows = [[short(one["prompt"]), short(one["reply"]), reward_in_words(one["reward"])] for one in shown]
        self.reporter.table(f"Some replies of step {self.step:,}", ["problem", "reply", "reward"], rows)
        return shown

    def _score_the_beginning(self) -> dict[str, float]:
        """The development scores before any step: the mark to beat. A resumed run has its own saved marks."""
        scores = self._development_scores()
        self.score_before = scores["dev_pass_at_1"]
        self.progress.consider(self.model, self.score_before, step=0)
        self.reporter.line(f"Before: {percents(scores)} of the development problems")
        return scores

    def _evaluate(self) -> dict[str, float]:
        scores = self._development_scores()
        self.progress.consider(self.model, scores["dev_pass_at_1"], self.step)
        return scores

    def _development_scores(self) -> dict[str, float]:
        started = time.monotonic()
        config = self.config
        scores = development_scores(self.roller, self.development, config.samples, config.seed, self.runtime)
        self._count_evaluation(time.monotonic() - started)
        return scores

    def _count_evaluation(self, seconds: float) -> None:
        self.budget.evaluation_seconds += seconds
        self.progress.evaluation_seconds += seconds

    def _tell_failure(self, problem: Problem, completion: Completion, reason: str) -> None:
        """Show the first few replies whose reward could not be had."""
        self.failures_told += 1
        if self.failures_told <= FAILURES_TOLD:
            self.reporter.notice(failure_in_words(problem, completion, reason))
        if self.failures_told == FAILURES_TOLD:
            self.reporter.notice("further ones are only counted: failed_rewards in metrics.jsonl")

    def _finish(self, plan: Plan, result: TrainResult) -> None:
        """The best weights, or a blend of them with those of the beginning, are tested beside the latter, and written
        as the stage's bundle."""
        place, progress = self.place, self.progress
        self.model.load_state_dict(blended(self.reference.state_dict(), progress.best, self.config.blend))
        self.reporter.line(
            f"{plan.steps:,} steps in {format_seconds(result.seconds)}; best on the development problems after step "
            f"{progress.best_step:,}: {progress.best_score:.1%} right, {self.score_before:.1%} before"
        )
        started = time.monotonic()
        before = ask_test(self._roller(self.reference), self.test, self.runtime)
        after = ask_test(self.roller, self.test, self.runtime)
        self._count_evaluation(time.monotonic() - started)
        if not self.runtime.is_main:
            return
        tested = TestResult(self.test, before, after)
        tested.show(self.reporter)
        seconds = time.monotonic() - place.started
        facts = tested.facts() | facts_of(result, plan, seconds, self.runtime)
        for name in ("loss", "tokens_per_second", "share_of_peak"):  # they say nothing here
            del facts[name]
        facts |= {
            "tokens": progress.tokens,
            "rollout_tokens": progress.rollout_tokens,
            "best_step": progress.best_step,
            "practice_seconds": round(facts["seconds"] - progress.evaluation_seconds, 1),
        }
        save_trained(
            place.run,
            STAGE,
            self.model,
            self.tokenizer,
            summary="A small assistant: pretrained on text, fine-tuned on conversations, then practised on problems "
            "whose answers a program checks.",
            plan=plan,
            facts=facts,
            seed=self.config.seed,
            tokens=progress.tokens,
        )
        task = str(self.config.problems or self.config.task)
        path = write_test(place.run, place.key, tested, task=task, seed=self.config.seed, facts=facts)
        finish(place.run, STAGE, place.key, facts, outputs=[place.run.bundle(STAGE), path])
