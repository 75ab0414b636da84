"""How long a step takes here, and how many steps fit into the minutes that a run may take.

A budget in minutes becomes a number of steps three times: before the first step, from a few steps on the model and data
at hand; after a quarter of the steps; and after six tenths of what they have become. Each number is kept, so that the
same settings give the same model again, on whatever machine.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.optim.sharded import make_optimizer
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.distributed import main_number
from chatsmith.train.plan import Plan
from chatsmith.train.step import B, ComputeLoss, train_step

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
def trial(model: GPT, plan: Plan, runtime: Runtime) -> Iterator[Optimizer]:
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
