"""`chatsmith pretrain`: train a model from scratch on the run's documents, and write `<run>/pretrain/bundle`.

Reads the run's data and tokenizer; tokenizes in the background while it trains. Interrupted, it saves, and resumes the
next time. A budget in minutes is measured once, kept in the run's recipe.toml, and every later run with the same
settings trains on the same number of tokens.
"""

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from chatsmith.backends import choose_backend
from chatsmith.cli.training import (
    exclusive,
    facts_of,
    finish,
    save_trained,
    settings_from,
    time_budget,
    training_run,
)
from chatsmith.data.dataset import load_manifest
from chatsmith.data.tokens import open_token_cache
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, Sampling
from chatsmith.model.config import model_cost
from chatsmith.model.gpt import GPT
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, stage_key
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.plan import model_shape
from chatsmith.train.pretrain import pretrain
from chatsmith.train.trainer import TrainingSettings

STAGE = "pretrain"


@dataclass(frozen=True)
class Config:
    """Train a model from nothing on the run's documents."""

    NOT_IN_KEY: ClassVar[frozenset[str]] = frozenset(
        {"track", "save_minutes", "rows_per_microbatch", "evaluations", "evaluate_tokens", "prompt"}
    )

    run: Path = Path("runs/kindergarten")
    """The run directory."""
    depth: int = 6
    """Layers of the model: the one dial from which everything else follows."""
    width: int = 0
    """Channels of the model; 0 means 64 times the depth."""
    head_dim: int = 64
    """Channels of an attention head."""
    sequence_length: int = 512
    """Tokens in a training row, and the model's context."""
    bigram_buckets: int = 0
    """Rows of the hashed table of token pairs; 0 leaves it out."""
    window_pattern: str = "L"
    """How far layers look back, repeated over them: L the whole context, S a quarter; the last is always L."""
    tokens: int = 0
    """The horizon: how many tokens to train on; 0 means decided by `minutes` or `ratio`."""
    minutes: float = 0.0
    """The horizon in minutes of this machine, from the start of this command; 0 means not by time."""
    ratio: float = 10.0
    """The horizon in tokens per parameter that does arithmetic, where neither tokens nor minutes are given."""
    batch_tokens: int = 0
    """Tokens of one optimizer step; 0 means by the plan's rule."""
    rows_per_microbatch: int = 0
    """Rows that go through the network at once; 0 means about 8,192 tokens."""
    rate_scale: float = 1.0
    """Multiplies all learning rates of the plan."""
    evaluations: int = 8
    """How often the validation text is looked at along the way."""
    evaluate_tokens: int = 65_536
    """How much validation text that is, in tokens."""
    prompt: str = ""
    """Text for the model to continue at every evaluation; empty: none."""
    seed: int = 1
    """Decides the starting weights and the order of the rows."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """What activations are computed in; auto: bf16 where the hardware multiplies it."""
    compile: bool = True
    """Compile the model where that is possible."""
    save_minutes: float = 5.0
    """Save the training state this often."""
    track: Literal["none", "wandb", "tensorboard", "trackio"] = "none"
    """Send the metrics somewhere besides metrics.jsonl."""

    def __post_init__(self) -> None:
        for name in ("depth", "head_dim", "sequence_length"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "width",
            "bigram_buckets",
            "tokens",
            "batch_tokens",
            "rows_per_microbatch",
            "evaluations",
            "seed",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; it cannot be negative")
        if self.tokens and self.minutes:
            raise UserError("give the horizon as tokens or as minutes, not both; 0 takes one back")
        if not 0 <= self.minutes < math.inf:
            raise UserError(f"minutes is {self.minutes}; it must be a number, and not negative")
        for name in ("ratio", "rate_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}; it must be a number above 0")
        if not self.save_minutes > 0:
            raise UserError(f"save_minutes is {self.save_minutes}; it must be above 0")
        if self.evaluate_tokens < 1:
            raise UserError(f"evaluate_tokens is {self.evaluate_tokens}; it must be at least 1")


def main(config: Config) -> None:
    """Pretrain the model of `config.run`, unless it is already what this would make."""
    started = time.monotonic()
    run = RunDirectory(config.run)
    with exclusive(run, config.device, config.dtype) as (runtime, reporter), contextlib.ExitStack() as opened:
        manifest = load_manifest(run.data)
        tokenizer = Tokenizer.load(run.tokenizer)
        key = stage_key(config, documents=manifest.documents.fingerprint, tokenizer=tokenizer.fingerprint)
        if run.is_done(STAGE, key):
            reporter.line(f"The pretrained model in {run.bundle(STAGE)} is up to date.")
            return

        shape = model_shape(
            config.depth,
            tokenizer.vocab_size,
            sequence_length=config.sequence_length,
            width=config.width or None,
            head_dim=config.head_dim,
            bigram_buckets=config.bigram_buckets,
            window_pattern=config.window_pattern,
        )
        text, validation_text = (
            opened.enter_context(
                contextlib.closing(
                    open_token_cache(run.tokens, manifest, tokenizer, split, build=runtime.is_main)
                )
            )
            for split in ("train", "validation")
        )
        training = training_run(run, STAGE, key, config, runtime, reporter, started)
        size = f"{shape.num_layers} layers, {shape.model_dim} channels, {shape.vocab_size:,} tokens of vocabulary"
        reporter.stage("Pretraining", f"{size}, on {runtime.describe()}")
        model, plan, result = pretrain(
            training,
            shape,
            tokenizer,
            text,
            validation_text,
            settings_from(config, TrainingSettings),
            tokens=config.tokens or int(config.ratio * model_cost(shape).scaling_parameters),
            budget=time_budget(run, training, config.minutes),
            sample=(lambda model: _continuation(model, tokenizer, config.prompt)) if config.prompt else None,
        )
        if runtime.is_main:
            facts = facts_of(training, plan, result)
            summary = (
                "A language model that continues text, trained from scratch; not yet fine-tuned to chat."
            )
            save_trained(run, STAGE, model, tokenizer, plan, facts, summary=summary, seed=config.seed)
            finish(run, STAGE, key, facts)


def _continuation(model: GPT, tokenizer: Tokenizer, prompt: str) -> str:
    backend = choose_backend(model)
    engine = Engine(model, tokenizer, backend=backend, kv_tokens=model.config.context_length)
    request = Request((tokenizer.bos_id, *tokenizer.encode(prompt)), Sampling(max_tokens=40))
    (completion,) = engine.generate([request])
    return f"{prompt}{completion.text}"
