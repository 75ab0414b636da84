"""What `pretrain`, `mid`, `sft` and `rl` share: where a run directory keeps what training needs, and what a finished
stage leaves there.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any, TypeVar

import torch

from chatsmith.backends import choose_loss
from chatsmith.backends.fp8 import fp8_products
from chatsmith.backends.fully_sharded import gather, place_sharded, uneven
from chatsmith.backends.lora import ADAPTER, adapter_beside, add_lora, merged, save_adapter
from chatsmith.bundle import GENERATION_DEFAULTS, Bundle, check_bundle, load_bundle, save_bundle
from chatsmith.cli.config import Shape
from chatsmith.cli.data import eval_folder
from chatsmith.cli.settings import to_recipe
from chatsmith.data.dataset import load_manifest
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, SamplingParams
from chatsmith.evals.hardest import hardest_rows
from chatsmith.evals.suites import along_training
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import chunk_gradient
from chatsmith.report.estimate import device_here, step_of
from chatsmith.report.model_card import model_card
from chatsmith.runtime.atomic import remove_folder
from chatsmith.runtime.console import Reporter, counted, format_bytes, format_seconds
from chatsmith.runtime.device import Runtime, detect_runtime, peak_memory_bytes
from chatsmith.runtime.distributed import process_group
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.rank import per_machine, rank_from
from chatsmith.runtime.run_directory import FrozenNumbers, RunDirectory, all_keys, command_for, stage_key
from chatsmith.runtime.states import saved_states
from chatsmith.text.chat import Message, render_prompt
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.tools.calculator import calculator_tool
from chatsmith.train.memory import RECOMPUTING, Way, find_fit, free_for_training
from chatsmith.train.plan import Plan, dial, model_shape
from chatsmith.train.step import uncompiled
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import TrainingRun, TrainResult
from chatsmith.worlds.kindergarten import SUGGESTIONS

T = TypeVar("T")

SAMPLE_TOKENS, ALTERNATIVES, LEAST_LOGPROB = 64, 3, -99.0


@dataclass
class Stage:
    """A stage that trains, under way: its run directory, which it has locked, its settings, and where it computes."""

    name: str
    config: Any
    runtime: Runtime
    reporter: Reporter
    opened: contextlib.ExitStack
    """Closes what works in the background."""
    started: float
    """When the command began, by `time.monotonic()`."""
    key: str = ""
    """The identity of what it makes, once `is_up_to_date` has been asked."""
    base: Path | None = None
    """The bundle whose model is frozen, where LoRA trains beside it."""

    @property
    def run(self) -> RunDirectory:
        """The run directory."""
        return RunDirectory(self.config.run)

    def is_up_to_date(self, **inputs: str) -> bool:
        """Whether the model is the one of these settings and inputs, and whole; the console gets the answer."""
        self.key, bundle = stage_key(self.config, **inputs), self.run.bundle(self.name)
        if not self.run.is_done(self.name, self.key):
            return False
        try:
            check_bundle(bundle)
        except UserError as error:
            self.reporter.notice(f"the finished model is damaged and is trained again ({error})")
            return False
        self.reporter.line(f"The model in {bundle} is up to date.")
        # A kill may have come between the last two lines of `finish`.
        remove_folder(self.run.state(self.name))
        return True

    def settings(self, kind: type[T]) -> T:
        """The fields of `kind`, a dataclass, taken from the command's settings."""
        return kind(**{field.name: getattr(self.config, field.name) for field in fields(kind)})  # pyright: ignore[reportArgumentType]

    def freeze(self, start: Bundle) -> None:
        """Let LoRA train beside the model of `start` instead of in it, where the settings say so."""
        if self.config.lora_rank:
            self.base = start.path
            adapter_beside(start.path)  # if it is damaged, that is said before anything is trained
            add_lora(start.model, self.config.lora_rank, self.config.lora_products, self.config.seed)

    def _placing(self, shape: GPTConfig | None, chosen: dict[str, Any]) -> Callable[[GPT, Runtime], object]:
        """What puts the weights where they train: cut among processes, where the settings say so or nothing else fits.
        That is `chosen` once: a run that goes on keeps it. Raises UserError for settings that do not go with cut ones.
        No shape: they stay whole."""
        config, runtime = self.config, self.runtime
        shard = config.shard if shape and runtime.world_size > 1 else "optimizer"
        whole = [name for name in ("lora_rank", "core_every", "fp8") if getattr(config, name, None)]
        whole += ["dtype"] * (runtime.compute_dtype == torch.float16)
        processes = per_machine(rank_from(os.environ), os.environ)
        if shape and shard == "auto" and not whole and not uneven(shape, runtime.world_size, processes):
            if "shards" not in chosen:
                way = Way(runtime.compute_dtype, runtime.device.type == "cuda", config.compile)
                way = replace(way, world_size=runtime.world_size, most_shards=processes)
                # On a CPU, weights that are loaded already count twice, which only cuts somewhat earlier.
                fit = find_fit(shape, 2, 2, way, free_for_training(runtime))
                chosen["shards"] = fit.way.shards if fit.fits else 1
            shard = "full" if chosen["shards"] > 1 else "optimizer"
        if shard != "full":
            return TrainingRun.place
        if whole:
            raise UserError(
                f"{whole[0]} needs whole weights: leave one of them out", setting=(whole[0], "shard")
            )
        left = "; sample_prompts need whole weights and are left out" if config.sample_prompts else ""
        self.reporter.notice(f"weights, gradients and optimizer are cut among {processes} processes{left}")
        return partial(place_sharded, per_machine=processes)

    def training_run(self, tokenizer: Tokenizer, shape: GPTConfig | None = None) -> TrainingRun:
        """The stage as the trainer sees it. Raises UserError where a benchmark is wanted whose files are missing."""
        config, folder = self.config, self.run.state(self.name)
        every = getattr(config, "core_every", 0)
        suite = "core" if self.name == "pretrain" else "chat"
        benchmark = every and along_training(suite, tokenizer, self.runtime, eval_folder(config.eval_data))

        def after_step(model: GPT, step: int) -> dict[str, float]:
            keeps = config.keep_every and step % config.keep_every == 0
            whole = gather(merged(model), self.runtime) if keeps else model
            if keeps and self.runtime.is_main:
                save_bundle(
                    self.run.stage(self.name) / "steps" / str(step),
                    whole,
                    tokenizer,
                    generation=GENERATION_DEFAULTS,
                    card=model_card(
                        f"{self.run.path.name}, {self.name} after step {step:,}",
                        "Kept along the way of a training run.",
                    ),
                    provenance={"stage": self.name, "seed": config.seed, "step": step, "settings": self.key},
                )
            if not benchmark or step % every:
                return {}
            with uncompiled():
                return benchmark(merged(model))

        states = saved_states(folder)
        saved = {str(state.facts.get("key")).partition(" ")[0]: state.facts for state in states}
        resumed = next((one for one in all_keys(self.key) if one in saved), self.key)
        describe = partial(hardest_rows, text_of=tokenizer.decode, runtime=self.runtime)
        prompts, answers = config.sample_prompts, self.name != "pretrain"
        chosen = dict(saved.get(resumed, {}).get("chosen", {}))
        return TrainingRun(
            self.name,
            resumed,
            folder,
            self.run.metrics,
            self.runtime,
            self.reporter,
            track=None if config.track == "none" else config.track,
            save_seconds=60 * config.save_minutes,
            on_bad_loss=config.on_bad_loss,
            disk_wait_seconds=60 * config.disk_wait,
            on_save=config.on_save,
            started=self.started,
            settings=to_recipe(config),
            after_step=after_step,
            chosen=chosen,
            gradient_of=choose_loss(self.runtime, self.reporter.line)
            if self.name != "rl"
            else chunk_gradient,
            adjust=fp8_products(self.runtime.device) if getattr(config, "fp8", False) else TrainingRun.adjust,
            describe=describe if self.name != "rl" else lambda *_: [],
            place=self._placing(shape, chosen),
            sample=partial(say, tokenizer=tokenizer, prompts=prompts, answers=answers) if prompts else None,
        )

    def budget(self, training: TrainingRun, **options: Any) -> TimeBudget | None:
        """The budget of a run that is given in minutes; None for 0. `options` are fields of TimeBudget."""
        minutes, kept = self.config.minutes, FrozenNumbers(self.run, self.name, training.key)
        return TimeBudget(minutes, self.started, kept, self.runtime, **options) if minutes else None

    def finish(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        plan: Plan,
        facts: dict[str, Any],
        summary: str,
        outputs: Sequence[Path] = (),
    ) -> None:
        """Write the bundle, with its model card, and record that the stage is done, with `outputs`.

        What goes into `config.json` is the same for equal runs; what a clock measured goes into the card alone.
        """
        run, shape, tokens, seed = self.run, plan.model, int(facts["tokens"]), self.config.seed
        sources, suggestions = _about_data(run)
        card = model_card(
            f"{run.path.name}, {self.name}",
            summary,
            data=sources,
            recipe={
                "Shape": f"{counted(shape.num_layers, 'layer')}, {shape.model_dim} channels, "
                f"{counted(shape.num_heads, 'head')}",
                "Parameters": f"{plan.cost.parameters:,}",
                "Context": f"{shape.context_length:,} tokens",
                "Training": f"{tokens:,} tokens in {counted(plan.steps, 'step')}",
                "Seed": str(seed),
            },
            cost={
                "Time": f"{format_seconds(facts['seconds'])}, this stage",
                "Arithmetic": f"{tokens * plan.cost.training_flops_per_token:.2e} floating-point operations",
                "Peak memory": format_bytes(1e9 * facts["peak_memory_gb"]),
            },
            suggestions=suggestions,
        )
        save_bundle(
            run.bundle(self.name),
            merged(model),
            tokenizer,
            generation=GENERATION_DEFAULTS,
            card=card,
            provenance={"stage": self.name, "seed": seed, "tokens": tokens},
        )
        remove_folder(run.stage(self.name) / ADAPTER)  # of a model that this one replaces
        if self.base:
            outputs = [*outputs, save_adapter(model, self.base, run.bundle(self.name))]
        finish(run, self.name, self.key, self.config, facts, outputs)


