"""How many tokens fit in so many minutes, measured on the model and data at hand."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.device import Runtime
from chatsmith.train.plan import Plan
from chatsmith.train.trainer import B, ComputeLoss, train_step

TIMED_STEPS = 4
"""Enough to see past one slow step; the fastest but one is taken as typical."""

MARGIN = 0.97
"""Part of the time that is planned with: saving, logging and a busier machine need the rest."""


def seconds_per_step(
    model: GPT,
    plan: Plan,
    batches: Iterator[B],
    compute_loss: ComputeLoss[B],
    runtime: Runtime,
) -> float:
    """The typical duration of a step where all are alike. Leaves the model as it was."""
    durations = step_durations(model, plan, batches, compute_loss, runtime, TIMED_STEPS)
    return sorted(durations)[1]


def step_durations(
    model: GPT,
    plan: Plan,
    batches: Iterator[B],
    compute_loss: ComputeLoss[B],
    runtime: Runtime,
    timed_steps: int,
    fewest_steps: int = 0,
    enough_seconds: float = math.inf,
) -> list[float]:
    """The durations of `timed_steps` steps, after one that compiles and warms up; of fewer, but `fewest_steps`, once
    they took `enough_seconds`. Leaves the model as it was.

    The weights are put back and the optimizer that moved them is thrown away.
    """
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = Optimizer(model, plan.rates)
    durations = []
    for step in range(1, timed_steps + 2):
        runtime.synchronize()
        started = time.perf_counter()
        train_step(model, optimizer, batches, replace(plan, steps=10**6), compute_loss, runtime, step)
        runtime.synchronize()
        durations.append(time.perf_counter() - started)
        if step > fewest_steps and sum(durations[1:]) > enough_seconds:
            break
    model.load_state_dict(before)
    return durations[1:]


@dataclass
class TimeBudget:
    """The minutes that a stage may take, and what is left of them."""

    minutes: float
    started: float
    """When the stage began, by `time.monotonic()`."""
    evaluation_seconds: float = 0.0
    """What all evaluations will take; or, where they come on top of the minutes, what they took so far."""
    evaluations_come_on_top: bool = False

    def steps(self, done: int, step_seconds: float) -> int:
        """Steps that there is time for in all, of which `done` are done; `step_seconds` is what one takes."""
        left = 60 * self.minutes - (time.monotonic() - self.started)
        if self.evaluations_come_on_top:
            left = MARGIN * (left + self.evaluation_seconds)
        else:
            left = MARGIN * left - self.evaluation_seconds
        return done + max(0, int(left / step_seconds))


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes the second time it is done: the first may compile."""
    action()
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
