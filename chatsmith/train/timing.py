"""How long a step takes here, and how many steps fit into the minutes that a run may take.

A budget in minutes becomes a number of steps three times: before the first step, from a few steps on the model and data
at hand; after a quarter of the steps; and after six tenths of what they have become. Each number is kept, so that the
same settings give the same model again, on whatever machine.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch

from chatsmith.data.packing import Batch
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.optim.sharded import ShardedOptimizer, make_optimizer
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import main_number
from chatsmith.train.memory import state_bytes
from chatsmith.train.plan import Plan
from chatsmith.train.step import B, ComputeLoss, prepare, train_step

MARGIN = 0.97
"""Part of the time that is planned with: saving, logging and a busier machine need the rest."""

CORRECTED_AFTER = (0.25, 0.6)
"""Shares of the steps after which a budget in minutes is corrected by the pace so far: first before 0.4, where learning
rates begin to fall, so that the schedule is one curve all the same, and again when little is left to be wrong about.
What is measured beforehand is off by a third on a machine with neighbors, and the pace of a quarter by a tenth
(docs/lab-log.md)."""

FEWEST_PACED = 4
"""Steps that say something about the pace."""


class Measurements(Protocol):
    """Numbers measured for the settings of a run, kept where the next run with these settings finds them."""

    def get(self, name: str) -> int | None:
        """What was kept under this name, if anything."""
        ...

    def keep(self, name: str, value: int) -> None:
        """Keep a number for good. Called on the main process alone."""
        ...


@dataclass
class TimeBudget:
    """The minutes that a run may take, and the steps that fit into them."""

    minutes: float
    started: float
    """When the run began, by `time.monotonic()`."""
    measurements: Measurements
    runtime: Runtime
    evaluation_seconds: float = 0.0
    """What all evaluations will take; or, where they come on top of the minutes, what they took so far."""
    evaluations_come_on_top: bool = False
    steps_per_round: int = 1
    """Corrections give a multiple of this."""
    most_steps: int = 0
    """Corrections give no more than this; 0 means no limit."""
    earlier_seconds: float = 0.0
    """What earlier commands took that this one resumes."""
    _due: int = 0

    def get(self, name: str) -> int | None:
        """The number kept by an earlier run with these settings."""
        return self.measurements.get(name)

    def keep(self, name: str, value: float) -> int:
        """Keep a number that was measured just now: the main process's, which all processes get. With a number of its
        own, each would follow another plan."""
        agreed = int(main_number(value, self.runtime))
        if self.runtime.is_main:
            self.measurements.keep(name, agreed)
        return agreed

    def fitting(self, done: int, seconds_each: float) -> int:
        """Steps, or rounds, that there is time for in all, of which `done` are done; one takes `seconds_each`."""
        left = 60 * self.minutes - self.earlier_seconds - (time.monotonic() - self.started)
        if self.evaluations_come_on_top:
            left = MARGIN * (left + self.evaluation_seconds)
        else:
            left = MARGIN * left - self.evaluation_seconds
        return done + max(0, int(left / seconds_each))

    def begin(self, planned: int, start: int, steps: int, earlier_seconds: float = 0.0) -> None:
        """Training goes on after step `start` of `steps`, of which `planned` were planned before any correction."""
        self.earlier_seconds = earlier_seconds
        first, again = CORRECTED_AFTER
        due = max(FEWEST_PACED, int(planned * first))
        self._due = due if start < due else int(steps * again)

    def corrected(self, step: int, steps: int, step_seconds: float) -> int:
        """How many steps there will be in all, after step `step` of `steps`; `step_seconds` is what one takes."""
        if step != self._due:
            return steps
        steps = max(step, self._measured_again(step, step_seconds))
        self._due = int(steps * CORRECTED_AFTER[1])  # behind this step, unless many were added
        return steps

    def _measured_again(self, step: int, step_seconds: float) -> int:
        name = f"steps_after_{step}"
        if (kept := self.get(name)) is not None:  # a repeated run follows it
            return kept
        rounds = -(-self.fitting(step, step_seconds) // self.steps_per_round)
        steps = rounds * self.steps_per_round
        return self.keep(name, min(steps, self.most_steps or steps))


@contextmanager
def trial(model: GPT, plan: Plan, runtime: Runtime) -> Iterator[Optimizer | ShardedOptimizer]:
    """An optimizer for steps that are only timed: afterwards the weights are put back and it is thrown away."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(model, plan.rates, runtime)
    yield optimizer
    optimizer.close()
    model.load_state_dict(before)