@contextlib.contextmanager
def training_stage(name: str, config: Any, *, scales_loss: bool = False) -> Iterator[Stage]:
    """A stage that trains in `config.run`, which the main process locks; all processes join their group."""
    started = time.monotonic()
    runtime = detect_runtime(config.device, config.dtype, scales_loss)
    lock = RunDirectory(config.run).lock() if runtime.is_main else contextlib.nullcontext()
    with process_group(runtime, 60 * config.disk_wait), lock, contextlib.ExitStack() as opened:
        yield Stage(name, config, runtime, Reporter(silent=not runtime.is_main), opened, started)


def say(model: GPT, tokenizer: Tokenizer, prompts: Sequence[str], *, answers: bool) -> dict[str, Any]:
    """How the model continues `prompts`, or `answers` them: the first as a `sample` to show; and, as `samples`, all of
    them token by token: each with its id, text (bytes, where it is a part of a character), log-probability (None where
    the calculator put it in) and alternatives."""

    def entry(id: int, logprob: float | None) -> list[Any]:
        text = tokenizer.decode([id])
        shown = list(tokenizer.decode_bytes([id])) if "\ufffd" in text else text
        return [id, shown, None if logprob is None else round(max(logprob, LEAST_LOGPROB), 3)]

    def entries(said: Completion) -> list[list[Any]]:
        reported = zip(said.ids, said.logprobs or (), strict=True)
        return [
            [*entry(id, one and one.logprob), list(starmap(entry, one.top if one else ()))]
            for id, one in reported
        ]

    # Greedily, so that one evaluation can be compared with another.
    sampling = SamplingParams(temperature=0.0, max_tokens=SAMPLE_TOKENS, logprobs=ALTERNATIVES)
    asked = [
        render_prompt([Message.of("user", text)], tokenizer)
        if answers
        else [tokenizer.bos_id, *tokenizer.encode(text)]
        for text in prompts
    ]
    # So few tokens are done before a faster backend is ready; what training left of the memory is enough for them.
    room, tool = sum(len(ids) + 2 * SAMPLE_TOKENS for ids in asked), calculator_tool if answers else None
    engine = Engine(merged(model), tokenizer, tool=tool, max_running=len(asked), kv_tokens=room)
    said = engine.generate([Request(tuple(ids), sampling) for ids in asked])
    samples = [{"prompt": text, "tokens": entries(one)} for text, one in zip(prompts, said, strict=True)]
    first = said[0].error or said[0].text
    return {"sample": f"{prompts[0]}{' → ' if answers else ''}{first}", "samples": samples}


