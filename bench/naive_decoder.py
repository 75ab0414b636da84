"""The naive way to decode, and how much faster the engine is: one batch that starts, advances and ends together.

    python bench/naive_decoder.py [--batches 1 8 32] [--json]

A contiguous cache, every row at the same position, torch's operations, no scheduler: what a first implementation looks
like (nanochat's is of this kind). Both decode in turns: depth 6, 384 channels, a vocabulary of 8,192, after a prompt
of 256. The naive decoder computes in the model's type, and in float32 as well, which is where a first implementation
starts. Once each row has a prompt of its own and the most likely tokens are taken, and once all rows are samples of one
prompt, which is what nanochat's numbers are of.
"""

import copy
import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from infer import new_engine, random_model, seconds_per_step
from torch import Tensor

from chatsmith.cli.config import BenchInferConfig, Compute, Output, Positive
from chatsmith.cli.settings import from_flags
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.model.attention import attention_scale
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, detect_runtime

ROUNDS = 3


class Config(Compute, Output):
    """Compare the engine with a naive decoder."""

    batches: tuple[Positive, ...] = (1, 8, 32)
    """Batch sizes."""
    prompt_tokens: Positive = 256
    """Tokens of each prompt."""
    new_tokens: Positive = 64
    """Tokens of each reply."""
    depth: Positive = 6
    """Layers of the model."""


def main(config: Config) -> None:
    """Measure, and print a table or one JSON object."""
    reporter = Reporter(json=config.json)
    runtime = detect_runtime(config.device, config.dtype)
    reporter.stage("Engine and naive decoder", runtime.describe())
    shape = BenchInferConfig(
        depth=config.depth, width=64 * config.depth, vocab_size=8192, sequence_length=512
    )
    rows = measure(config, random_model(shape, runtime), runtime, reporter)
    types = [name.removeprefix("plain_") for name in rows[0] if name.startswith("plain_")]
    columns = ["batch", "prompts", "engine, tokens/s"]
    for name in types:
        columns += [f"naive, {name}", "times"]
    table = []
    for row in rows:
        cells = [f"{row['batch']:.0f}", f"{row['prompts']:.0f}", f"{row['tokens_per_second']:,.0f}"]
        for name in types:
            cells += [f"{row[f'plain_{name}']:,.0f}", f"{row[f'times_{name}']:.1f}"]
        table.append(cells)
    reporter.table("Decoding", columns, table)
    reporter.result({"plain": rows})


def measure(config: Config, model: GPT, runtime: Runtime, reporter: Reporter) -> list[dict[str, Any]]:
    """Tokens per second of both, for each batch."""
    naive_models = {str(runtime.compute_dtype).removeprefix("torch."): model}
    if runtime.compute_dtype != torch.float32:
        naive_models["float32"] = copy.deepcopy(model).float()
    shapes = [(batch, batch) for batch in config.batches] + [
        (batch, 1) for batch in config.batches if batch > 1
    ]
    new = config.new_tokens
    rows: list[dict[str, Any]] = []
    with reporter.progress("decode", ROUNDS * len(shapes), "rounds") as bar:
        for batch, num_prompts in shapes:
            prompts = [random_ids(index % num_prompts, config.prompt_tokens) for index in range(batch)]
            samples = num_prompts < batch
            sampling = SamplingParams(temperature=float(samples), max_tokens=new, ignore_end=True)
            seconds: dict[str, list[float]] = {name: [] for name in ("engine", *naive_models)}
            for _ in range(ROUNDS):
                for name, naive_model in naive_models.items():
                    seconds[name].append(naive_seconds(naive_model, prompts, new, samples))
                requests = [Request(prompt, sampling) for prompt in prompts]
                step = seconds_per_step(new_engine(model, batch), requests, runtime)
                seconds["engine"].append(step * (new - 1))
                bar.advance()
            speeds = {name: batch * (new - 1) / statistics.median(times) for name, times in seconds.items()}
            row = {"batch": batch, "prompts": num_prompts, "tokens_per_second": speeds.pop("engine")}
            for name, speed in speeds.items():
                row |= {f"plain_{name}": speed, f"times_{name}": row["tokens_per_second"] / speed}
            rows.append(row)
    return rows


def naive_seconds(model: GPT, prompts: list[tuple[int, ...]], new: int, samples: bool) -> float:
    """How long the naive decoder takes for all tokens but the first, which reads the prompt."""
    started = time.perf_counter()
    decode_naively(model, prompts, 1, samples=samples)
    middle = time.perf_counter()
    decode_naively(model, prompts, new, samples=samples)
    return time.perf_counter() - middle - (middle - started)


def random_ids(seed: int, count: int) -> tuple[int, ...]:
    """A prompt of random bytes."""
    source = random.Random(seed)
    return tuple(source.randrange(256) for _ in range(count))


class NaiveCache:
    """Keys and values of all rows, (L, B, H, T, D); called as the model's `attend`."""

    def __init__(self, model: GPT, batch: int, length: int) -> None:
        config = model.config
        assert not any(config.windows), "windows are not supported"
        shape = (config.num_layers, batch, config.num_heads, length, config.head_dim)
        weight = model.embedding.weight
        self._keys, self._values = (
            torch.empty(shape, dtype=model.compute_dtype or weight.dtype, device=weight.device)
            for _ in range(2)
        )
        self.length = 0
        """Positions filled, before the tokens of this pass."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend; q, k, v and the result are (B, T, H, D)."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        end = self.length + q.shape[2]
        self._keys[layer, :, :, self.length : end] = k
        self._values[layer, :, :, self.length : end] = v
        keys, values = self._keys[layer, :, :, :end], self._values[layer, :, :, :end]
        scale = attention_scale(q.shape[-1])
        is_whole = q.shape[2] == end
        assert is_whole or q.shape[2] == 1
        y = F.scaled_dot_product_attention(q, keys, values, is_causal=is_whole and end > 1, scale=scale)
        return y.transpose(1, 2)


@torch.inference_mode()
def decode_naively(
    model: GPT, prompts: Sequence[Sequence[int]], num_new: int, *, samples: bool = False
) -> list[list[int]]:
    """The most likely `num_new` ids after each prompt, or sampled ones; all prompts are of one length."""
    tokens = torch.tensor([list(prompt) for prompt in prompts], device=model.embedding.weight.device)
    cache = NaiveCache(model, len(tokens), tokens.shape[1] + num_new)
    hidden = model(tokens, attend=cache)[:, -1]
    cache.length = tokens.shape[1]
    previous = tokens[:, -1:]
    found: list[Tensor] = []
    for index in range(num_new):
        logits = model.logits(hidden)
        chosen = logits.softmax(-1).multinomial(1) if samples else logits.argmax(-1, keepdim=True)
        found.append(chosen)
        if index + 1 < num_new:
            positions = torch.full_like(chosen, cache.length)
            hidden = model(chosen, previous=previous, positions=positions, attend=cache)[:, -1]
            cache.length += 1
            previous = chosen
    return torch.cat(found, dim=1).tolist()


if __name__ == "__main__":
    main(Config(**from_flags(Config, sys.argv[1:], "python bench/naive_decoder.py")))
