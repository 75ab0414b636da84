"""What `pretrain`, `sft` and `rl` share: where a run directory keeps what training needs, and what a finished stage
leaves there.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from chatsmith.bundle import GENERATION_DEFAULTS, model_card, save_bundle
from chatsmith.cli.config import Shape
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter, format_seconds
from chatsmith.runtime.device import Runtime, detect_runtime, peak_memory_bytes
from chatsmith.runtime.distributed import process_group
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.plan import Plan, model_shape
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import TrainingRun, TrainResult

T = TypeVar("T")


@contextlib.contextmanager
def exclusive(run: RunDirectory, device: str, dtype: str) -> Iterator[tuple[Runtime, Reporter]]:
    """The runtime and the console of a command that trains in `run`, which it locks; all processes join their group."""
    runtime = detect_runtime(device, dtype)
    lock = run.lock() if runtime.is_main else contextlib.nullcontext()
    with process_group(runtime), lock:
        yield runtime, Reporter(silent=not runtime.is_main)


def settings_from(config: Any, kind: type[T]) -> T:
    """The fields of `kind`, a dataclass, taken from a command's settings."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})  # pyright: ignore[reportArgumentType]


def training_run(
    run: RunDirectory, stage: str, key: str, config: Any, runtime: Runtime, reporter: Reporter, started: float
) -> TrainingRun:
    """`stage` of a run directory as the trainer sees it."""
    return TrainingRun(
        stage,
        key,
        run.state(stage),
        run.metrics,
        runtime,
        reporter,
        track=None if config.track == "none" else config.track,
        save_seconds=60 * config.save_minutes,
        started=started,
    )


def shape_of(config: Shape, vocab_size: int) -> GPTConfig:
    """The model that the settings describe."""
    return model_shape(
        config.depth,
        vocab_size,
        sequence_length=config.sequence_length,
        width=config.width or None,
        head_dim=config.head_dim,
        bigram_buckets=config.bigram_buckets,
        window_pattern=config.window_pattern,
        value_embeddings=config.value_embeddings,
        architecture=config.architecture,
    )


class FrozenNumbers:
    """What `stage` measured under `key`, kept in the run's recipe.toml."""

    def __init__(self, run: RunDirectory, stage: str, key: str) -> None:
        self._run, self._stage, self._key = run, stage, key

    def get(self, name: str) -> int | None:
        """What was kept for these settings, if anything."""
        value = self._run.frozen(self._stage, name, self._key)
        return int(value) if value else None

    def keep(self, name: str, value: int) -> None:
        """Write a number into the recipe."""
        self._run.freeze(self._stage, name, value, self._key)


def time_budget(
    run: RunDirectory, training: TrainingRun, minutes: float, **options: Any
) -> TimeBudget | None:
    """The budget of a run that is given in minutes; None for 0. `options` are fields of TimeBudget."""
    if not minutes:
        return None
    kept = FrozenNumbers(run, training.stage, training.key)
    return TimeBudget(minutes, training.started, kept, training.runtime, **options)


def facts_of(training: TrainingRun, plan: Plan, result: TrainResult) -> dict[str, float]:
    """The numbers of a finished run for the results table, all commands that it took included."""
    seconds = result.earlier_seconds + time.monotonic() - training.started
    return {
        **{name: round(value, 4) for name, value in result.scores.items()},
        "loss": round(result.loss, 4),
        "seconds": round(seconds, 1),
        "tokens": plan.tokens,
        "steps": plan.steps,
        "parameters": plan.cost.parameters,
        "tokens_per_second": round(result.tokens_per_second, 1),
        "share_of_peak": round(result.share_of_peak, 4),
        "peak_memory_gb": round(peak_memory_bytes(training.runtime) / 1e9, 3),
    }


def save_trained(
    run: RunDirectory,
    stage: str,
    model: GPT,
    tokenizer: Tokenizer,
    plan: Plan,
    facts: dict[str, float],
    *,
    summary: str,
    seed: int,
) -> None:
    """Write the bundle of a finished stage, with its model card.

    What goes into `config.json` is the same for equal runs; what a clock measured goes into the card alone.
    """
    shape, tokens = plan.model, int(facts["tokens"])
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


def finish(
    run: RunDirectory,
    stage: str,
    key: str,
    config: Any,
    facts: dict[str, float],
    outputs: Sequence[Path] = (),
) -> None:
    """Record that `stage` is done, with its bundle and `outputs`. No training state is needed any more, of these
    settings or others."""
    run.mark_done(stage, key, facts, [run.bundle(stage), *outputs], config)
    shutil.rmtree(run.state(stage), ignore_errors=True)
