"""One trainer for pretraining, fine-tuning and reinforcement learning.

    with trainer:                                # resumes a saved state; from here on Ctrl-C saves and stops
        while not trainer.is_done:
            started = time.perf_counter()
            batches = ...                        # fetch
            trainer.update(batches, loss, started)   # losses, gradients, their sum over processes, update
            trainer.log(metrics, shown)
            trainer.correct_steps()              # where the budget is in minutes
            if trainer.evaluation_is_due(every):
                trainer.record(evaluate())
            trainer.save_or_stop()

`fit` is this loop for pretraining and fine-tuning, whose batches are there beforehand; reinforcement learning
(`rl/trainer.py`) writes its batches between the updates. Where things are kept, the caller says.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Generic

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.sharded import make_optimizer
from chatsmith.runtime.console import Reporter, format_seconds
from chatsmith.runtime.device import Runtime, gemm_peak, peak_memory_bytes
from chatsmith.runtime.distributed import sum_number
from chatsmith.runtime.metrics import MetricsLog
from chatsmith.train.checkpoint import (
    Carried,
    Progress,
    TrainingKey,
    check_other_states,
    keep_records,
    restore_training,
    save_training,
)
from chatsmith.train.plan import Plan, make_plan
from chatsmith.train.step import B, ComputeLoss, train_step
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
    started: float = field(default_factory=time.monotonic)
    """When the command began, by `time.monotonic()`."""


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

    def evaluate_every(self, plan: Plan) -> int:
        """The steps from one evaluation to the next; 0 where none is asked for along the way."""
        return math.ceil(plan.steps / self.evaluations) if self.evaluations else 0

    def plan(self, shape: GPTConfig, tokens: int, world_size: int, *, from_scratch: bool = False) -> Plan:
        """The plan of a model of this shape on about so many tokens."""
        return make_plan(
            shape,
            tokens,
            batch_tokens=self.batch_tokens or None,
            rows_per_microbatch=self.rows_per_microbatch or None,
            world_size=world_size,
            rate_scale=self.rate_scale,
            from_scratch=from_scratch,
        )


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
    sample: Callable[[], str] | None = None
    """Text to show with every evaluation."""


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
            progress = {"tokens": trainer.step * plan.tokens_per_step}
            speed = {"tokens_per_second": tokens_per_second, "share_of_peak": share_of_peak}
            shown = {"loss": trainer.meter.loss} | trainer.scores
            trainer.log(progress | speed, in_words(shown) | {"MFU": f"{share_of_peak:.0%}"})
            trainer.correct_steps()
            if job.evaluate and trainer.evaluation_is_due(job.evaluate_every):
                trainer.record(job.evaluate(), **progress)
                if job.sample:
                    reporter.line(job.sample())
            trainer.save_or_stop()
    result = trainer.result(tokens_per_second, share_of_peak)
    reporter.line(
        f"{result.steps:,} steps, {result.steps * plan.tokens_per_step:,} tokens in "
        f"{format_seconds(result.seconds)}: {tokens_per_second:,.0f} tokens/s, MFU {share_of_peak:.0%} (of this "
        f"machine's measured matrix peak), {peak_memory_bytes(runtime) / 1e9:.1f} GB at most"
    )
    return result


def measure_tokens(budget: TimeBudget, model: GPT, plan: Plan, job: Job[B], evaluations: int) -> int:
    """The tokens that fit into the minutes of `budget` together with so many evaluations, measured on this model and
    job; kept as "tokens". The batch size is that of `plan`, a guess. Leaves the model as it was."""
    step_seconds = seconds_per_step(model, plan, job.batches_from(0), job.compute_loss, budget.runtime)
    if job.evaluate:
        job.evaluate()  # the first one may compile
        started = time.perf_counter()
        job.evaluate()
        budget.evaluation_seconds = (time.perf_counter() - started) * (evaluations + 1)
    return budget.keep("tokens", max(1, budget.fitting(0, step_seconds)) * plan.tokens_per_step)


class Trainer:
    """Optimizer, progress, metrics, saved states and the request to stop of one run; `with` opens and closes them.

    Raises NonFiniteLossError before the update that would spoil the weights, TrainingStoppedError after Ctrl-C or
    SIGTERM, once the state is saved, and UserError where a different number of processes would resume a saved state.
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
        self.scores: dict[str, float] = {}
        """Of the last evaluation."""
        self.step = 0
        """Steps done, those of earlier sessions included."""
        self._earlier = Progress()
        self._budget, self._carried = budget, carried
        self._key = TrainingKey(run.key, plan.steps, plan.rows_per_step if plan.has_equal_steps else None)
        self._metrics: MetricsLog | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> "Trainer":
        run, plan = self.run, self.plan
        if plan.rounding:
            run.reporter.notice(plan.rounding)
        check_other_states(run.state_folder, self._key, plan, run.reporter.notice)
        self._earlier = restore_training(
            run.state_folder,
            self.model,
            self.optimizer,
            key=self._key,
            notice=run.reporter.notice,
            carried=self._carried,
        )
        self.step, steps = self._earlier.step, self._earlier.steps or plan.steps
        self.plan = plan.with_steps(steps)
        if self.step:
            run.reporter.notice(f"resuming after step {self.step:,} of {steps:,}, saved earlier")
        if self._budget:
            self._budget.begin(plan.steps, self.step, steps)
        with ExitStack() as opened:
            if run.runtime.is_main:
                keep_records(run.metrics_path, run.stage, run.state_folder, str(self._key), self.step)
                self._metrics = opened.enter_context(MetricsLog(run.metrics_path, run.track))
            self._stop = opened.enter_context(stop_request(silent=not run.runtime.is_main))
            unit, self._per_step = ("tokens", plan.tokens_per_step) if plan.has_equal_steps else ("steps", 1)
            self._bar = opened.enter_context(run.reporter.progress(run.stage, steps * self._per_step, unit))
            self._bar.begin_at(self.step * self._per_step)
            self._cleanup = opened.pop_all()
        self._last_save = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.__exit__(kind, error, trace)

    @property
    def is_done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.plan.steps

    @property
    def seconds(self) -> float:
        """What all steps took, those of earlier sessions included."""
        return self._earlier.step_seconds + self.meter.seconds

    def update(self, batches: Iterable[B], compute_loss: ComputeLoss[B], started: float) -> None:
        """Do one optimizer step on this process's batches. `started` is when they began to be fetched, by
        `time.perf_counter()`: that belongs to the step's time."""
        loss = train_step(
            self.model, self.optimizer, batches, self.plan, compute_loss, self.run.runtime, self.step + 1
        )
        self.step += 1
        self.meter.record(loss, time.perf_counter() - started)

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

    def evaluation_is_due(self, every: int) -> bool:
        """Whether to evaluate after this step: after every `every` steps, unless that is 0, and after the last."""
        return self.is_done or (every > 0 and self.step % every == 0)

    def record(self, scores: dict[str, float], **progress: float) -> None:
        """Record an evaluation after the step just done."""
        self.scores = scores
        if self._metrics:
            self._metrics.write(stage=self.run.stage, step=self.step, **progress, **scores)

    def save_or_stop(self) -> None:
        """Save the state if it is time to; save it and raise TrainingStoppedError if someone asked to stop. After the
        last step neither is needed."""
        if self.is_done:
            return
        # The signal may reach processes in different steps, and none may go on alone.
        is_stopping = sum_number(float(self._stop.received), self.run.runtime) > 0
        if is_stopping or time.monotonic() - self._last_save > self.run.save_seconds:
            self._save()
            self._last_save = time.monotonic()
        if is_stopping:
            raise TrainingStoppedError(
                f"stopped after step {self.step:,} of {self.plan.steps:,}, which is saved; "
                "the same command goes on from there"
            )

    def _save(self) -> None:
        optimizer_state = self.optimizer.whole_state()  # all processes have to ask for it
        if not self.run.runtime.is_main:
            return
        seconds = self._earlier.seconds + time.monotonic() - self.run.started
        progress = Progress(self.step, self.plan.steps, self.seconds, seconds)
        save_training(
            self.run.state_folder,
            self.model,
            optimizer_state,
            progress=progress,
            key=self._key,
            carried=self._carried,
        )

    def result(self, tokens_per_second: float = 0.0, share_of_peak: float = 0.0) -> TrainResult:
        """How the run ended."""
        return TrainResult(
            self.plan.steps,
            self.meter.loss,
            self.seconds,
            self._earlier.seconds,
            self.scores,
            tokens_per_second,
            share_of_peak,
        )


