"""Reinforcement learning with verifiable rewards: round after round, from the problems to the best weights.

A round: sample replies to a batch of problems, reward them, turn rewards into advantages, update the weights once or
several times, evaluate now and then, keep the best weights. Development problems decide which weights are best; test
problems are asked once, at the end, of the initial and of the final weights. What a reply is worth, which tool it may
call and where things are kept is handed in.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from chatsmith.bundle import Bundle, load_bundle
from chatsmith.data.problems import Problem, RewardFunction
from chatsmith.engine.backend import Backend
from chatsmith.engine.engine import Engine, Tool
from chatsmith.engine.kv_cache import affordable
from chatsmith.model.gpt import GPT
from chatsmith.rl.objective import (
    Clip,
    RLLoss,
    RolloutBatch,
    Tally,
    TextBatch,
    divergence,
    rollout_batches,
    text_batches,
    with_reference,
)
from chatsmith.rl.rollouts import (
    Group,
    ReplayTexts,
    RolloutWorker,
    metrics_of,
    seeds_of,
    shortened,
    shown_reply,
    sums_of,
)
from chatsmith.runtime.console import Reporter, counted, format_seconds
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_numbers
from chatsmith.train.checkpoint import under
from chatsmith.train.memory import fit_plan
from chatsmith.train.plan import Plan, make_rollout_plan
from chatsmith.train.step import train_step
from chatsmith.train.timing import TimeBudget, trial
from chatsmith.train.trainer import Trainer, TrainingRun, TrainResult, in_words

USUAL_STEPS = 100
"""Rounds where neither steps nor minutes are given."""

MOST_RUNNING = 512
"""Replies the engine writes at once; more would wait for a slot."""

TOKENS_PER_STEP = 2048
"""Of the engine, at least: nobody waits for a single reply."""

MOST_AT_ONCE = 16_384
"""Most tokens that go through the network at once: more take memory, and are no faster."""

ALIKE = 16
"""Rows of a batch, and their lengths, are multiples of this in bf16: on a CPU, oneDNN compiles a product of bf16 for
every number of rows it has not met (4 ms for 0.8 ms of work; docs/lab-log.md)."""

FEW = 16
"""Replies on which the KL is estimated where it is only reported."""

FEWEST_TIMED, MOST_TIMED, TIMED_SHARE = 4, 12, 0.03
"""Rounds that are timed to know how many there is time for: as many as take about this share of it. Rounds differ by
what is asked: three in a row of the kindergarten's took two thirds of the mean, eight four fifths."""

SHOWN = ("reward", "pass_at_1", "equal_groups", "reply_tokens", "entropy", "kl")
"""Metrics beside the progress bar."""

SHOWN_REPLIES = 4


@dataclass(frozen=True)
class RLSettings:
    """What reinforcement learning can be told. A step of the settings is a round of `updates` optimizer steps."""

    steps: int
    """Rounds; 0 means as many as the minutes hold, or USUAL_STEPS."""
    prompts: int
    """Problems a round, over all processes."""
    samples: int
    """Replies to each."""
    max_tokens: int
    """Longest reply, results of the tool included."""
    updates: int
    rate_scale: float
    kl: float
    """Weight of the KL term."""
    clip_low: float
    clip_high: float
    scale_advantage: bool
    blend: float
    """Weight interpolation between the initial (0) and the best weights (1) (WiSE-FT: Wortsman et al. 2022,
    arXiv:2109.01903): below 1, a little less is learned and much less of everything else forgotten."""
    replay: int
    """Replay texts a round, over all processes."""
    replay_weight: float
    evaluations: int
    """How often the development problems are asked along the way."""
    development: int
    """At most how many of them."""
    test: int
    """At most how many test problems; 0 means all."""
    show_every: int
    """Show a few replies every so many rounds; 0 means never."""
    rows_per_microbatch: int
    """Replies in one forward pass; 0 means as many as memory holds."""
    seed: int


class Problems(NamedTuple):
    """The problems to train on, to choose the weights by, and to be judged by."""

    train: Callable[[int], Problem]
    """The problem at an index (0, 1, ...) of an endless order."""
    development: Sequence[Problem]
    test: Sequence[Problem]


