"""`chatsmith pretrain`: train a model from scratch on the run's documents, and write `<run>/pretrain/bundle`.

With `--from BUNDLE` it goes on from that model, with its tokenizer; a `--mixture` can bring in other text, such as what
the model had learned from before.

Reads the run's data and tokenizer; tokenizes in the background while it trains. Interrupted, it saves, and resumes the
next time. A budget in minutes is measured once, kept in the run's recipe.toml, and every later run with the same
settings trains on the same number of tokens.
"""

from itertools import starmap
from pathlib import Path
from typing import Any

from chatsmith.backends import choose_backend
from chatsmith.backends.lora import merged
from chatsmith.bundle import Bundle, bundle_fingerprint, load_bundle
from chatsmith.cli.config import PretrainConfig as Config
from chatsmith.cli.mixtures import Opener, fingerprint_of, named_sources
from chatsmith.cli.training import facts_of, settings_from, shape_of, training_stage, with_dial
from chatsmith.data.dataset import load_manifest
from chatsmith.data.mixture import Mixture
from chatsmith.data.packing import TrainingRows
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Completion, Request, SamplingParams
from chatsmith.evals.bpb import TEXTS
from chatsmith.model.config import model_cost
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import counted
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle, run_of
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.train.pretrain import pretrain
from chatsmith.train.trainer import TrainingSettings

NUM_SAMPLES, ALTERNATIVES, LEAST_LOGPROB = 5, 3, -99.0


def main(config: Config) -> None:
    """Pretrain the model of `config.run`, unless it is already what this would make."""
    config = with_dial(config)
    with training_stage("pretrain", config, scales_loss=True) as stage:
        run, runtime = stage.run, stage.runtime
        manifest = load_manifest(run.data)
        start = load_bundle(resolve_bundle(config.from_), device=runtime.device) if config.from_ else None
        tokenizer = _tokenizer(run, start)
        inputs = {"documents": manifest.documents.fingerprint, "tokenizer": tokenizer.fingerprint}
        sources = named_sources(stage)
        if sources:
            inputs["mixture"] = fingerprint_of(sources)
        if start:
            inputs["bundle"] = bundle_fingerprint(start.path)
        if stage.is_up_to_date(**inputs):
            return

        if start:
            stage.freeze(start)
        shape = start.config if start else shape_of(config, tokenizer.vocab_size)
        opener = Opener(stage, tokenizer, shape.context_length)
        if sources:
            rows = opener.mixture(sources)
        else:
            rows = TrainingRows(opener.text(manifest, "train"), shape.context_length, config.seed)
        training = stage.training_run(tokenizer)
        size = f"{counted(shape.num_layers, 'layer')}, {shape.model_dim} channels, vocabulary {shape.vocab_size:,}"
        stage.reporter.stage("Pretraining", f"{size}, on {runtime.describe()}")
        model, plan, result = pretrain(
            training,
            start.model if start else shape,
            tokenizer,
            rows,
            opener.text(manifest, "validation"),
            settings_from(config, TrainingSettings),
            tokens=config.tokens or int(config.ratio * model_cost(shape).scaling_parameters),
            budget=stage.budget(training),
            sample=(lambda model: _said(model, tokenizer, config.prompt)) if config.prompt else None,
        )
        if runtime.is_main:
            facts = facts_of(training, plan, result)
            if isinstance(rows, Mixture):
                facts["mixture"] = rows.facts(plan.steps * plan.rows_per_step)
            how = f"trained further from {_named(start.path)}" if start else "trained from scratch"
            summary = f"A language model that continues text, {how}; not yet fine-tuned to chat."
            stage.finish(model, tokenizer, plan, facts, summary)


def _tokenizer(run: RunDirectory, start: Bundle | None) -> Tokenizer:
    """The run's, or that of the model to start from. Raises UserError where these differ."""
    if start is None:
        return Tokenizer.load(run.tokenizer)
    if run.tokenizer.is_dir() and Tokenizer.load(run.tokenizer).fingerprint != start.tokenizer.fingerprint:
        raise UserError(
            f"{start.path} has another tokenizer than {run.tokenizer}; go on in a run without the tokenizer stage"
        )
    return start.tokenizer


def _named(bundle: Path) -> str:
    """What a model card calls another model: it may be published, and a path of this machine says nothing there."""
    origin = run_of(bundle)
    return f"{origin[0].path.name}, {origin[1]}" if origin else bundle.name


def _said(model: GPT, tokenizer: Tokenizer, prompt: str) -> dict[str, Any]:
    """How the model continues `prompt`, as a `sample` to show; and, as `samples`, this and a few fixed texts token by
    token: each with its id, text (bytes, where it is a part of a character), log-probability and alternatives."""

    def entry(id: int, logprob: float) -> list[Any]:
        text = tokenizer.decode([id])
        shown = list(tokenizer.decode_bytes([id])) if "\ufffd" in text else text
        return [id, shown, round(max(logprob, LEAST_LOGPROB), 3)]

    def entries(said: Completion) -> list[list[Any]]:
        sampled = zip(said.ids, said.logprobs or (), strict=False)
        return [[*entry(id, one.logprob), list(starmap(entry, one.top))] for id, one in sampled if one]

    model, prompts = merged(model), list(dict.fromkeys((prompt, *TEXTS)))[:NUM_SAMPLES]
    # Greedily, so that one evaluation can be compared with another.
    sampling = SamplingParams(temperature=0.0, max_tokens=40, logprobs=ALTERNATIVES)
    requests = [Request((tokenizer.bos_id, *tokenizer.encode(text)), sampling) for text in prompts]
    kv_tokens = len(prompts) * model.config.context_length
    engine = Engine(model, tokenizer, backend=choose_backend(model), kv_tokens=kv_tokens)
    said = engine.generate(requests)
    samples = [{"prompt": text, "tokens": entries(one)} for text, one in zip(prompts, said, strict=True)]
    return {"sample": f"{prompt}{said[0].text}", "samples": samples}
