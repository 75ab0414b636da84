"""`chatsmith pretrain`: train a model from scratch on the run's documents, and write `<run>/pretrain/bundle`.

Reads the run's data and tokenizer; tokenizes in the background while it trains. Interrupted, it saves, and resumes the
next time. A budget in minutes is measured once, kept in the run's recipe.toml, and every later run with the same
settings trains on the same number of tokens.
"""

import contextlib
import time

from chatsmith.backends import choose_backend
from chatsmith.cli.config import PretrainConfig as Config
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
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.model.config import model_cost
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import counted
from chatsmith.runtime.run_directory import RunDirectory, stage_key
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.plan import model_shape
from chatsmith.train.pretrain import pretrain
from chatsmith.train.trainer import TrainingSettings

STAGE = "pretrain"


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
        training = training_run(run, STAGE, key, config, runtime, reporter, started, tokenizer)
        size = f"{counted(shape.num_layers, 'layer')}, {shape.model_dim} channels, vocabulary {shape.vocab_size:,}"
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
            finish(run, STAGE, key, config, facts)


def _continuation(model: GPT, tokenizer: Tokenizer, prompt: str) -> str:
    backend = choose_backend(model)
    engine = Engine(model, tokenizer, backend=backend, kv_tokens=model.config.context_length)
    request = Request((tokenizer.bos_id, *tokenizer.encode(prompt)), SamplingParams(max_tokens=40))
    (completion,) = engine.generate([request])
    return f"{prompt}{completion.text}"