class Monitor(Protocol):
    """Looks for what goes wrong in the metrics of each round."""

    counts: dict[str, float]
    """What a resumed run has to know, in a fixed order."""

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """Notices about a round. Raises UserError where nothing can be learned any more."""
        ...


class RLResult(NamedTuple):
    """What came of a run; the model holds the final weights."""

    plan: Plan
    """With the steps that were done."""
    result: TrainResult
    progress: "RLProgress"
    test: Sequence[Problem]
    before: Sequence[float]
    """What the initial weights' replies to the test problems are worth: see `RolloutWorker.scores`."""
    after: Sequence[float]
    """And the final weights'."""


def reinforce(
    run: TrainingRun,
    start: Bundle,
    problems: Problems,
    reward: RewardFunction,
    tool: Tool,
    monitor: Monitor,
    settings: RLSettings,
    *,
    backend: Backend | None = None,
    replay: ReplayTexts | None = None,
    budget: TimeBudget | None = None,
) -> RLResult:
    """Train the model of `start` on `problems`. `backend` is how the engine computes with that model, in the
    runtime's compute type; `replay` gives the texts of `settings.replay`; `budget` says how many rounds there are if
    time decides.

    Raises UserError where `monitor` does, since going on is pointless, else as `Trainer` does.
    """
    runtime, reporter, model = run.runtime, run.reporter, start.model
    model.compute_dtype = runtime.compute_dtype
    reference = None
    if settings.kl or replay:
        reference = load_bundle(start.path, device=runtime.device).model
        reference.compute_dtype = runtime.compute_dtype
    settings, update = replace(settings, rows_per_microbatch=run.rows(settings.rows_per_microbatch)), 0
    max_running = min(replies_of(settings, runtime), MOST_RUNNING)
    if runtime.device.type == "cuda":  # what an update will take besides the weights, the engine leaves free
        rows = settings.rows_per_microbatch or max(1, MOST_AT_ONCE // model.config.context_length)
        plan = _plan(model, 1, replace(settings, rows_per_microbatch=rows), runtime, wanted_steps=0)
        update = plan.foreseen_memory_bytes - sum(weight.nbytes for weight in model.parameters())
    pool = (start.config, runtime.compute_dtype, runtime.device, max_running, update)
    kv_tokens = int(run.once(f"kv_tokens_{max_running}", lambda: affordable(*pool)[1]))
    if runtime.device.type == "cuda":  # it may have been begun on a larger GPU
        kv_tokens = min(kv_tokens, affordable(*pool)[1])
    engine = Engine(
        model,
        start.tokenizer,
        backend=backend,
        tool=tool,
        max_running=max_running,
        kv_tokens=kv_tokens,
        tokens_per_step=TOKENS_PER_STEP,
    )
    worker = RolloutWorker(engine, start.tokenizer, reward, reporter, max_tokens=settings.max_tokens)
    loss = RLLoss(Clip(settings.clip_low, settings.clip_high), settings.kl, reference, settings.replay_weight)
    rounds = Rounds(worker, problems.train, loss, replay, settings, runtime)
    development, test = problems.development[: settings.development], problems.test[: settings.test or None]
    progress = RLProgress(monitor)
    reporter.line(
        f"{settings.prompts} problems with {settings.samples} replies each a step; {engine.describe()}; "
        f"{len(development)} development problems, {len(test)} for the test"
    )

    def count_evaluation(seconds: float) -> None:
        progress.evaluation_seconds += seconds
        if budget:
            budget.evaluation_seconds += seconds

    def evaluate(step: int) -> dict[str, float]:
        started = time.monotonic()
        scores = worker.development_scores(development, settings.samples, settings.seed, runtime)
        progress.consider(model, scores[next(iter(scores))], step)
        count_evaluation(time.monotonic() - started)
        return scores

    scores_before = evaluate(step=0)  # the mark to beat; a resumed run restores its own best weights
    reporter.line(f"Before, on the development problems: {_in_words(scores_before)}")

    asked = settings.steps * settings.updates
    steps = asked or USUAL_STEPS * settings.updates
    if budget:
        held = budget.get("steps") or 0
        if not held:
            reporter.line("Measuring how many steps fit into the time ...")
            held = measure_steps(budget, model, rounds)
        steps = min(held, asked) if asked else held
    plan = _plan(model, steps, settings, runtime, wanted_steps=asked if budget else 0)
    num_rounds = plan.steps // settings.updates
    evaluate_every = (
        settings.updates * math.ceil(num_rounds / settings.evaluations) if settings.evaluations else 0
    )
    trainer = Trainer(run, model, plan, budget=budget, carried=progress)
    with trainer:
        if trainer.step == 0:
            trainer.record(scores_before)
        if trainer.awaits_evaluation:
            trainer.evaluate_if_due(evaluate_every, lambda: evaluate(trainer.step))
            trainer.save_or_stop()
        while not trainer.is_done:
            started = time.perf_counter()
            number = trainer.step // settings.updates
            round = rounds.write(number, plan)
            for update in range(settings.updates):
                if trainer.is_done:
                    break
                trainer.update(round.batches, loss, started)
                seconds, tally = trainer.meter.last_seconds, loss.take_tally()
                if update == 0:
                    metrics = _round_metrics(round, tally, seconds, progress, settings, runtime)
                    for notice in progress.monitor.check(metrics):
                        reporter.notice(notice)
                    if settings.show_every and number % settings.show_every == 0:
                        metrics["shown"] = _show_replies(round.groups, trainer.step, reporter)
                else:
                    metrics = _update_metrics(sum_numbers(tally.sums(), runtime), 0.0, seconds, progress)
                shown = {name: metrics[name] for name in SHOWN if name in metrics} | trainer.scores
                trainer.log(metrics, in_words(shown))
                trainer.correct_steps()
                started = time.perf_counter()
            trainer.evaluate_if_due(evaluate_every, lambda: evaluate(trainer.step))
            trainer.save_or_stop()
    result = trainer.result()

    name, first = next(iter(scores_before.items()))
    reporter.line(
        f"{counted(result.steps, 'step')} in {format_seconds(result.seconds)}; best on the development problems after "
        f"step {progress.best_step:,}: {_in_words({name: progress.best_score})}, {_in_words({name: first})} before"
    )
    initial = (reference or load_bundle(start.path).model).state_dict()
    started = time.monotonic()
    model.load_state_dict(initial)
    before = worker.scores(test, runtime)
    model.load_state_dict(blended(initial, progress.best, settings.blend))
    after = worker.scores(test, runtime)
    count_evaluation(time.monotonic() - started)
    return RLResult(plan.with_steps(result.steps), result, progress, test, before, after)


@dataclass(frozen=True)
class Round:
    """The rollouts of a round on this process, and what is trained on."""

    groups: list[Group]
    batches: list[RolloutBatch | TextBatch]
    """The same for every update."""
    seconds: float
    """What sampling and rewarding took."""
    kl: float | None
    """The sum of the KL estimate over `kl_tokens` tokens; None without a reference."""
    kl_tokens: int


@dataclass(frozen=True)
class Rounds:
    """Writes rounds: their replies, by the model as it is, their rewards and advantages, and the replay texts."""

    worker: RolloutWorker
    problems: Callable[[int], Problem]
    loss: RLLoss
    replay: ReplayTexts | None
    settings: RLSettings
    runtime: Runtime

    def write(self, number: int, plan: Plan) -> Round:
        """This process's share of round `number`."""
        settings, rows, longest = self.settings, plan.rows_per_microbatch, plan.sequence_length
        started = time.perf_counter()
        mine = self._share(settings.prompts, number)
        problems = [self.problems(index) for index in mine]
        groups = self.worker.write(problems, settings.samples, seeds_of(settings.seed, number, mine))
        seconds = time.perf_counter() - started

        replies = [reply for group in groups for reply in group.scored(settings.scale_advantage)]
        multiple = ALIKE if self.runtime.compute_dtype == torch.bfloat16 else 1
        count = replies_of(settings, self.runtime) // rows
        batches = rollout_batches(replies, rows, count, multiple=multiple, most_inputs=longest)
        kl, kl_tokens = None, 0
        if reference := self.loss.reference:
            compared = batches if settings.kl else rollout_batches(replies[:FEW], FEW, 1)
            compared = [with_reference(batch, reference) for batch in compared]
            batches = compared if settings.kl else batches
            sums = [divergence(batch) for batch in compared]
            kl, kl_tokens = sum(kl for kl, _ in sums), sum(count for _, count in sums)

        texts: list[list[int]] = []
        if self.replay and replies:  # where nothing is learned, nothing is forgotten
            texts = self.replay.texts(self._share(settings.replay, number))
        held = text_batches(texts, longest, rows, plan.accumulation - count, multiple=multiple)
        self.loss.expect([*batches, *held], self.runtime)
        return Round(groups, [*batches, *held], seconds, kl, kl_tokens)

    def _share(self, count: int, number: int) -> range:
        """This process's indices in an endless order, of which every round takes `count`."""
        first = number * count
        return range(first + self.runtime.rank, first + count, self.runtime.world_size)


def measure_steps(budget: TimeBudget, model: GPT, rounds: Rounds) -> int:
    """The updates, in whole rounds, that fit into the minutes of `budget`, measured on a few rounds after one that
    warms up; kept as "steps". Leaves the model as it was."""
    runtime, settings = rounds.runtime, rounds.settings
    plan = _plan(model, 1, settings, runtime, wanted_steps=settings.steps * settings.updates)
    endless = plan.with_steps(10**6)
    durations: list[float] = []
    with trial(model, plan, runtime) as optimizer:
        for number in range(MOST_TIMED + 1):
            runtime.synchronize()
            started = time.perf_counter()
            round = rounds.write(number, plan)
            for update in range(1, settings.updates + 1):
                step = number * settings.updates + update
                train_step(model, optimizer, round.batches, endless, rounds.loss, runtime, step)
            runtime.synchronize()
            durations.append(time.perf_counter() - started)
            if number >= FEWEST_TIMED and sum(durations[1:]) > TIMED_SHARE * 60 * budget.minutes:
                break
    rounds.loss.take_tally()
    seconds = sum(durations[1:]) / len(durations[1:])
    return budget.keep("steps", settings.updates * max(1, budget.fitting(0, seconds)))


def replies_of(settings: RLSettings, runtime: Runtime) -> int:
    """The most replies of a round on each process."""
    return settings.samples * math.ceil(settings.prompts / runtime.world_size)


def _plan(model: GPT, steps: int, settings: RLSettings, runtime: Runtime, wanted_steps: int) -> Plan:
    rows = settings.rows_per_microbatch or max(1, MOST_AT_ONCE // model.config.context_length)
    planned = partial(
        make_rollout_plan,
        model.config,
        steps=steps,
        replies=replies_of(settings, runtime),
        world_size=runtime.world_size,
        rate_scale=settings.rate_scale,
        wanted_steps=wanted_steps,
    )
    is_asked = settings.rows_per_microbatch > 0
    fitted = fit_plan(model, planned(rows_per_microbatch=rows), runtime, str, is_asked=is_asked)
    texts = math.ceil(settings.replay / runtime.world_size)
    plan = planned(rows_per_microbatch=fitted.rows_per_microbatch, texts=texts)
    return replace(plan, foreseen_memory_bytes=fitted.foreseen_memory_bytes)


def blended(initial: dict[str, Tensor], best: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The weights that lie `share` of the way from `initial` to `best`, by name; `best` itself for 1."""
    if share == 1:
        return best
    return {name: torch.lerp(initial[name].to(value), value, share) for name, value in best.items()}


class RLProgress:
    """What is kept from step to step besides weights and optimizer, and saved with them: the best weights so far, what
    was spent, and what the monitor has seen."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor = monitor
        self.best: dict[str, Tensor] = {}
        """A copy of the weights that scored best on the development problems."""
        self.best_score = -math.inf
        self.best_step = 0
        self.tokens = 0
        """Sampled tokens that gave a gradient."""
        self.rollout_tokens = 0
        """All tokens of all replies."""
        self.evaluation_seconds = 0.0
        """What asking the development and test problems took, in all sessions."""

    def consider(self, model: GPT, score: float, step: int) -> None:
        """Keep the weights if no earlier ones scored better; of equal ones, the later were trained longer."""
        if score >= self.best_score:
            self.best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            self.best_score, self.best_step = score, step

    def named_state(self) -> dict[str, Tensor]:
        """Everything, by name."""
        numbers = [
            self.best_score,
            self.best_step,
            self.tokens,
            self.rollout_tokens,
            self.evaluation_seconds,
        ]
        state = {f"best.{name}": value for name, value in self.best.items()}
        kept = {"watch": list(self.monitor.counts.values()), "numbers": numbers}
        return state | {name: torch.tensor(one, dtype=torch.float64) for name, one in kept.items()}

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave; seconds counted so far in this session stay counted."""
        self.best_score, *counts = state["numbers"].tolist()
        self.best_step, self.tokens, self.rollout_tokens = map(int, counts[:3])
        self.evaluation_seconds += sum(counts[3:])  # a state of an older chatsmith has none
        self.best = under("best.", state)
        # A state of an older chatsmith has fewer.
        self.monitor.counts |= dict(zip(self.monitor.counts, state["watch"].tolist(), strict=False))


def _round_metrics(
    round: Round, tally: Tally, seconds: float, progress: RLProgress, settings: RLSettings, runtime: Runtime
) -> dict[str, Any]:
    """Of a round and its first update, which took `seconds` together, over all processes."""
    timed = {"kl": round.kl or 0.0, "kl_tokens": round.kl_tokens, "seconds": round.seconds}
    sums = sum_numbers(sums_of(round.groups) | timed | tally.sums(), runtime)
    progress.rollout_tokens += int(sums["tokens"])
    metrics = _update_metrics(sums, round.seconds, seconds, progress) | metrics_of(sums, settings.samples)
    if round.kl is not None:
        metrics["kl"] = sums["kl"] / max(sums["kl_tokens"], 1)
    # Processes write rollouts at the same time, so the time of one is the time of all.
    rollout_seconds = max(sums["seconds"] / runtime.world_size, 1e-9)
    return metrics | {
        "rollout_tokens_per_second": sums["tokens"] / rollout_seconds,
        # Later updates move away from the sampler on purpose; only the first one shows how far it disagrees.
        "drift": sums["drift"] / max(sums["trained"], 1),
        "largest_drift": tally.largest_drift,
    }


def _update_metrics(
    sums: dict[str, float], rollout_seconds: float, seconds: float, progress: RLProgress
) -> dict[str, Any]:
    """Of one update, from sums over all processes; the rollouts took a part of its seconds."""
    progress.tokens += int(sums["trained"])
    trained = max(sums["trained"], 1)
    return {
        "trained_tokens": sums["trained"],
        "clipped": sums["clipped"] / trained,
        "forgotten": sums["held_kl"] / max(sums["held"], 1),
        "rollout_seconds": rollout_seconds,
        "update_seconds": seconds - rollout_seconds,
        "rollout_share": rollout_seconds / seconds,
        "update_tokens_per_second": sums["trained"] / max(seconds - rollout_seconds, 1e-9),
    }


def _show_replies(groups: Sequence[Group], step: int, reporter: Reporter) -> list[dict[str, Any]]:
    """A few of this process's replies with their rewards, as a table; the same for the metrics."""
    shown = [
        {
            "prompt": group.problem.messages[-1].text,
            "reply": shown_reply(group.completions[0]),
            "reward": group.verdicts[0].reward,
            "group": [verdict.reward for verdict in group.verdicts],
        }
        for group in groups[:SHOWN_REPLIES]
    ]
    rows = [
        [
            shortened(one["prompt"]),
            shortened(one["reply"]),
            "failed" if one["reward"] is None else f"{one['reward']:.2f}",
        ]
        for one in shown
    ]
    reporter.table(f"Some replies of step {step:,}", ["problem", "reply", "reward"], rows)
    return shown


def _in_words(scores: Mapping[str, float]) -> str:
    """Development scores, as pass@1 61.3%; of a graded reward as mean reward -48.2 alone. With rewards that failed."""
    failed = scores.get("dev_failed_rewards", 0)
    more = f", {counted(int(failed), 'reward')} failed" if failed else ""
    if "dev_reward" in scores:
        return f"mean reward {scores['dev_reward']:.4g}{more}"
    shown = {name.removeprefix("dev_").replace("_at_", "@"): value for name, value in scores.items()}
    return ", ".join(f"{name} {value:.1%}" for name, value in shown.items() if name.startswith("pass")) + more
