"""`chatsmith sft`: teach a model to hold a conversation, and write `<run>/sft/bundle`.

Supervised fine-tuning: the same loop and optimizer as pretraining, on whole conversations, with a loss on what the
assistant says and nothing else. Starts from the run's pretrained model, or from any bundle with `--from`.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chatsmith.cli.config import SftConfig as Config
from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.bundle import Bundle
    from chatsmith.data.conversations import ConversationRows
    from chatsmith.data.dataset import SplitName
    from chatsmith.data.packing import Batch
    from chatsmith.runtime.console import Reporter
    from chatsmith.runtime.device import Runtime
    from chatsmith.runtime.run_directory import RunDirectory
    from chatsmith.text.chat import Conversation
    from chatsmith.train.plan import Plan
    from chatsmith.train.trainer import ComputeLoss, TrainResult

STAGE = "sft"


def main(config: Config) -> None:
    """Fine-tune, unless the run's model is already what this would make."""
    from chatsmith.bundle import bundle_fingerprint, load_bundle, resolve_bundle
    from chatsmith.runtime.console import Reporter
    from chatsmith.runtime.device import detect_runtime
    from chatsmith.runtime.distributed import process_group
    from chatsmith.runtime.run_directory import RunDirectory, stage_key

    started = time.monotonic()
    run = RunDirectory(config.run)
    runtime = detect_runtime(config.device, config.dtype)
    reporter = Reporter(silent=not runtime.is_main)
    with process_group(runtime), run.lock() if runtime.is_main else contextlib.nullcontext():
        source = resolve_bundle(config.from_) if config.from_ else resolve_bundle(run.stage("pretrain"))
        data = _Conversations(config, run)
        key = stage_key(config, bundle=bundle_fingerprint(source), conversations=data.fingerprint)
        if run.is_done(STAGE, key):
            reporter.line(f"The fine-tuned model in {run.bundle(STAGE)} is up to date.")
            return
        bundle = load_bundle(source, device=runtime.device)
        _FineTuning(config, run, runtime, reporter, bundle, data, key, started).run_to_the_end()


class _Conversations:
    """Where the conversations come from: the files given, or those of the run's manifest."""

    def __init__(self, config: Config, run: "RunDirectory") -> None:
        from chatsmith.data.dataset import file_sha256, load_manifest
        from chatsmith.data.documents import find_files

        self.notices: list[str] = []
        self.files: dict[SplitName, list[Path]] | None = None
        self.place = str(run.data)
        if config.conversations:
            self.files = {
                "train": find_files(config.conversations),
                "validation": find_files(config.validation_conversations),
            }
            self.place = ", ".join(map(str, self.files["train"]))
            self.fingerprint = " ".join(file_sha256(file) for files in self.files.values() for file in files)
            return
        self.manifest = load_manifest(run.data)
        if self.manifest.conversations is None:
            raise UserError(
                f"{run.path} has no conversations to learn from; give some with --conversations PATH"
            )
        self.fingerprint = self.manifest.conversations.fingerprint

    def read(self, split: "SplitName") -> "Iterator[Conversation]":
        from chatsmith.data.documents import read_conversations

        if self.files is None:
            return self.manifest.read_conversations(split)
        return read_conversations(self.files[split], self.notices)


