"""One trainer for pretraining, fine-tuning and reinforcement learning.

    with trainer:                                # resumes a saved state; from here on Ctrl-C saves and stops
        while not trainer.is_done:
            started = time.perf_counter()
            batches = ...                        # fetch
            trainer.update(batches, loss, started)   # losses, gradients, their sum over processes, update
            trainer.log(metrics, shown)
            trainer.correct_steps()              # where the budget is in minutes
            trainer.evaluate_if_due(every, evaluate)
            trainer.save_or_stop()

`fit` is this loop for pretraining and fine-tuning, whose batches are there beforehand, and `train` what both do
before it; reinforcement learning (`rl/trainer.py`) writes its batches between the updates. Where things are kept, the
caller says.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal

import torch
from torch import Tensor

from chatsmith.data.packing import Batch, RowStream
from chatsmith.model.config import model_cost
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import ChunkGradient, chunk_gradient
from chatsmith.optim.sharded import make_optimizer
from chatsmith.runtime.console import Reporter, counted, differences, format_bytes, format_seconds
from chatsmith.runtime.device import Runtime, gemm_peak, peak_memory_bytes, settled
from chatsmith.runtime.distributed import main_number, max_number, sum_number, sum_numbers
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.metrics import MetricsLog
from chatsmith.runtime.signals import SIGNALS, StoppedError, stop_request
from chatsmith.runtime.states import AfterSave, StateWriter, wait_for_room
from chatsmith.train.checkpoint import (
    Carried,
    Progress,
    TrainingKey,
    check_other_states,
    keep_records,
    restore_training,
    save_training,
    under,
)
from chatsmith.train.memory import fit_plan
from chatsmith.train.plan import Plan, make_plan
from chatsmith.train.step import (
    B,
    ComputeLoss,
    NonFiniteLossError,
    Notch,
    expected_seconds,
    prepare,
    train_step,
)
from chatsmith.train.timing import TimeBudget, seconds_per_step


@dataclass(frozen=True)
class TrainingRun:
    """What identifies a run, where it keeps its state and its metrics, and what it runs on."""

    stage: str
    """Its name in the metrics."""
    key: str
    """The identity of its settings and data: a state saved under another key is not resumed."""
    state_folder: Path
    metrics_path: Path
    runtime: Runtime
    reporter: Reporter
    track: str | None = None
    """An experiment tracker's name."""
    save_seconds: float = 300.0
    """Save when at least this long has passed since the last time."""
    on_bad_loss: Literal["stop", "back"] = "stop"
    """After MOST_REFUSED steps in a row whose loss was refused: stop, or go back to the last saved state and on from
    there with half the learning rate."""
    disk_wait_seconds: float = 0.0
    """How long to wait for room on a full disk."""
    on_save: str = ""
    """A shell command that runs after each save, with the state's folder in $CHATSMITH_STATE."""
    started: float = field(default_factory=time.monotonic)
    """When the command began, by `time.monotonic()`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those it is to be compared by with other runs, and that a tracker shows."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """What was chosen by the memory and the speed of the machine that began the run. Chosen again where it resumes,
    with other memory free, sums would be in another order, and their last digits others."""
    gradient_of: ChunkGradient = chunk_gradient
    """How the loss of a chunk is computed on this device."""
    place: Callable[[GPT, Runtime], object] = lambda model, runtime: model.to(runtime.device)
    """Puts the weights where they train."""
    adjust: Callable[[GPT], None] = lambda model: None
    """Changes how a model computes before it is trained."""
    describe: Callable[[GPT, list[Any], ComputeLoss[Any]], list[str]] = lambda model, batches, loss: []
    """What to say about the batches of a step that was left out for its loss; on all processes."""
    after_step: Callable[[GPT, int], dict[str, float]] = lambda model, step: {}
    """What else is to be done with the model after a step, on all processes; scores that come of it are recorded."""
    sample: Callable[[GPT], Mapping[str, Any]] | None = None
    """What the model says at every evaluation, on the main process, to be recorded; its `sample` is shown, too. A model
    that is cut among processes is not asked."""

    def once(self, name: str, choose: Callable[[], float]) -> float:
        """What was chosen under this name when the run began; else the least that any process chooses now."""
        if name not in self.chosen:
            self.chosen[name] = -max_number(-choose(), self.runtime)
        return self.chosen[name]

    def rows(self, asked: int) -> int:
        """Rows of a microbatch: those asked for, or those with which the run began; 0 leaves them to the plan."""
        return asked or int(self.chosen.get("rows_per_microbatch", 0))


@dataclass(frozen=True)
class TrainingSettings:
    """What pretraining and fine-tuning can be told; 0 leaves a size to the plan."""

    batch_tokens: int = 0
    rows_per_microbatch: int = 0
    rate_scale: float = 1.0
    """Multiplies all learning rates of the plan."""
    evaluations: int = 0
    """How often the validation data are scored along the way; after the last step they always are."""
    evaluate_tokens: int = 65_536
    """How many tokens of them."""
    seed: int = 1
    compile: bool = False


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    steps: int
    loss: float
    """Smoothed training loss, nats per token."""
    seconds: float
    """What all steps took, those of earlier sessions included."""
    earlier_seconds: float
    """What the earlier commands took whose state this one resumed, everything included."""
    scores: Mapping[str, float]
    """Of the last evaluation."""
    tokens_per_second: float = 0.0
    """Of this session."""
    share_of_peak: float = 0.0
    """MFU: the share of the machine's measured matrix peak."""


