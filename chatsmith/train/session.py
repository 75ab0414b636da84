"""One stage's training from its plan to its last step: optimizer, resuming, saving, metrics, and the loop.

What is trained on and what it is scored by, the stage supplies; where it is kept is the run directory's matter.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from chatsmith.bundle import model_card, save_bundle
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.console import Reporter, format_seconds
from chatsmith.runtime.device import Runtime, gemm_peak, peak_memory_bytes
from chatsmith.runtime.distributed import main_number
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.metrics import MetricsLog
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.checkpoint import (
    Carried,
    Reached,
    TrainingKey,
    keep_records,
    restore_training,
    save_training,
    saved_states,
)
from chatsmith.train.plan import Plan
from chatsmith.train.trainer import B, ComputeLoss, Hooks, TrainResult, train

BatchesFrom = Callable[[int], Iterator[B]]
"""batches_from(start_row): this process's batches, after the first `start_row` rows of all processes."""


CORRECTED_AFTER = (0.25, 0.6)
"""Shares of the steps after which a horizon in time is corrected by the pace so far: first before 0.4, where rates
begin to fall, so that the schedule is one curve all the same, and again when little is left to be wrong about. What is
measured beforehand is off by a third on a machine with neighbours, and the pace of a quarter by a tenth
(docs/lab-log.md)."""

FEWEST_PACED = 4
"""Steps that say something about the pace."""


@dataclass(frozen=True)
class Session:
    """Where and how one stage trains."""

    stage: str
    key: str
    """The identity of this training: a state saved under another key is not resumed."""
    state_folder: Path
    metrics_path: Path
    runtime: Runtime
    reporter: Reporter
    track: str | None = None
    started: float = field(default_factory=time.monotonic)
    """When the stage began, by `time.monotonic()`."""

    @staticmethod
    def of(
        run: RunDirectory,
        stage: str,
        key: str,
        runtime: Runtime,
        reporter: Reporter,
        track: str,
        started: float,
    ) -> "Session":
        """The session of a stage in its run's directory; `track` is a tracker's name, or "none"."""
        tracker = None if track == "none" else track
        return Session(stage, key, run.state(stage), run.metrics, runtime, reporter, tracker, started)

    def train(
        self,
        model: GPT,
        plan: Plan,
        batches_from: BatchesFrom[B],
        compute_loss: ComputeLoss[B],
        hooks: Hooks,
        carried: Carried | None = None,
        scores_before: dict[str, float] | None = None,
    ) -> TrainResult:
        """Train `model` by `plan`, going on from the saved state if there is one of this key.

        `carried` is saved and restored with it. With `hooks.correct` the plan's steps are what was foreseen, and the
        result says how many they became. `scores_before` are recorded as step 0 where training begins anew. Raises
        UserError where another number of processes would go on from a saved state.
        """
        counts_tokens = hooks.figures is None
        if plan.rounding:
            self.reporter.notice(plan.rounding)
        optimizer = Optimizer(model, plan.rates)
        # A step means something else where another number of processes had to round it; rollouts are never rounded.
        key = TrainingKey(self.key, plan.steps, plan.rows_per_step if counts_tokens else None)
        self._look_at_other_states(key, plan)
        reached = restore_training(
            self.state_folder, model, optimizer, key=key, notice=self.reporter.notice, carried=carried
        )
        foreseen, start = plan.steps, reached.step
        steps = reached.steps or foreseen
        plan = replace(plan, steps=steps)
        if start:
            self.reporter.notice(f"going on after step {start:,} of {steps:,}, saved earlier")

        def save(step: int, step_seconds: float) -> None:
            if self.runtime.is_main:
                seconds = reached.seconds + time.monotonic() - self.started
                now = Reached(step, steps, step_seconds, seconds)
                save_training(self.state_folder, model, optimizer, reached=now, key=key, carried=carried)

        first, again = CORRECTED_AFTER
        due = max(FEWEST_PACED, int(foreseen * first))
        if start >= due:
            due = int(steps * again)

        def correct(step: int, step_seconds: float) -> int | None:
            nonlocal steps, due
            assert hooks.correct is not None
            if step != due:
                return None
            corrected = hooks.correct(step, step_seconds)
            steps = steps if corrected is None else max(step, corrected)
            due = int(steps * again)  # behind this step, unless many were added
            return steps

        peak = gemm_peak(self.runtime, self.runtime.compute_dtype, seconds=0.5) if counts_tokens else math.inf
        metrics = self._metrics_after(key, start, scores_before) if self.runtime.is_main else None
        try:
            result = train(
                model,
                optimizer,
                batches_from(start * plan.rows_per_step),
                plan,
                compute_loss,
                runtime=self.runtime,
                reporter=self.reporter,
                metrics=metrics,
                stage=self.stage,
                hooks=replace(
                    hooks,
                    save=save,
                    correct=correct if hooks.correct else None,
                ),
                peak_flops=peak,
                start_step=start,
                start_seconds=reached.step_seconds,
            )
        finally:
            if metrics:
                metrics.close()
        if counts_tokens:
            self._report(result, replace(plan, steps=result.steps))
        return replace(result, earlier_seconds=reached.seconds)

    def _look_at_other_states(self, key: TrainingKey, plan: Plan) -> None:
        """Say which states of other settings are there. Raises UserError where this would be the same training but for
        the number of processes."""
        states = saved_states(self.state_folder)
        others = [state.facts for state in states if state.facts["key"] != str(key)]
        if not others:
            return
        for facts in reversed(others) if len(others) == len(states) else ():
            rows = key.rows_of_same(facts["key"])
            fitting = plan.world_sizes_for(rows) if rows else []
            if fitting:
                numbers = ", ".join(map(str, fitting))
                raise UserError(
                    f"what is saved in {self.state_folder} was trained in steps of {rows:,} rows, and this number of "
                    f"processes ({plan.world_size}) makes them {key.rows:,}: go on with one that fits ({numbers}), "
                    "or delete that folder to start over"
                )
        step, steps = others[-1]["step"], others[-1].get("steps")
        of = f" of {steps:,}" if steps else ""
        self.reporter.notice(
            f"a training with other settings is saved after step {step:,}{of}; its state is kept until this one is "
            "finished, and those settings go on from it"
        )

    def _metrics_after(
        self, key: TrainingKey, start: int, scores_before: dict[str, float] | None
    ) -> MetricsLog:
        """The metrics, with the records of this training up to step `start` and no later ones of this stage: those
        steps are about to come."""
        keep_records(self.metrics_path, self.stage, self.state_folder, str(key), start)
        metrics = MetricsLog(self.metrics_path, self.track)
        if scores_before and not start:
            metrics.write(stage=self.stage, step=0, **scores_before)
        return metrics

    def _report(self, result: TrainResult, plan: Plan) -> None:
        self.reporter.line(
            f"{plan.steps:,} steps, {plan.tokens:,} tokens in {format_seconds(result.seconds)}: "
            f"{result.tokens_per_second:,.0f} tokens/s, {result.share_of_peak:.0%} of this machine's measured "
            f"matrix peak, {peak_memory_bytes(self.runtime) / 1e9:.1f} GB at most"
        )