class _FineTuning:
    """One fine-tuning, from the conversations to the bundle."""

    def __init__(
        self,
        config: Config,
        run: "RunDirectory",
        runtime: "Runtime",
        reporter: "Reporter",
        bundle: "Bundle",
        data: _Conversations,
        key: str,
        started: float,
    ) -> None:
        from chatsmith.train.calibrate import TimeBudget

        self.config, self.run, self.runtime, self.reporter = config, run, runtime, reporter
        self.bundle, self.data, self.key, self.started = bundle, data, key, started
        self.model, self.tokenizer = bundle.model, bundle.tokenizer
        self.is_measured = False
        """Is the horizon in time, and new?"""
        self.budget = TimeBudget(config.minutes, started)

    def run_to_the_end(self) -> None:
        from chatsmith.train.objective import prepare
        from chatsmith.train.session import Session, correction
        from chatsmith.train.trainer import Hooks

        config = self.config
        self.reporter.stage("Fine-tuning", f"{self.bundle.path}, on {self.runtime.describe()}")
        rows = self._rows("train")
        if rows is None:
            raise UserError(
                f"there is no conversation to learn from in {self.data.place}; "
                "give some with --conversations PATH"
            )
        held_out = self._held_out()
        self._tell(rows)
        self.model.train()
        compute_loss = prepare(
            self.model, self.runtime, config.compile, self.reporter.notice, self._expected_seconds(rows)
        )
        plan = self._plan(self._horizon(rows, held_out, compute_loss))
        hooks = Hooks(
            evaluate=(lambda: {"validation": self._score(held_out, plan)}) if held_out else None,
            evaluate_every=math.ceil(plan.steps / config.evaluations) if config.evaluations else 0,
            save_seconds=60 * config.save_minutes,
            correct=correction(
                self.run, STAGE, self.key, self.runtime, self.budget.steps if self.is_measured else None
            ),
        )
        if self.runtime.is_main:
            self.run.keep_settings(STAGE, self.key, config)
        session = Session.of(
            self.run, STAGE, self.key, self.runtime, self.reporter, config.track, self.started
        )
        result = session.train(
            self.model, plan, lambda row: self._batches(rows, plan, row), compute_loss, hooks
        )
        if self.runtime.is_main:
            self._finish(replace(plan, steps=result.steps), result, rows)

    def _held_out(self) -> "ConversationRows | None":
        """The conversations to validate on; None where there are none, or none that fits: training needs none."""
        from chatsmith.data.conversations import NothingToLearnError

        try:
            return self._rows("validation")
        except NothingToLearnError as error:
            self.reporter.notice(
                f"none of the {error.skipped:,} held-out conversations fits into "
                f"{self.bundle.config.context_length} tokens, so nothing is validated"
            )
            return None

    def _rows(self, split: "SplitName") -> "ConversationRows | None":
        """The split's conversations as rows; None where there are none. Raises NothingToLearnError if none fits."""
        from chatsmith.data.conversations import ConversationRows
        from chatsmith.text.chat import render

        conversations = list(self.data.read(split))
        if not conversations:
            return None
        return ConversationRows(
            (render(conversation, self.tokenizer) for conversation in conversations),
            self.bundle.config.context_length,
            self.config.seed,
            turn_end_id=self.tokenizer.special("<|assistant_end|>"),
            padding_id=self.tokenizer.bos_id,
        )

    def _tell(self, rows: "ConversationRows") -> None:
        for notice in self.data.notices:
            self.reporter.notice(notice)
        self.reporter.line(
            f"{rows.num_conversations:,} conversations in {rows.rows_per_epoch:,} rows of "
            f"{self.bundle.config.context_length} tokens, {1 - rows.utilisation:.0%} of it padding"
        )
        if rows.cut:
            self.reporter.notice(
                f"{rows.cut:,} conversations are longer than a row: only their first turns are used"
            )
        if rows.skipped:
            self.reporter.notice(
                f"{rows.skipped:,} conversations are skipped: not one reply of them fits into a row"
            )

    def _batches(self, rows: "ConversationRows", plan: "Plan", start_row: int) -> "Iterator[Batch]":
        runtime = self.runtime
        return rows.batches(plan.rows_per_microbatch, start_row, runtime.rank, runtime.world_size)

    def _plan(self, tokens: int) -> "Plan":
        from chatsmith.train.plan import make_plan

        return make_plan(
            self.bundle.config,
            tokens,
            batch_tokens=self.config.batch_tokens or None,
            rows_per_microbatch=self.config.rows_per_microbatch or None,
            world_size=self.runtime.world_size,
            rate_scale=self.config.rate_scale,
        )

    def _expected_seconds(self, rows: "ConversationRows") -> float:
        from chatsmith.model.config import model_cost
        from chatsmith.train.objective import expected_seconds

        config, shape = self.config, self.bundle.config
        if config.minutes:
            return 60 * config.minutes
        tokens = config.tokens or config.epochs * rows.rows_per_epoch * shape.context_length
        return expected_seconds(tokens * model_cost(shape).training_flops_per_token, self.runtime)

    def _horizon(
        self,
        rows: "ConversationRows",
        held_out: "ConversationRows | None",
        compute_loss: "ComputeLoss[Batch]",
    ) -> int:
        """Tokens to train on: as given, so many epochs, or as many as the minutes hold."""
        from chatsmith.train.session import horizon

        config = self.config
        if config.tokens:
            return config.tokens
        epoch = rows.rows_per_epoch * self.bundle.config.context_length
        if not config.minutes:
            return max(1, int(config.epochs * epoch))
        return horizon(
            self.run,
            STAGE,
            "tokens",
            self.key,
            self.runtime,
            lambda: self._measured_horizon(rows, held_out, compute_loss, self._plan(epoch)),
        )

    def _measured_horizon(
        self,
        rows: "ConversationRows",
        held_out: "ConversationRows | None",
        compute_loss: "ComputeLoss[Batch]",
        plan: "Plan",
    ) -> int:
        from chatsmith.train.calibrate import seconds_per_step, timed

        config = self.config
        self.is_measured = True
        step_seconds = seconds_per_step(
            self.model, plan, self._batches(rows, plan, 0), compute_loss, self.runtime
        )
        self.budget.evaluation_seconds = (
            timed(lambda: self._score(held_out, plan)) * (config.evaluations + 1) if held_out else 0.0
        )
        return max(1, self.budget.steps(0, step_seconds)) * plan.tokens_per_step

    def _score(self, rows: "ConversationRows", plan: "Plan") -> float:
        """Mean loss, nats a token, of the assistant's words in a sample of the held-out conversations."""
        from itertools import islice

        import torch

        from chatsmith.model.loss import token_losses
        from chatsmith.train.objective import uncompiled

        count = max(1, self.config.evaluate_tokens // (plan.rows_per_microbatch * plan.sequence_length))
        total, targets = 0.0, 0
        for batch in islice(rows.validation_batches(plan.rows_per_microbatch), count):
            on_device = batch.to(self.runtime.device)
            with torch.no_grad(), uncompiled():
                hidden = self.model(on_device.inputs).flatten(0, 1)
                losses = token_losses(self.model, hidden, on_device.targets.flatten())
            total += losses.cpu().double().sum().item()  # Apple's GPUs know no float64
            targets += batch.num_targets
        return total / max(targets, 1)

    def _finish(self, plan: "Plan", result: "TrainResult", rows: "ConversationRows") -> None:
        from chatsmith.train.session import facts_of, finish, save_trained

        facts = facts_of(result, plan, time.monotonic() - self.started, self.runtime)
        facts |= {"conversations": rows.num_conversations, "cut": rows.cut, "skipped": rows.skipped}
        save_trained(
            self.run,
            STAGE,
            self.model,
            self.tokenizer,
            summary="A small assistant: pretrained on text, then fine-tuned on conversations.",
            plan=plan,
            facts=facts,
            seed=self.config.seed,
        )
        finish(self.run, STAGE, self.key, facts, outputs=[self.run.bundle(STAGE)])