@dataclass(frozen=True)
class Job(Generic[B]):
    """What `fit` trains on and is judged by."""

    batches_from: Callable[[int], Iterator[B]]
    """batches_from(start_row): this process's batches, after the first `start_row` rows of all processes."""
    compute_loss: ComputeLoss[B]
    evaluate: Callable[[], dict[str, float]] | None = None
    """Scores of the model as it is."""
    evaluate_every: int = 0
    """After every so many steps, and after the last; 0 means after the last alone."""


def fit(
    run: TrainingRun, model: GPT, plan: Plan, job: Job[B], budget: TimeBudget | None = None
) -> TrainResult:
    """Train `model` to the end of `plan`, from the saved state if there is one of this run.

    With a `budget` the plan's steps are a first measurement; the result says how many they became. Raises as `Trainer`
    does.
    """
    runtime, reporter = run.runtime, run.reporter
    peak = runtime.world_size * gemm_peak(runtime, runtime.compute_dtype, seconds=0.5)
    trainer = Trainer(run, model, plan, budget=budget)
    tokens_per_second = share_of_peak = 0.0

    with trainer:
        is_first = True
        if trainer.awaits_evaluation:
            trainer.evaluate_if_due(job.evaluate_every, job.evaluate)
            trainer.save_or_stop()
        batches = job.batches_from(trainer.step * plan.rows_per_step)
        while not trainer.is_done:
            started = time.perf_counter()
            trainer.update(islice(batches, plan.accumulation), job.compute_loss, started)
            if is_first:
                seconds = time.monotonic() - run.started
                reporter.line(f"First step done {seconds:.0f} s after the command began.")
                is_first = False
            tokens_per_second = plan.tokens_per_step / trainer.meter.seconds_per_step
            share_of_peak = tokens_per_second * plan.cost.training_flops_per_token / peak
            progress = {"tokens": trainer.tokens}
            speed = {"tokens_per_second": tokens_per_second, "share_of_peak": share_of_peak}
            shown = {"mean loss": trainer.meter.loss} | trainer.scores
            trainer.log(progress | speed, in_words(shown) | {"MFU": f"{share_of_peak:.0%}"})
            trainer.correct_steps()
            trainer.evaluate_if_due(job.evaluate_every, job.evaluate)
            if trainer.save_or_stop():
                batches = job.batches_from(trainer.step * plan.rows_per_step)
    result = replace(trainer.result(), tokens_per_second=tokens_per_second, share_of_peak=share_of_peak)
    foreseen = f", {format_bytes(plan.foreseen_memory_bytes)} foreseen" if plan.foreseen_memory_bytes else ""
    reporter.line(
        f"{counted(result.steps, 'step')}, {result.steps * plan.tokens_per_step:,} tokens in "
        f"{format_seconds(result.seconds)}: {tokens_per_second:,.0f} tokens/s, MFU {share_of_peak:.0%} (of this "
        f"machine's measured matrix peak), {format_bytes(peak_memory_bytes(runtime))} at most{foreseen}"
    )
    return result


