"""The one training loop, for pretraining, fine-tuning and reinforcement learning.

A step: fetch batches, loss and gradients for each, sum over processes, update. Around it: log, evaluate, sample,
save. The loop knows nothing of files, scores or rollouts: a stage hands it batches, a loss, `evaluate`, `sample` and
`save`. Reinforcement learning writes its batches when they are fetched; to the loop they are batches like others.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.console import Bar, Reporter
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import sum_gradients, sum_number
from chatsmith.runtime.metrics import MetricsLog
from chatsmith.train.interrupt import NonFiniteLossError, TrainingStoppedError, stop_request
from chatsmith.train.plan import Plan


class Trainable(Protocol):
    """What a step is made of: `data.batch.Batch`, or the rollouts of `train.policy_gradient`."""

    @property
    def num_targets(self) -> int:
        """How many tokens are trained on; 0 where a batch is empty."""
        ...

    def to(self, device: torch.device) -> Any:
        """The same on `device`."""
        ...


B = TypeVar("B", bound=Trainable)
ComputeLoss = Callable[[GPT, B, float], Tensor]
"""compute_loss(model, batch, scale): the sum of the batch's losses times `scale`, with its graph."""


@dataclass
class Hooks:
    """What a stage wants done along the way. Steps are counted from 1; 0 in an interval means never."""

    evaluate: Callable[[], dict[str, float]] | None = None
    """Scores of the model as it is; called every `evaluate_every` steps and after the last."""
    evaluate_every: int = 0
    sample: Callable[[], str] | None = None
    """Text to show; called with every evaluation."""
    save: Callable[[int, float], None] | None = None
    """Save the training state after so many steps, which took so many seconds, earlier sessions included."""
    save_seconds: float = 300.0
    """Save when at least this long has passed since the last time."""
    save_every: int = 1
    """Save, and stop when asked to, only after a multiple of so many steps: those in between go on with rollouts
    that only older weights could write again."""
    figures: Callable[[float], dict[str, Any]] | None = None
    """What there is to tell of the step just done, given its seconds, for the metrics; `shown` of it for people.
    Where it is given, progress is counted in steps, which then need not be of one size, and not in tokens."""
    shown: tuple[str, ...] = ()
    first_step: Callable[[], None] | None = None
    """Called once, after the first step of this process."""
    correct: Callable[[int, float], int | None] | None = None
    """How many steps there will be in all, given the step just done and the seconds that one takes. Asked after every
    step, where a clock decides; None for as many as before."""


@dataclass
class TrainResult:
    """How a run ended."""

    steps: int
    loss: float
    """Smoothed training loss, nats per token."""
    seconds: float
    """What all steps took, those of earlier sessions included."""
    tokens_per_second: float
    """Of this session."""
    share_of_peak: float
    scores: dict[str, float] = field(default_factory=dict)
    earlier_seconds: float = 0.0
    """What earlier commands took of which this training went on, everything included."""


def train(
    model: GPT,
    optimizer: Optimizer,
    batches: Iterator[B],
    plan: Plan,
    compute_loss: ComputeLoss[B],
    *,
    runtime: Runtime,
    reporter: Reporter,
    metrics: MetricsLog | None,
    stage: str,
    hooks: Hooks,
    peak_flops: float,
    start_step: int = 0,
    start_seconds: float = 0.0,
) -> TrainResult:
    """Train `model` from `start_step`, reached in `start_seconds`, to `plan.steps`, consuming `plan.accumulation`
    batches a step.

    `peak_flops` is what the machine can do per second, for the share printed. Raises NonFiniteLossError, before
    the update that would spoil the weights, and TrainingStoppedError after Ctrl-C or SIGTERM, with the state
    saved.
    """
    meter = _Meter(plan, peak_flops, runtime.world_size, start_seconds)
    teller = _Teller(plan, meter, hooks, stage, metrics)
    last_save = time.monotonic()
    silent = not runtime.is_main
    with stop_request(silent) as stop, reporter.progress(stage, *teller.total) as bar:
        bar.begin_at(start_step * teller.per_step)
        step = start_step
        while step < plan.steps:
            step += 1
            started = time.perf_counter()
            loss = train_step(model, optimizer, batches, plan, compute_loss, runtime, step)
            seconds = time.perf_counter() - started
            meter.record(loss, seconds)
            if step == start_step + 1 and hooks.first_step:
                hooks.first_step()
            teller.tell_step(bar, step, seconds)
            if hooks.correct and (steps := hooks.correct(step, meter.seconds_per_step)):
                plan = teller.plan = replace(plan, steps=steps)
                bar.expect(teller.total[0])
            last = step == plan.steps
            if hooks.evaluate and (last or (hooks.evaluate_every and step % hooks.evaluate_every == 0)):
                teller.tell_scores(step, hooks.evaluate())
                if hooks.sample:
                    reporter.line(hooks.sample())
            # The signal may reach processes in different steps, and none may go on alone.
            stopping = sum_number(float(bool(stop)), runtime) > 0 and not last
            may_save = not last and step % hooks.save_every == 0
            if hooks.save and may_save and (stopping or time.monotonic() - last_save > hooks.save_seconds):
                hooks.save(step, meter.total_seconds)
                last_save = time.monotonic()
            if stopping and may_save:
                raise TrainingStoppedError(
                    f"stopped after step {step:,} of {plan.steps:,}, which is saved; "
                    "the same command goes on from there"
                )
    return TrainResult(
        plan.steps,
        meter.loss,
        meter.total_seconds,
        meter.tokens_per_second,
        meter.share_of_peak,
        teller.scores,
    )


