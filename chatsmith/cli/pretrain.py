"""`chatsmith pretrain`: train a model from nothing to continue the run's text, and write `<run>/pretrain/bundle`.

Reads the run's data and tokenizer; tokenizes in the background while it trains. Interrupted, it saves and goes on
from there the next time. Given minutes, it measures how far they reach, keeps that in the run's recipe.toml, and
every later run of the same settings trains on the same number of tokens.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from chatsmith.cli.config import PretrainConfig as Config

if TYPE_CHECKING:
    from chatsmith.data.packing import Batch, ValidationRows
    from chatsmith.data.tokens import TokenCache
    from chatsmith.model.config import GPTConfig
    from chatsmith.model.gpt import GPT
    from chatsmith.runtime.console import Reporter
    from chatsmith.runtime.device import Runtime
    from chatsmith.runtime.run_directory import RunDirectory
    from chatsmith.text.tokenizer import Tokenizer
    from chatsmith.train.plan import Plan
    from chatsmith.train.trainer import ComputeLoss, TrainResult

STAGE = "pretrain"


def main(config: Config) -> None:
    """Pretrain the model of `config.run`, unless it is already what this would make."""
    from chatsmith.data.dataset import load_manifest
    from chatsmith.runtime.console import Reporter
    from chatsmith.runtime.device import detect_runtime
    from chatsmith.runtime.distributed import process_group
    from chatsmith.runtime.run_directory import RunDirectory, stage_key
    from chatsmith.text.tokenizer import Tokenizer

    started = time.monotonic()
    run = RunDirectory(config.run)
    runtime = detect_runtime(config.device, config.dtype)
    reporter = Reporter(silent=not runtime.is_main)
    with process_group(runtime), run.lock() if runtime.is_main else contextlib.nullcontext():
        manifest = load_manifest(run.data)
        tokenizer = Tokenizer.load(run.tokenizer)
        key = stage_key(config, documents=manifest.documents.fingerprint, tokenizer=tokenizer.fingerprint)
        if run.is_done(STAGE, key):
            reporter.line(f"The pretrained model in {run.bundle(STAGE)} is up to date.")
            return
        training = _Pretraining(config, run, runtime, reporter, tokenizer, key, started)
        with contextlib.closing(training):
            training.run_to_the_end()


class _Pretraining:
    """One pretraining, from the token cache to the bundle."""

    def __init__(
        self,
        config: Config,
        run: "RunDirectory",
        runtime: "Runtime",
        reporter: "Reporter",
        tokenizer: "Tokenizer",
        key: str,
        started: float,
    ) -> None:
        from chatsmith.data.packing import TrainingRows
        from chatsmith.train.calibrate import TimeBudget

        self.config, self.run, self.runtime, self.reporter = config, run, runtime, reporter
        self.tokenizer, self.key, self.started = tokenizer, key, started
        self.shape = self._shape()
        self.caches = [self._open_cache("train"), self._open_cache("validation")]
        self.rows = TrainingRows(self.caches[0], config.sequence_length, config.seed)
        self.validation: ValidationRows | None = None
        self.is_measured = False
        """Is the horizon in time, and new?"""
        self.budget = TimeBudget(config.minutes, started)

    def close(self) -> None:
        for cache in self.caches:
            cache.close()

    def run_to_the_end(self) -> None:
        from chatsmith.train.objective import prepare
        from chatsmith.train.session import Session, correction
        from chatsmith.train.trainer import Hooks

        self.reporter.stage("Pretraining", f"{_described(self.shape)}, on {self.runtime.describe()}")
        model = self._initial_model()
        compute_loss = prepare(
            model, self.runtime, self.config.compile, self.reporter.notice, self._expected_seconds()
        )
        plan = self._plan(self._horizon(model, compute_loss))
        self.reporter.line(
            f"{plan.cost.parameters:,} parameters, {plan.tokens:,} tokens in {plan.steps:,} steps "
            f"of {plan.tokens_per_step:,}"
        )
        config = self.config
        hooks = Hooks(
            evaluate=lambda: {"bpb": self._score(model, plan)},
            evaluate_every=math.ceil(plan.steps / config.evaluations) if config.evaluations else 0,
            sample=(lambda: self._continuation(model)) if config.prompt else None,
            save_seconds=60 * config.save_minutes,
            first_step=self._tell_first_step,
            correct=correction(
                self.run, STAGE, self.key, self.runtime, self.budget.steps if self.is_measured else None
            ),
        )
        if self.runtime.is_main:
            self.run.keep_settings(STAGE, self.key, config)
        session = Session.of(
            self.run, STAGE, self.key, self.runtime, self.reporter, config.track, self.started
        )
        result = session.train(model, plan, lambda row: self._batches(plan, row), compute_loss, hooks)
        if self.runtime.is_main:
            self._finish(model, replace(plan, steps=result.steps), result)

    def _initial_model(self) -> "GPT":
        import torch

        from chatsmith.model.gpt import GPT

        model = GPT(self.shape)
        model.init_weights(torch.Generator().manual_seed(self.config.seed))
        return model.to(self.runtime.device)

    def _shape(self) -> "GPTConfig":
        from chatsmith.train.plan import model_shape

        config = self.config
        return model_shape(
            config.depth,
            self.tokenizer.vocab_size,
            sequence_length=config.sequence_length,
            width=config.width or None,
            head_dim=config.head_dim,
            bigram_buckets=config.bigram_buckets,
            window_pattern=config.window_pattern,
        )

    def _open_cache(self, split: Literal["train", "validation"]) -> "TokenCache":
        from chatsmith.data.tokens import open_token_cache

        run = self.run
        return open_token_cache(
            run.tokens,
            data_folder=run.data,
            tokenizer_folder=run.tokenizer,
            split=split,
            build=self.runtime.is_main,
        )

    def _batches(self, plan: "Plan", start_row: int) -> "Iterator[Batch]":
        runtime = self.runtime
        pin = runtime.device.type == "cuda"
        return self.rows.batches(
            plan.rows_per_microbatch, start_row, runtime.rank, runtime.world_size, pin_memory=pin
        )

    def _plan(self, tokens: int) -> "Plan":
        from chatsmith.train.plan import make_plan

        return make_plan(
            self.shape,
            tokens,
            batch_tokens=self.config.batch_tokens or None,
            rows_per_microbatch=self.config.rows_per_microbatch or None,
            world_size=self.runtime.world_size,
            rate_scale=self.config.rate_scale,
        )

    def _expected_seconds(self) -> float:
        from chatsmith.model.config import model_cost
        from chatsmith.train.objective import expected_seconds

        config, cost = self.config, model_cost(self.shape)
        if config.minutes:
            return 60 * config.minutes
        tokens = config.tokens or config.ratio * cost.scaling_parameters
        return expected_seconds(tokens * cost.training_flops_per_token, self.runtime)

    def _horizon(self, model: "GPT", compute_loss: "ComputeLoss[Batch]") -> int:
        """Tokens to train on: as given, as measured earlier for these settings, or as many as the minutes hold."""
        from chatsmith.model.config import model_cost
        from chatsmith.train.session import horizon

        config = self.config
        if config.tokens:
            return config.tokens
        if not config.minutes:
            return int(config.ratio * model_cost(self.shape).scaling_parameters)
        return horizon(
            self.run,
            STAGE,
            "tokens",
            self.key,
            self.runtime,
            lambda: self._measured_horizon(model, compute_loss),
        )

    def _measured_horizon(self, model: "GPT", compute_loss: "ComputeLoss[Batch]") -> int:
        from chatsmith.model.config import model_cost
        from chatsmith.runtime.device import gemm_peak
        from chatsmith.train.calibrate import seconds_per_step, timed

        self.reporter.line("Measuring how far the time reaches (this compiles the model, too) ...")
        self.is_measured = True
        seconds = 60 * self.config.minutes
        # A first guess, half the matrix peak, is enough to choose the batch size that is then measured.
        flops = gemm_peak(self.runtime, self.runtime.compute_dtype, seconds=0.3) / 2
        guess = max(1, int(seconds * flops / model_cost(self.shape).training_flops_per_token))
        plan = self._plan(self._agreed(guess))
        step_seconds = seconds_per_step(model, plan, self._batches(plan, 0), compute_loss, self.runtime)
        self.budget.evaluation_seconds = timed(lambda: self._score(model, plan)) * (
            self.config.evaluations + 1
        )
        return max(1, self.budget.steps(0, step_seconds)) * plan.tokens_per_step

    def _agreed(self, tokens: int) -> int:
        """The main process's number: with one of its own, each would follow another plan."""
        from chatsmith.runtime.distributed import main_number

        return int(main_number(tokens, self.runtime))

    def _score(self, model: "GPT", plan: "Plan") -> float:
        """Bits per byte on the sample of the validation text that is looked at along the way."""
        import torch

        from chatsmith.data.packing import ValidationRows
        from chatsmith.model.loss import bits_per_byte
        from chatsmith.train.objective import uncompiled

        device = self.runtime.device
        if self.validation is None:  # not before: it waits for all of the validation text
            self.validation = ValidationRows(self.caches[1], self.config.sequence_length)
        sample = max(1, self.config.evaluate_tokens // self.config.sequence_length)
        batches = (
            batch.to(device) for batch in self.validation.batches(plan.rows_per_microbatch, max_rows=sample)
        )
        lengths = torch.from_numpy(self.tokenizer.token_byte_lengths.copy()).to(device)
        with uncompiled():
            return bits_per_byte(model, batches, lengths)

    def _continuation(self, model: "GPT") -> str:
        from chatsmith.engine.engine import Engine
        from chatsmith.engine.request import Request, Sampling

        prompt = (self.tokenizer.bos_id, *self.tokenizer.encode(self.config.prompt))
        engine = Engine(model, self.tokenizer, kv_tokens=self.config.sequence_length)
        (completion,) = engine.generate([Request(prompt, Sampling(max_tokens=40))])
        return f"{self.config.prompt}{completion.text}"

    def _tell_first_step(self) -> None:
        seconds = time.monotonic() - self.started
        self.reporter.line(f"First step done {seconds:.0f} s after the command began.")

    def _finish(self, model: "GPT", plan: "Plan", result: "TrainResult") -> None:
        from chatsmith.train.session import facts_of, finish, save_trained

        facts = facts_of(result, plan, time.monotonic() - self.started, self.runtime)
        save_trained(
            self.run,
            STAGE,
            model,
            self.tokenizer,
            summary="A language model that continues text, trained from nothing; not yet fine-tuned to chat.",
            plan=plan,
            facts=facts,
            seed=self.config.seed,
        )
        finish(self.run, STAGE, self.key, facts, outputs=[self.run.bundle(STAGE)])


def _described(shape: "GPTConfig") -> str:
    return f"{shape.num_layers} layers, {shape.model_dim} channels, {shape.vocab_size:,} tokens of vocabulary"