def train(
    run: TrainingRun,
    model: GPT,
    rows: RowStream[Any],
    settings: TrainingSettings,
    evaluate: Callable[[Plan], dict[str, float]] | None,
    *,
    tokens: int,
    guess: int = 0,
    budget: TimeBudget | None = None,
    from_scratch: bool = False,
) -> tuple[Plan, TrainResult]:
    """Train `model` on about `tokens` tokens of `rows`, or with a `budget` on as many as its minutes hold, in
    microbatches that fit into memory. Returns the plan with the steps that were done, and how they ended.

    `evaluate` gives the scores under a plan; None: none. The batch size with which the minutes are measured is that of
    a plan for `guess` tokens; 0 guesses from half of the matrix peak. Raises as `Trainer` does.
    """
    runtime, reporter = run.runtime, run.reporter
    flops_per_token = model_cost(model.config).training_flops_per_token
    expected = partial(expected_seconds, tokens * flops_per_token, runtime)
    seconds = 60 * budget.minutes if budget else run.once("expected_seconds", expected)
    compute_loss = prepare(model, runtime, settings.compile, reporter.notice, seconds, run.gradient_of)
    rows_asked = run.rows(settings.rows_per_microbatch)

    def planned(tokens: int, notice: Callable[[str], object]) -> Plan:
        plan = make_plan(
            model.config,
            tokens,
            batch_tokens=settings.batch_tokens or None,
            rows_per_microbatch=rows_asked or None,
            world_size=runtime.world_size,
            rate_scale=settings.rate_scale,
            from_scratch=from_scratch,
        )
        return fit_plan(model, plan, runtime, notice, is_asked=rows_asked > 0, compute_loss=compute_loss)

    def job(plan: Plan) -> Job[Batch]:
        return Job(
            lambda row: rows.batches(plan.rows_per_microbatch, row, runtime.rank, runtime.world_size),
            compute_loss,
            evaluate=partial(evaluate, plan) if evaluate else None,
            evaluate_every=math.ceil(plan.steps / settings.evaluations) if settings.evaluations else 0,
        )

    if budget and not (tokens := budget.get("tokens") or 0):
        reporter.line("Measuring how many tokens fit into the time (this compiles the model, too) ...")
        at_half_peak = seconds / expected_seconds(flops_per_token, runtime)
        plan = planned(guess or int(main_number(max(1.0, at_half_peak), runtime)), str)
        batches = job(plan).batches_from(0)
        step_seconds = seconds_per_step(model, plan, batches, compute_loss, runtime)
        if evaluate:
            evaluate(plan)  # the first one may compile
            started = time.perf_counter()
            evaluate(plan)
            budget.evaluation_seconds = (time.perf_counter() - started) * (settings.evaluations + 1)
        tokens = budget.keep("tokens", max(1, budget.fitting(0, step_seconds)) * plan.tokens_per_step)
    plan = planned(tokens, reporter.notice)
    reporter.line(
        f"{plan.cost.parameters:,} parameters, {plan.tokens:,} tokens in {counted(plan.steps, 'step')} "
        f"of {plan.tokens_per_step:,}"
    )
    result = fit(run, model, plan, job(plan), budget)
    return plan.with_steps(result.steps), result