def load_start(source: Path, device: torch.device | str) -> Bundle:
    """The model to train on. Raises UserError, with the command that makes it again where it is one of a run."""
    try:
        return load_bundle(source, device=device)
    except UserError as error:
        command = command_for(source)
        raise UserError(f"{error}: {command}" if command else str(error)) from error


S = TypeVar("S", bound=Shape)


def with_dial(config: S) -> S:
    """The settings with what the depth says where they say nothing."""
    usual = dial(config.depth, config.architecture)._asdict()
    return replace(
        config, **{name: value for name, value in usual.items() if not getattr(config, name, True)}
    )


def shape_of(config: Shape, vocab_size: int) -> GPTConfig:
    """The model that the settings describe."""
    config = with_dial(config)
    shape: dict[str, Any] = {field.name: getattr(config, field.name) for field in fields(Shape)}
    return model_shape(vocab_size=vocab_size, **shape)


def facts_of(training: TrainingRun, plan: Plan, result: TrainResult, model: GPT) -> dict[str, Any]:
    """The numbers of a finished run of `model` for the results table, all commands that it took included."""
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
        **_foreseen_speed(plan, model, training.runtime, bool(training.settings.get("fp8"))),
    }


def _foreseen_speed(plan: Plan, model: GPT, runtime: Runtime, fp8: bool) -> dict[str, float]:
    """Tokens/s by the model of time, where the GPU is in its table."""
    device, dtype = device_here(runtime.device), runtime.dtype_name
    rates = {dtype, "fp8"} if fp8 else {dtype}
    if device is None or not rates <= device.flops.keys() or not plan.has_equal_steps:
        return {}
    again = float(model.run_block is RECOMPUTING["blocks"])
    step = step_of(plan, device, dtype, again, fp8=fp8, is_cut=model.shards > 1)
    return {"foreseen_tokens_per_second": round(plan.tokens_per_step / step.seconds, 1)}


def _about_data(run: RunDirectory) -> tuple[dict[str, str], Sequence[str]]:
    """What the card says of the data, and what to ask a model of the built-in world; what others know, nobody knows
    here."""
    try:
        manifest = load_manifest(run.data)
    except UserError:
        return {}, ()  # fine-tuned on files of its own
    rows: dict[str, str] = {}
    for name, split in (("Documents", manifest.documents), ("Conversations", manifest.conversations)):
        if split:
            # Names alone: a card may be shown to everybody.
            files = [
                one.origin if one.is_remote else Path(one.origin or one.path).name for one in split.train
            ]
            shown = ", ".join(files[:5]) + (f" and {len(files) - 5} more" if len(files) > 5 else "")
            count = f"{split.train_items:,}" if split.train_items else "not counted"
            rows[name] = f"{count} ({manifest.source}: {shown})"
    return rows, SUGGESTIONS if manifest.source == "kindergarten" else ()


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
    run.drop_checkpoints(stage, key)
    run.mark_done(stage, key, facts, [run.bundle(stage), *outputs], config)
    remove_folder(run.state(stage))