def horizon(
    run: RunDirectory, stage: str, name: str, key: str, runtime: Runtime, measure: Callable[[], float]
) -> int:
    """How far to train where that was given in minutes: as measured earlier under this key, or else `measure()`.

    What is measured is agreed on by all processes and frozen in the run's recipe as `name` (tokens, steps).
    """
    frozen = run.frozen(stage, name, key)
    if frozen:
        return int(frozen)
    # With a number of its own, each process would follow another plan.
    measured = int(main_number(measure(), runtime))
    if runtime.is_main:
        run.freeze(stage, name, measured, key)
    return measured


def correction(
    run: RunDirectory, stage: str, key: str, runtime: Runtime, held: Callable[[int, float], int] | None
) -> Callable[[int, float], int | None]:
    """What `Hooks.correct` says: the steps that `held` says, which are frozen in the run's recipe, or without it those
    frozen earlier after the same step under this key, if any. `held` is given where a horizon in time is measured, and
    not where a measured one is trained once more."""

    def correct(step: int, step_seconds: float) -> int | None:
        name = f"steps_after_{step}"
        if held is None:
            frozen = run.frozen(stage, name, key)
            return int(frozen) if frozen else None
        # With a number of its own, each process would follow another plan.
        steps = int(main_number(held(step, step_seconds), runtime))
        if runtime.is_main:
            run.freeze(stage, name, steps, key)
        return steps

    return correct


def facts_of(result: TrainResult, plan: Plan, seconds: float, runtime: Runtime) -> dict[str, float]:
    """The figures of a finished training for the results table; `seconds` is what this command took."""
    return {
        **{name: round(value, 4) for name, value in result.scores.items()},
        "loss": round(result.loss, 4),
        "seconds": round(result.earlier_seconds + seconds, 1),
        "tokens": plan.tokens,
        "steps": plan.steps,
        "parameters": plan.cost.parameters,
        "tokens_per_second": round(result.tokens_per_second, 1),
        "share_of_peak": round(result.share_of_peak, 4),
        "peak_memory_gb": round(peak_memory_bytes(runtime) / 1e9, 3),
    }


GENERATION_DEFAULTS = {"temperature": 0.6, "top_k": 50, "max_tokens": 256}
"""How a bundle samples unless told otherwise: a little below the model's own spread, rare tokens cut off."""


def save_trained(
    run: RunDirectory,
    stage: str,
    model: GPT,
    tokenizer: Tokenizer,
    *,
    summary: str,
    plan: Plan,
    facts: dict[str, float],
    seed: int,
    tokens: int | None = None,
) -> None:
    """Write the bundle of a finished stage, with its model card.

    What goes into `config.json` is the same for equal runs; what a clock measured goes into the card alone. `tokens`
    were trained on, where the plan cannot know it beforehand.
    """
    shape = plan.model
    tokens = plan.tokens if tokens is None else tokens
    card = model_card(
        f"{run.path.name}, {stage}",
        summary,
        data={"Sources": f"see data/manifest.json of the run {run.path.name}"},
        recipe={
            "Shape": f"{shape.num_layers} layers, {shape.model_dim} channels, {shape.num_heads} heads",
            "Parameters": f"{plan.cost.parameters:,}",
            "Context": f"{shape.context_length:,} tokens",
            "Training": f"{tokens:,} tokens in {plan.steps:,} steps",
            "Seed": str(seed),
        },
        scores={},
        cost={
            "Time": format_seconds(facts["seconds"]),
            "Arithmetic": f"{tokens * plan.cost.training_flops_per_token:.2e} floating-point operations",
            "Peak memory": f"{facts['peak_memory_gb']:.1f} GB",
        },
    )
    provenance = {"stage": stage, "seed": seed, "tokens": tokens}
    save_bundle(
        run.bundle(stage),
        model,
        tokenizer,
        generation=GENERATION_DEFAULTS,
        card=card,
        provenance=provenance,
    )


def finish(run: RunDirectory, stage: str, key: str, facts: dict[str, float], outputs: Sequence[Path]) -> None:
    """Record that `stage` is done. No training state is needed any more, of these settings or others."""
    run.mark_done(stage, key, facts, outputs)
    shutil.rmtree(run.state(stage), ignore_errors=True)