class Trainer:
    """Optimizer, progress, metrics, saved states and the request to stop of one run; `with` opens and closes them.

    A step with a bad loss (see `_most_loss`) never reaches the weights. Raises NonFiniteLossError after MOST_REFUSED in
    a row, TrainingStoppedError after Ctrl-C or SIGTERM, once the state is saved, and UserError where a different number
    of processes would resume a saved state.
    """

    def __init__(
        self,
        run: TrainingRun,
        model: GPT,
        plan: Plan,
        *,
        budget: TimeBudget | None = None,
        carried: Carried | None = None,
    ) -> None:
        """`carried` is what the job keeps from step to step; it is saved and restored with the rest."""
        self.run, self.model, self.plan = run, model, plan
        self.optimizer = make_optimizer(model, plan.rates, run.runtime)
        self.meter = Meter()
        self._notch = Notch(run.reporter.notice, **run.chosen.get("notch", {}))
        self.scores: dict[str, float] = {}
        """Of the last evaluation."""
        self.step = 0
        """Steps done, those of earlier sessions included."""
        self.awaits_evaluation = False
        """Whether the step that was restored is still to be evaluated, because someone asked to stop before that."""
        self._rate = 1.0  # multiplies all learning rates
        self._losses: deque[float] = deque(maxlen=RECENT)  # of the last steps that were not refused
        self._refused = 0  # steps in a row
        self._earlier = Progress()
        self._budget, self._carried = budget, carried
        self._key = TrainingKey(run.key, plan.steps, plan.rows_per_step if plan.has_equal_steps else None)
        self._writer = StateWriter(run.state_folder, run.runtime)
        self._metrics: MetricsLog | None = None
        self._after_save: AfterSave | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> "Trainer":
        run, plan = self.run, self.plan
        if plan.rounding:
            run.reporter.notice(plan.rounding)
        check_other_states(run.state_folder, self._key, plan, run.reporter.notice, run.settings)
        self._restore()
        steps = self.plan.steps
        if self.step:
            changed = differences(self._earlier.settings, run.settings)
            begun = f"; it was begun with {changed}" if changed else ""
            run.reporter.notice(f"resuming after step {self.step:,} of {steps:,}, saved earlier{begun}")
        if self._budget:
            self._budget.begin(plan.steps, self.step, steps, self._earlier.seconds)
        with ExitStack() as opened:
            if run.runtime.is_main:
                keep_records(run.metrics_path, run.stage, run.state_folder, str(self._key), self.step)
                waits, settings = run.disk_wait_seconds > 0, {run.stage: run.settings}
                self._metrics = opened.enter_context(
                    MetricsLog(run.metrics_path, run.track, settings, waits=waits)
                )
                if run.on_save:
                    self._after_save = AfterSave(run.on_save, run.state_folder, run.reporter.notice)
            self._request = opened.enter_context(stop_request(silent=not run.runtime.is_main))
            unit, self._per_step = ("tokens", plan.tokens_per_step) if plan.has_equal_steps else ("steps", 1)
            self._bar = opened.enter_context(run.reporter.progress(run.stage, steps * self._per_step, unit))
            self._bar.begin_at(self.step * self._per_step)
            self._cleanup = opened.pop_all()
        self._last_save = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with suppress(UserError) if error else nullcontext():
                self._writer.finish(even_incomplete=error is not None)
        finally:
            self._cleanup.__exit__(kind, error, trace)

    @property
    def is_done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.plan.steps

    @property
    def tokens(self) -> int:
        """Those of all steps so far, where steps are equal."""
        return self.step * self.plan.tokens_per_step

    @property
    def seconds(self) -> float:
        """What all steps took, those of earlier sessions included."""
        return self._earlier.step_seconds + self.meter.seconds

    def update(self, batches: Iterable[B], compute_loss: ComputeLoss[B], started: float) -> None:
        """Do one optimizer step on this process's batches. `started` is when they began to be fetched, by
        `time.perf_counter()`: that belongs to the step's time."""
        run, batches, limit = self.run, list(batches), self._most_loss()
        loss = train_step(
            self.model,
            self.optimizer,
            batches,
            self.plan,
            compute_loss,
            run.runtime,
            self.step + 1,
            self._notch,
            most_loss=limit,
            rate=self._rate,
        )
        self.step += 1
        if not self.meter.seconds and run.runtime.device.type == "cuda":
            # Compiling leaves a million objects; while the collector walks them, the GPU waits (0.5 s in nanochat).
            self._cleanup.enter_context(settled())
        is_good = math.isfinite(loss) and loss <= limit
        self.meter.record(loss, time.perf_counter() - started, counts=is_good)
        if is_good:
            self._losses.append(loss)
            self._refused = 0
            return
        self._refused += 1
        usual = f", {statistics.median(self._losses):.3f} in the steps before" if self._losses else ""
        about = [f"step {self.step:,} is left out: its loss is {loss:.3f}{usual}"]
        run.reporter.notice("\n  ".join(about + run.describe(self.model, batches, compute_loss)))

    def _most_loss(self) -> float:
        """The loss from which on a step is left out: far above the last ones, by their median and their spread (median
        absolute deviation), which one bad step does not move. Losses of reinforcement learning have no usual size."""
        if len(self._losses) < FEWEST or not self.plan.has_equal_steps:
            return math.inf
        median = statistics.median(self._losses)
        spread = statistics.median(abs(loss - median) for loss in self._losses)
        return median + max(SPIKE, SPREADS * spread)

    def log(self, metrics: Mapping[str, Any], shown: Mapping[str, str]) -> None:
        """Record the step just done: loss, learning rate, time and `metrics`; show `shown` beside the progress bar."""
        self._bar.advance(self._per_step, **shown)
        if self._metrics:
            self._metrics.write(
                stage=self.run.stage,
                step=self.step,
                steps=self.plan.steps,
                loss=self.meter.last_loss,
                rate=self.plan.schedule.rate(self.step / self.plan.steps),
                seconds=self.seconds,
                **metrics,
            )

    def correct_steps(self) -> None:
        """Fit the number of steps to the minutes that are left, if the budget is in minutes and it is time to."""
        if self._budget:
            steps = self._budget.corrected(self.step, self.plan.steps, self.meter.seconds_per_step)
            self.plan = self.plan.with_steps(steps)
            self._bar.expect(steps * self._per_step)

    def evaluate_if_due(self, every: int, evaluate: Callable[[], dict[str, float]] | None) -> None:
        """Evaluate after every `every` steps, unless that is 0, and after the last; record the scores, with what the
        run's `sample` gives. Someone who asks to stop need not wait for it: then a resumed run evaluates first."""
        is_due = self.awaits_evaluation or self.is_done or (every > 0 and self.step % every == 0)
        if evaluate is None or not is_due:
            return
        self.awaits_evaluation = True
        # One of several processes cannot leave the others alone in an evaluation.
        self._request.interrupts = self.run.runtime.world_size == 1
        try:
            if self._agree()[0]:
                return
            scores = evaluate()
        except StoppedError:
            return
        finally:
            self._request.interrupts = False
        self.awaits_evaluation = False
        began, said = time.monotonic(), {}
        if self.run.sample and self.run.runtime.is_main and self.model.shards == 1:
            said = self.run.sample(self.model)
            self.run.reporter.line(said["sample"])
        if self._budget:  # its minutes are for training
            self._budget.started += time.monotonic() - began
        self.record(scores, said)

    def record(self, scores: Mapping[str, float], said: Mapping[str, Any] | None = None) -> None:
        """Record an evaluation after the step just done, with what the model `said`, and show it from now on."""
        self.scores = {**self.scores, **scores}
        self._bar.advance(0, **in_words(scores))
        if self._metrics:
            progress = {"tokens": self.tokens} if self.plan.has_equal_steps else {}
            self._metrics.write(stage=self.run.stage, step=self.step, **progress, **(said or {}), **scores)

    def save_or_stop(self) -> bool:
        """Save the state if it is time to, which it never is after the last step or one that was left out; save it and
        raise TrainingStoppedError if someone asked to stop. Returns True where it went back to the last saved state.
        Before that, what the run wants done after a step is done."""
        if self._refused >= MOST_REFUSED:
            self._go_back()
            return True
        began = time.monotonic()
        if scores := self.run.after_step(self.model, self.step):
            self.record(scores)
            if self._budget:  # its minutes are for training
                self._budget.started += time.monotonic() - began
        # What reaches processes in different steps, and none may act on alone; their clocks differ, too.
        is_late = time.monotonic() - self._last_save > self.run.save_seconds
        number, agreed = self._agree(
            save=self.run.runtime.is_main and is_late and not (self.is_done or self._refused),
            behind=self._metrics is not None and self._metrics.is_behind,
            failed=self._writer.has_failed,
        )
        saves = number > 0 or agreed["save"] > 0
        if saves or agreed["failed"]:
            self._writer.finish()  # the state before takes its room before more is looked for
        if saves or agreed["behind"]:
            needed, longest = self._state_bytes() if saves else 0, 0 if number else self.run.disk_wait_seconds
            catch_up = self._metrics.catch_up if self._metrics else lambda: True
            wait_for_room(
                self.run.state_folder, needed, longest, catch_up, self.run.runtime, self.run.reporter
            )
        if saves:
            self._save()
            self._last_save = time.monotonic()
        if number:
            self._writer.finish()
        if self._after_save:
            self._after_save.look()
        if number:
            raise TrainingStoppedError(
                f"stopped after step {self.step:,} of {self.plan.steps:,}, which is saved; "
                "the same command goes on from there",
                number,
            )
        return False

    def _agree(self, **own: float) -> tuple[int, dict[str, float]]:
        """The signal that asked any process to stop, or 0; and the sums of `own` over all processes."""
        asked = {str(number): float(self._request.received == number) for number in SIGNALS}
        agreed = sum_numbers(own | asked, self.run.runtime)
        return next((number for number in SIGNALS if agreed[str(number)]), 0), agreed

    def _state_bytes(self) -> int:
        """What a state takes on the disk, a little more than its tensors."""
        parts = (*self.optimizer.named_state().values(), *self.optimizer.named_weights().values())
        own = sum_number(sum(tensor.nbytes for tensor in parts), self.run.runtime)
        return int(1.01 * (own + sum(tensor.nbytes for tensor in self.named_state().values()))) + 2**16

    def _restore(self) -> None:
        run = self.run
        self._earlier = restore_training(
            run.state_folder,
            self.model,
            self.optimizer,
            key=self._key,
            notice=run.reporter.notice,
            carried=self,
        )
        self.step = self._earlier.step
        self.plan = self.plan.with_steps(self._earlier.steps or self.plan.steps)

    def _go_back(self) -> None:
        """Go on from the last saved state with half the learning rate. Raises NonFiniteLossError if that is not wanted,
        does not help, or there is none."""
        reached, rate, seconds = self.step, self._rate / 2, self._earlier.seconds
        message = (
            f"the loss of {self._refused} steps in a row, up to step {reached:,}, was not finite or far above the "
            "usual; none of them reached the weights. Lower the learning rate, for example by half, or look for broken "
            "text near these steps"
        )
        if self.run.on_bad_loss == "stop" or rate < LOWEST_RATE:
            raise NonFiniteLossError(message, setting="rate_scale")
        self._writer.finish()
        self._restore()
        if not self.step:
            raise NonFiniteLossError(f"{message}; no state was saved yet to go back to", setting="rate_scale")
        self._earlier, self.meter.seconds = replace(self._earlier, seconds=seconds), 0.0
        self._rate, self._refused, self.awaits_evaluation = rate, 0, False
        self.run.reporter.notice(
            f"back from step {reached:,} to step {self.step:,}, with {rate:.4g} times the learning rate"
        )
        if self._metrics:
            self._metrics.drop(self.run.stage, after_step=self.step)
        self._bar.begin_at(self.step * self._per_step)

    def named_state(self) -> dict[str, Tensor]:
        """What is kept from step to step besides weights and optimizer: see `Carried`."""
        numbers = [*self.meter.smoothed, self.awaits_evaluation, self._rate, self._refused, *self._losses]
        scores = {
            f"score.{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.scores.items()
        }
        carried = self._carried.named_state() if self._carried else {}
        return carried | scores | {"trainer": torch.tensor(numbers, dtype=torch.float64)}

    def load_named_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `named_state` gave."""
        if "trainer" in state:  # an older chatsmith kept nothing
            total, weight, awaits, self._rate, refused, *losses = state["trainer"].tolist()
            self.meter.smoothed, self._losses = (total, weight), deque(losses, RECENT)
            self.awaits_evaluation, self._refused = bool(awaits), int(refused)
        self.scores = {name: value.item() for name, value in under("score.", state).items()}
        if self._carried:
            self._carried.load_named_state(state)

    def _save(self) -> None:
        seconds = self._earlier.seconds + time.monotonic() - self.run.started
        notch = {name: getattr(self._notch, name) for name in ("pieces", "loss_scale", "good_steps")}
        chosen = self.run.chosen | {"rows_per_microbatch": self.plan.rows_per_microbatch, "notch": notch}
        progress = Progress(self.step, self.plan.steps, self.seconds, seconds, self.run.settings, chosen)
        save_training(self._writer, self.optimizer, progress=progress, key=self._key, carried=self)

    def result(self) -> TrainResult:
        """How the run ended."""
        seconds, earlier = self.seconds, self._earlier.seconds
        return TrainResult(self.plan.steps, self.meter.loss, seconds, earlier, self.scores)


RECENT, FEWEST = 64, 16
"""How many losses a step's is held against; and the fewest that say what is usual."""