class Meter:
    """Smoothed loss and pace of this session. The first two steps, which compile and warm up, do not count towards the
    pace."""

    SKIPPED = 2
    SMOOTHING = 0.9

    def __init__(self) -> None:
        self.loss = math.nan
        """Smoothed."""
        self.last_loss = math.nan
        self.last_seconds = 0.0
        self.seconds = 0.0
        """Of all steps of this session."""
        self._steps = 0
        self._timed_seconds = 0.0
        self._weight = 0.0
        self._weighted_loss = 0.0

    def record(self, loss: float, seconds: float) -> None:
        """Count a step."""
        self._weighted_loss = self.SMOOTHING * self._weighted_loss + (1 - self.SMOOTHING) * loss
        self._weight = self.SMOOTHING * self._weight + (1 - self.SMOOTHING)
        self.loss = self._weighted_loss / self._weight
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
    """Each number with three digits after the point."""
    return {name: f"{value:.3f}" for name, value in numbers.items()}


class TrainingStoppedError(KeyboardInterrupt):
    """Training was asked to stop, and its state is saved. Its text says how to go on."""


ACKNOWLEDGED = (
    "chatsmith: finishing this step, then saving and stopping; Ctrl-C once more stops at once, without saving"
)


@dataclass
class StopRequest:
    """Whether someone asked to stop."""

    received: bool = False


@contextmanager
def stop_request(silent: bool = False) -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM of the block into a request, and acknowledge it on standard error unless
    `silent`; a second SIGINT interrupts at once.

    Signals can only be caught in the main thread; elsewhere the request simply never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def receive(number: int, frame: FrameType | None) -> None:
        if request.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not request.received and not silent:
            _acknowledge()
        request.received = True

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _acknowledge() -> None:
    # Written to the descriptor itself: the signal may have come in the middle of a print, which can't be entered twice.
    # On a terminal the line begins below the progress bar and the ^C.
    start = "\n" if os.isatty(2) else ""
    with suppress(OSError):  # whether anyone reads it or not, the step is finished
        os.write(2, f"{start}{ACKNOWLEDGED}\n".encode())