TIMED_STEPS = 4
"""Enough to see past one slow step; the fastest but one is taken as typical."""


def seconds_per_step(
    model: GPT, plan: Plan, batches: Iterator[B], compute_loss: ComputeLoss[B], runtime: Runtime
) -> float:
    """The typical duration of a step, after one that compiles and warms up. Leaves the model as it was."""
    durations: list[float] = []
    endless = plan.with_steps(10**6)
    with trial(model, plan, runtime) as optimizer:
        for step in range(1, TIMED_STEPS + 2):
            runtime.synchronize()
            started = time.perf_counter()
            train_step(
                model, optimizer, islice(batches, plan.accumulation), endless, compute_loss, runtime, step
            )
            runtime.synchronize()
            durations.append(time.perf_counter() - started)
    return sorted(durations[1:])[1]


MOST_TIMES = 4
ENOUGH_SECONDS = 2.0
"""Rows and update are timed this often, or until it took this long."""

FEWEST_SHARE = 0.2
"""Of the matrix peak: what small models reach on a CPU (11 to 21 %, width 128 to 256)."""

ROW_SECONDS = 0.5
"""As many rows are timed at once as take this long. If a single one would take longer at that share, waiting for it is
no answer to a question that is asked before training."""

MOST_STATE_BYTES = 2e9
"""Models with more to keep are not made just to be timed."""


def foreseen_step_seconds(plan: Plan, runtime: Runtime, peak_flops: float) -> float | None:
    """What a step of `plan` takes one process, in seconds, before there is any data; None where a single row takes too
    long to try, or the model too much memory. `peak_flops` is the device's matrix peak.

    A few rows of random ids go through training (the speed of arithmetic does not depend on them), uncompiled, and the
    step is computed from them. How far several processes slow each other down is not measured.
    """
    row_seconds = plan.cost.training_flops_per_token * plan.sequence_length / (FEWEST_SHARE * peak_flops)
    if row_seconds > ROW_SECONDS or sum(state_bytes(plan.cost).values()) > MOST_STATE_BYTES:
        return None
    generator = torch.Generator().manual_seed(1)
    model = GPT(plan.model)
    model.init_weights(generator)
    model.to(runtime.device)
    compute_loss = prepare(model, runtime, False, lambda _: None)
    optimizer = Optimizer(model, plan.rates)

    def gradients(rows: int) -> None:
        shape = (rows, plan.sequence_length)
        ids, targets = (torch.randint(plan.model.vocab_size, shape, generator=generator) for _ in range(2))
        compute_loss(model, Batch(ids, targets).to(runtime.device), 1 / ids.numel()).backward()

    def update() -> None:
        optimizer.step(1.0, 0.95, 1.0)
        optimizer.zero_grad()

    gradients(1)
    update()
    row_seconds = _seconds(lambda: gradients(1), runtime)
    rows = min(plan.rows_per_microbatch, max(1, int(ROW_SECONDS / row_seconds)))
    started = time.perf_counter()
    timed: list[tuple[float, float]] = []
    while not timed or (len(timed) < MOST_TIMES and time.perf_counter() - started < ENOUGH_SECONDS):
        timed.append((_seconds(lambda: gradients(rows), runtime), _seconds(update, runtime)))
    of_rows, of_update = (statistics.median(times) for times in zip(*timed, strict=True))
    return plan.accumulation * plan.rows_per_microbatch / rows * of_rows + of_update


def _seconds(action: Callable[[], None], runtime: Runtime) -> float:
    runtime.synchronize()
    started = time.perf_counter()
    action()
    runtime.synchronize()
    return time.perf_counter() - started