SPIKE, SPREADS = 3.0, 20.0
"""Nats above the median, and median absolute deviations above it, from which on a loss is refused. Losses of one run
fall by nats at its beginning and spread by tenths afterwards; ids at random are twice as hard as text, or more."""

MOST_REFUSED = 3
LOWEST_RATE = 1 / 8


class Meter:
    """Smoothed loss, and pace of this session. The first two steps, which compile and warm up, do not count towards the
    pace."""

    SKIPPED = 2
    SMOOTHING = 0.9

    def __init__(self) -> None:
        self.smoothed = (0.0, 0.0)
        """Sums of the weighted losses, and of their weights, those of earlier sessions included."""
        self.last_loss = math.nan
        self.last_seconds = 0.0
        self.seconds = 0.0
        """Of all steps of this session."""
        self._steps = 0
        self._timed_seconds = 0.0

    @property
    def loss(self) -> float:
        """Smoothed."""
        total, weight = self.smoothed
        return total / weight if weight else math.nan

    def record(self, loss: float, seconds: float, counts: bool = True) -> None:
        """Count a step; its loss only if that `counts`."""
        if counts:
            (total, weight), share = self.smoothed, 1 - self.SMOOTHING
            self.smoothed = self.SMOOTHING * total + share * loss, self.SMOOTHING * weight + share
        self.last_loss, self.last_seconds = loss, seconds
        self.seconds += seconds
        self._steps += 1
        if self._steps > self.SKIPPED:
            self._timed_seconds += seconds

    @property
    def seconds_per_step(self) -> float:
        """What a step takes on average."""
        if self._steps <= self.SKIPPED:
            return self.seconds / self._steps
        return self._timed_seconds / (self._steps - self.SKIPPED)


def in_words(numbers: Mapping[str, float]) -> dict[str, str]:
    """Each number with three digits after the point; where a reward is graded, nothing is right or wrong."""
    hidden = "pass_at" if "dev_reward" in numbers else "nothing"
    return {name: f"{value:.3f}" for name, value in numbers.items() if hidden not in name}


class TrainingStoppedError(StoppedError):
    """Training was asked to stop, and its state is saved. Its text says how to go on."""