def train_step(
    model: GPT,
    optimizer: Optimizer,
    batches: Iterator[B],
    plan: Plan,
    compute_loss: ComputeLoss[B],
    runtime: Runtime,
    step: int,
) -> float:
    """One update; returns the mean loss over the step's trained tokens, on all processes.

    Where no process has anything to learn from, nothing is updated and the mean is 0.
    """
    fetched = [batch.to(runtime.device) for batch in islice(batches, plan.accumulation) if batch.num_targets]
    trained = sum_number(float(sum(batch.num_targets for batch in fetched)), runtime)
    total = 0.0
    for batch in fetched:
        # Every token weighs the same, however unevenly microbatches and processes are masked.
        loss = compute_loss(model, batch, 1 / max(trained, 1.0))
        loss.backward()
        total += loss.item()
    total = sum_number(total, runtime)
    if not math.isfinite(total):
        raise NonFiniteLossError(
            f"the loss became {total} at step {step:,}; nothing saved so far is touched. Lower the learning "
            "rate (--rate-scale 0.5), or look for broken text near this step with `chatsmith data inspect`"
        )
    if not trained:
        return 0.0
    sum_gradients(optimizer.parameters, runtime)
    progress = step / plan.steps
    rate = plan.schedule.rate(progress)
    optimizer.step(rate, plan.schedule.muon_momentum(progress), rate)
    optimizer.zero_grad()
    return total


class _Meter:
    """Smoothed loss and speed, of this session. The first two steps, which compile and warm up, do not count towards
    speed."""

    SKIPPED = 2
    SMOOTHING = 0.9

    def __init__(self, plan: Plan, peak_flops: float, world_size: int, earlier_seconds: float) -> None:
        self.plan = plan
        self.earlier_seconds = earlier_seconds
        self.peak_flops = peak_flops * world_size
        self.loss = math.nan
        self.seconds = 0.0
        self.steps = 0
        self._timed_seconds = 0.0
        self._weight = 0.0
        self._weighted_loss = 0.0

    def record(self, loss: float, seconds: float) -> None:
        self._weighted_loss = self.SMOOTHING * self._weighted_loss + (1 - self.SMOOTHING) * loss
        self._weight = self.SMOOTHING * self._weight + (1 - self.SMOOTHING)
        self.loss = self._weighted_loss / self._weight
        self.last_loss = loss
        self.seconds += seconds
        self.steps += 1
        if self.steps > self.SKIPPED:
            self._timed_seconds += seconds

    @property
    def total_seconds(self) -> float:
        """What the steps took, those of earlier sessions included."""
        return self.earlier_seconds + self.seconds

    @property
    def seconds_per_step(self) -> float:
        steps, seconds = self.steps - self.SKIPPED, self._timed_seconds
        if steps < 1:
            steps, seconds = self.steps, self.seconds
        return seconds / steps

    @property
    def tokens_per_second(self) -> float:
        return self.plan.tokens_per_step / self.seconds_per_step

    @property
    def share_of_peak(self) -> float:
        return self.tokens_per_second * self.plan.cost.training_flops_per_token / self.peak_flops


class _Teller:
    """Says what each step and each evaluation brought, to the person and to the metrics."""

    def __init__(
        self, plan: Plan, meter: _Meter, hooks: Hooks, stage: str, metrics: MetricsLog | None
    ) -> None:
        self.plan, self.meter, self.hooks = plan, meter, hooks
        self.stage, self.metrics = stage, metrics
        self.scores: dict[str, float] = {}
        self.per_step = 1 if hooks.figures else plan.tokens_per_step

    @property
    def total(self) -> tuple[int, str]:
        """How much there is to do, and of what."""
        return self.plan.steps * self.per_step, "steps" if self.hooks.figures else "tokens"

    def tell_step(self, bar: Bar, step: int, seconds: float) -> None:
        meter = self.meter
        shown: dict[str, float | str] = {"loss": f"{meter.loss:.3f}"}
        if self.hooks.figures:
            figures = self.hooks.figures(seconds)
            shown = {name: f"{figures[name]:.3f}" for name in self.hooks.shown if name in figures}
        else:
            figures = {
                "tokens": step * self.plan.tokens_per_step,
                "tokens_per_second": meter.tokens_per_second,
                "share_of_peak": meter.share_of_peak,
            }
        shown |= {name: f"{value:.3f}" for name, value in self.scores.items()}
        if not self.hooks.figures:
            shown["of peak"] = f"{meter.share_of_peak:.0%}"
        bar.advance(self.per_step, **shown)
        if self.metrics:
            self.metrics.write(
                stage=self.stage,
                step=step,
                loss=meter.last_loss,
                rate=self.plan.schedule.rate(step / self.plan.steps),
                seconds=meter.total_seconds,
                **figures,
            )

    def tell_scores(self, step: int, scores: dict[str, float]) -> None:
        self.scores = scores
        if self.metrics:
            done = {} if self.hooks.figures else {"tokens": step * self.plan.tokens_per_step}
            self.metrics.write(stage=self.stage, step=step, **done, **scores)
