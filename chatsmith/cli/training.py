"""What `pretrain`, `sft` and `rl` share: where a run directory keeps what training needs, and what a finished stage
leaves there.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch

from chatsmith.bundle import GENERATION_DEFAULTS, Bundle, check_bundle, load_bundle, save_bundle
from chatsmith.cli.config import Shape, Training
from chatsmith.evals.suites import along_training
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.report.estimate import device_called, step_time
from chatsmith.report.model_card import model_card
from chatsmith.runtime.atomic import remove_folder
from chatsmith.runtime.console import Reporter, counted, format_seconds
from chatsmith.runtime.device import Runtime, detect_runtime, peak_memory_bytes
from chatsmith.runtime.distributed import process_group
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import BUNDLE_FILE, RunDirectory, all_keys, command_for, settings_of
from chatsmith.tasks.benchmark_files import default_folder
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.checkpoint import saved_states
from chatsmith.train.plan import Plan, model_shape
from chatsmith.train.step import uncompiled
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import TrainingRun, TrainResult

T = TypeVar("T")


@contextlib.contextmanager
def exclusive(
    run: RunDirectory, config: Training, scales_loss: bool = False
) -> Iterator[tuple[Runtime, Reporter]]:
    """The runtime and the console of a command that trains in `run`, which it locks; all processes join their group."""
    runtime = detect_runtime(config.device, config.dtype, scales_loss)
    lock = run.lock() if runtime.is_main else contextlib.nullcontext()
    with process_group(runtime, 60 * config.disk_wait), lock:
        yield runtime, Reporter(silent=not runtime.is_main)


def is_up_to_date(run: RunDirectory, stage: str, key: str, reporter: Reporter) -> bool:
    """Whether the model of `stage` is the one of these settings, and whole; the console gets the answer."""
    if not run.is_done(stage, key):
        return False
    try:
        check_bundle(run.bundle(stage))
    except UserError as error:
        reporter.notice(f"the finished model is damaged and is trained again ({error})")
        return False
    reporter.line(f"The model in {run.bundle(stage)} is up to date.")
    remove_folder(run.state(stage))  # a kill may have come between the last two lines of `finish`
    return True


def load_start(source: Path, runtime: Runtime) -> Bundle:
    """The model to train on. Raises UserError, with the command that makes it again where it is one of a run."""
    try:
        return load_bundle(source, device=runtime.device)
    except UserError as error:
        command = command_for(source)
        raise UserError(f"{error}: {command}" if command else str(error)) from error


def settings_from(config: Any, kind: type[T]) -> T:
    """The fields of `kind`, a dataclass, taken from a command's settings."""
    return kind(**{field.name: getattr(config, field.name) for field in fields(kind)})  # pyright: ignore[reportArgumentType]


def training_run(
    run: RunDirectory,
    stage: str,
    key: str,
    config: Any,
    runtime: Runtime,
    reporter: Reporter,
    started: float,
    tokenizer: Tokenizer,
) -> TrainingRun:
    """`stage` of a run directory as the trainer sees it. Raises UserError where a benchmark is wanted whose files are
    missing."""
    every = getattr(config, "core_every", 0)
    suite = "core" if stage == "pretrain" else "chat"
    benchmark = every and along_training(suite, tokenizer, runtime, config.eval_data or default_folder())

    def after_step(model: GPT, step: int) -> dict[str, float]:
        if config.keep_every and step % config.keep_every == 0 and runtime.is_main:
            name = f"{run.path.name}, {stage} after step {step:,}"
            tables: dict[str, dict[str, str]] = {"data": {}, "recipe": {}, "scores": {}, "cost": {}}
            save_bundle(
                run.stage(stage) / "steps" / str(step),
                model,
                tokenizer,
                generation=GENERATION_DEFAULTS,
                card=model_card(name, "Kept along the way of a training run.", **tables),
                provenance={"stage": stage, "seed": config.seed, "step": step, "settings": key},
            )
        if not benchmark or step % every:
            return {}
        with uncompiled():
            return benchmark(model)

    states = saved_states(run.state(stage))
    saved = {str(state.facts.get("key")).partition(" ")[0]: state.facts for state in states}
    resumed = next((one for one in all_keys(key) if one in saved), key)
    return TrainingRun(
        stage,
        resumed,
        run.state(stage),
        run.metrics,
        runtime,
        reporter,
        track=None if config.track == "none" else config.track,
        save_seconds=60 * config.save_minutes,
        on_bad_loss=config.on_bad_loss,
        disk_wait_seconds=60 * config.disk_wait,
        on_save=config.on_save,
        started=started,
        settings={name: value for name, value in settings_of(config).items() if name not in ("run", "json")},
        after_step=after_step,
        chosen=dict(saved.get(resumed, {}).get("chosen", {})),
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
        "foreseen_memory_gb": round(plan.foreseen_memory_bytes / 1e9, 3),
        **_foreseen_speed(plan, training.runtime),
    }


def _foreseen_speed(plan: Plan, runtime: Runtime) -> dict[str, float]:
    """Tokens/s by the model of time, where the GPU is in its table."""
    title = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else ""
    device, dtype = device_called(title), runtime.dtype_name
    if device is None or dtype not in device.flops or not plan.has_equal_steps:
        return {}
    step = step_time(
        plan.model,
        device,
        tokens_per_step=plan.tokens_per_step,
        microbatch_tokens=plan.rows_per_microbatch * plan.sequence_length,
        world_size=plan.world_size,
        dtype=dtype,
    )
    return {"foreseen_tokens_per_second": round(plan.tokens_per_step / step.seconds, 1)}


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
            "Shape": f"{counted(shape.num_layers, 'layer')}, {shape.model_dim} channels, "
            f"{counted(shape.num_heads, 'head')}",
            "Parameters": f"{plan.cost.parameters:,}",
            "Context": f"{shape.context_length:,} tokens",
            "Training": f"{tokens:,} tokens in {counted(plan.steps, 'step')}",
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
    settings or others, and no checkpoint that others have kept."""
    for path in run.checkpoints(stage).values():
        if json.loads((path / BUNDLE_FILE).read_bytes())["provenance"].get("settings") != key:
            shutil.rmtree(path, ignore_errors=True)
    run.mark_done(stage, key, facts, [run.bundle(stage), *outputs], config)
    remove_folder(run.state(stage))
