"""`chatsmith bench infer`: how fast this machine answers, beside what its memory allows at most.

Every token needs every weight of the large products once, and every key and value of its sequence: so tokens a
second are bounded by the speed at which memory is read, which is measured in the same run. Weights are random; the
speed does not depend on them. Nothing is read from a run, but for --run, and nothing is written.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.cli.bench_infer_tables import Row
    from chatsmith.engine.engine import Engine
    from chatsmith.model.gpt import GPT
    from chatsmith.runtime.device import Runtime
    from chatsmith.runtime.logs import Reporter
    from chatsmith.text.tokenizer import Tokenizer

PARTS = ("decode", "load", "prefix", "plain")


@dataclass(frozen=True)
class Config:
    """Measure the speed of answering."""

    POSITIONAL: ClassVar[tuple[str, ...]] = ()

    parts: tuple[Literal["decode", "load", "prefix", "plain"], ...] = PARTS
    """What to measure: decode (tokens a second by batch and type of the weights), load (waiting times under mixed
    requests), prefix (what a shared beginning saves), plain (beside a plain decoder, for a model of depth 6)."""
    depth: int = 12
    """Layers of the model."""
    width: int = 0
    """Channels of the model; 0 means 64 times the depth."""
    head_dim: int = 64
    """Channels of an attention head."""
    vocab_size: int = 32_768
    """Ids of the vocabulary."""
    sequence_length: int = 1024
    """The model's context."""
    batches: tuple[int, ...] = (1, 4, 16, 32)
    """How many requests decode at once."""
    prompt_tokens: int = 32
    """Tokens of each prompt, for decode."""
    new_tokens: int = 48
    """Tokens of each reply, for decode."""
    run: Path | None = None
    """A run or bundle on whose validation text to show what bf16 and int8 weights cost in bits per byte."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """The model's own type; auto: bf16 where the hardware multiplies it."""
    json: bool = False
    """Print one JSON object on stdout, and everything for people on stderr."""

    def __post_init__(self) -> None:
        for name in ("depth", "head_dim", "vocab_size", "sequence_length", "prompt_tokens", "new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.batches or min(self.batches) < 1:
            raise UserError(f"batches must be numbers of at least 1, not {self.batches}")
        if self.prompt_tokens + self.new_tokens > self.sequence_length:
            raise UserError(
                f"{self.prompt_tokens} prompt and {self.new_tokens} new tokens do not fit sequence_length "
                f"{self.sequence_length}"
            )


def main(config: Config) -> None:
    """Measure, and print tables or one JSON object."""
    from chatsmith.cli.bench_infer_tables import show_bits, show_load, show_plain, show_prefix, show_rows
    from chatsmith.runtime.device import detect_runtime
    from chatsmith.runtime.logs import Reporter
    from chatsmith.runtime.measure import read_bandwidth

    reporter = Reporter(json=config.json)
    runtime = detect_runtime(config.device, config.dtype)
    reporter.stage("Speed of answering", runtime.describe())
    bench = _Bench(config, runtime, reporter)
    figures: dict[str, Any] = {"read_bytes_per_second": read_bandwidth(runtime)}
    if "decode" in config.parts:
        rows = bench.decode(figures)
        figures["rows"] = [asdict(row) for row in rows]
        show_rows(rows, figures["read_bytes_per_second"], reporter)
    if "load" in config.parts:
        figures["load"] = bench.load()
        show_load(figures["load"], reporter)
    if "prefix" in config.parts:
        figures["prefix"] = bench.prefix()
        show_prefix(figures["prefix"], reporter)
    if "plain" in config.parts:
        figures["plain"] = bench.plain()
        show_plain(figures["plain"], reporter)
    if config.run is not None:
        figures["bits_per_byte"] = _bits_per_byte(config.run, runtime, reporter)
        show_bits(figures["bits_per_byte"], reporter)
    if config.json:
        sys.stdout.write(json.dumps(figures) + "\n")


class _Bench:
    """The measurements, on one machine."""

    def __init__(self, config: Config, runtime: "Runtime", reporter: "Reporter") -> None:
        self.config, self.runtime, self.reporter = config, runtime, reporter
        self.tokenizer = _some_tokenizer()
        self._model: GPT | None = None

    @property
    def model(self) -> "GPT":
        config = self.config
        self._model = self._model or self._random_model(
            config.depth, config.width, config.vocab_size, config.sequence_length
        )
        return self._model

    def decode(self, figures: dict[str, Any]) -> "list[Row]":
        """Each type of weights with each batch; the read bandwidth in `figures` is kept at its best."""
        from chatsmith.cli.bench_infer_tables import Row
        from chatsmith.runtime.measure import read_bandwidth

        own = str(self.runtime.compute_dtype).removeprefix("torch.")
        types = {"float32": [None, "bf16", "int8"], "bfloat16": [None, "int8"]}.get(own, [None])
        measured: list[tuple[int, str, float, float, str]] = []
        with self.reporter.progress("decode", len(types) * len(self.config.batches), "batches") as bar:
            for kept in types:
                for batch in self.config.batches:
                    engine = self._engine(batch, quantize=kept)
                    seconds = self._seconds_per_step(engine, batch)
                    figures["read_bytes_per_second"] = max(
                        figures["read_bytes_per_second"], read_bandwidth(self.runtime, seconds=0.3)
                    )
                    name = {None: own, "bf16": "bfloat16"}.get(kept, kept) or own
                    measured.append(
                        (batch, name, seconds, self._bytes_per_step(engine, batch), engine.backend.name)
                    )
                    bar.advance()
        read = figures["read_bytes_per_second"]
        return [
            Row(batch, name, batch / seconds, batch * read / size, 1000 * seconds, decoder)
            for batch, name, seconds, size, decoder in measured
        ]

    def load(self) -> dict[str, Any]:
        """Waiting times: of steady streams beside which a long prompt arrives, and of random requests."""
        from chatsmith.cli.bench_load import random_load, steady_streams

        vocab_size = self.tokenizer.vocab_size - 40
        return {
            "steady": steady_streams(self._engine(16, beside=16), vocab_size, self.reporter),
            "random": random_load(self._engine(16, beside=16), vocab_size, self.reporter),
        }

    def prefix(self, shared: int = 400, total: int = 444) -> dict[str, float]:
        """Seconds to the first token of a prompt, when nothing of it is cached and when its beginning is."""
        import statistics

        engine = self._engine(1)
        cold: list[float] = []
        warm: list[float] = []
        with self.reporter.progress("prefix", 3, "rounds") as bar:
            for seed in range(3):
                beginning = _ids(seed, shared)
                for number in range(3):
                    prompt = beginning + _ids(100 + 10 * seed + number, total - shared)
                    (cold if number == 0 else warm).append(self._first_token(engine, prompt))
                bar.advance()
        return {
            "shared_tokens": shared,
            "prompt_tokens": total,
            "cold_seconds": statistics.median(cold),
            "warm_seconds": statistics.median(warm),
            "ratio": statistics.median(warm) / statistics.median(cold),
        }

    def plain(self, prompt: int = 256, new: int = 64) -> list[dict[str, float]]:
        """Our engine beside the plain decoder, in turns: depth 6, 384 channels, 8,192 ids, prompt included. The plain
        decoder computes in the model's type, and in float32 as well, which is where a first implementation starts.

        Once each row has a prompt of its own and the most likely ids are taken, and once all are samples of one prompt,
        which is what nanochat's figures are of."""
        import copy
        import statistics

        import torch

        self._model = model = self._random_model(6, 384, 8192, 512)
        plain_models = {str(self.runtime.compute_dtype).removeprefix("torch."): model}
        if self.runtime.compute_dtype != torch.float32:
            plain_models["float32"] = copy.deepcopy(model).float()
        shapes = [(1, 1), (8, 8), (32, 32), (8, 1), (32, 1)]
        rows: list[dict[str, float]] = []
        with self.reporter.progress("plain", 3 * len(shapes), "rounds") as bar:
            for batch, num_prompts in shapes:
                prompts = [_ids(index % num_prompts, prompt) for index in range(batch)]
                samples = num_prompts < batch
                seconds: dict[str, list[float]] = {name: [] for name in ("engine", *plain_models)}
                for _ in range(3):
                    for name, plain_model in plain_models.items():
                        seconds[name].append(self._plain_seconds(plain_model, prompts, new, samples))
                    engine = self._engine(batch)
                    one_step = self._seconds_per_step(engine, batch, prompts, new, samples=samples)
                    seconds["engine"].append(one_step * (new - 1))
                    bar.advance()
                speeds = {name: batch * (new - 1) / statistics.median(all) for name, all in seconds.items()}
                row = {"batch": batch, "prompts": num_prompts, "tokens_per_second": speeds.pop("engine")}
                for name, speed in speeds.items():
                    row |= {f"plain_{name}": speed, f"times_{name}": row["tokens_per_second"] / speed}
                rows.append(row)
        return rows

    @staticmethod
    def _plain_seconds(model: "GPT", prompts: list[tuple[int, ...]], new: int, samples: bool) -> float:
        """How long the plain decoder takes for all tokens but the first, which reads the prompt."""
        import time

        from chatsmith.cli.bench_plain_decoder import decode_plainly

        started = time.perf_counter()
        decode_plainly(model, prompts, 1, samples=samples)
        middle = time.perf_counter()
        decode_plainly(model, prompts, new, samples=samples)
        return time.perf_counter() - middle - (middle - started)

    def _engine(self, batch: int, *, quantize: Any = None, beside: int | None = None) -> "Engine":
        from chatsmith.backends import choose_backend
        from chatsmith.engine.engine import Engine

        return Engine(
            self.model,
            self.tokenizer,
            max_running=batch,
            kv_tokens=batch * self.model.config.context_length,
            tokens_beside_decoding=beside,
            backend=choose_backend(self.model, quantize=quantize),
        )

    def _seconds_per_step(
        self,
        engine: "Engine",
        batch: int,
        prompts: list[tuple[int, ...]] | None = None,
        new: int = 0,
        *,
        samples: bool = False,
    ) -> float:
        """The median step in which all requests decode: their most likely ids, or sampled ones."""
        import statistics
        import time

        from chatsmith.engine.request import Request, Sampling

        prompts = prompts or [_ids(index, self.config.prompt_tokens) for index in range(batch)]
        sampling = Sampling(
            temperature=1.0 if samples else 0.0, max_tokens=new or self.config.new_tokens, ignore_end=True
        )
        handles = {engine.submit(Request(prompt, sampling)) for prompt in prompts}
        durations: list[float] = []
        while not engine.is_idle:
            started = time.perf_counter()
            events = engine.step()
            self.runtime.synchronize()
            if {event.handle for event in events} == handles:
                durations.append(time.perf_counter() - started)
        # The first of them read the last prompt.
        return statistics.median(durations[1:] or durations)

    def _bytes_per_step(self, engine: "Engine", batch: int) -> float:
        """What a step must read: the large products' weights once, and the keys and values of every sequence."""
        from chatsmith.backends import weight_bytes
        from chatsmith.model.config import kv_bytes_per_token

        context = self.config.prompt_tokens + self.config.new_tokens / 2
        kept = kv_bytes_per_token(self.model.config, self.runtime.compute_dtype.itemsize)
        return weight_bytes(engine.backend.model) + batch * context * kept

    def _first_token(self, engine: "Engine", prompt: tuple[int, ...]) -> float:
        import time

        from chatsmith.engine.request import Request, Sampling

        started = time.perf_counter()
        engine.generate([Request(prompt, Sampling(max_tokens=1, ignore_end=True))])
        return time.perf_counter() - started

    def _random_model(self, depth: int, width: int, vocab_size: int, context: int) -> "GPT":
        import torch

        from chatsmith.model.gpt import GPT
        from chatsmith.train.plan import model_shape

        shape = model_shape(
            depth, vocab_size, sequence_length=context, width=width or None, head_dim=self.config.head_dim
        )
        model = GPT(shape)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        return model.to(device=self.runtime.device, dtype=self.runtime.compute_dtype).eval()


def _some_tokenizer() -> "Tokenizer":
    """The engine wants one; random models say nothing that would have to be read."""
    from chatsmith.text.tokenizer import train_tokenizer

    return train_tokenizer(["speed"], vocab_size=300)


def _ids(seed: int, count: int) -> tuple[int, ...]:
    import random

    source = random.Random(seed)
    return tuple(source.randrange(256) for _ in range(count))


def _bits_per_byte(path: Path, runtime: "Runtime", reporter: "Reporter") -> dict[str, float]:
    """What the run's validation text costs with the model's own weights, and with those that engines may keep."""
    from chatsmith.backends.native import load_library
    from chatsmith.backends.quantized import Quantization, decoding_view
    from chatsmith.bundle import load_bundle
    from chatsmith.data.dataset import load_manifest
    from chatsmith.data.packing import ValidationRows
    from chatsmith.data.tokens import open_token_cache
    from chatsmith.evals.bpb import score_text
    from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle

    folder = resolve_bundle(path)
    run = RunDirectory(folder.parent.parent)
    bundle = load_bundle(folder, device=runtime.device, dtype=runtime.compute_dtype)
    kinds: dict[str, Quantization | None] = {"own": None, "bfloat16": "bf16", "int8": "int8"}
    found: dict[str, float] = {}
    with open_token_cache(run.tokens, load_manifest(run.data), bundle.tokenizer, "validation") as cache:
        rows = ValidationRows(cache, bundle.config.context_length)
        for name, kept in kinds.items():
            model = bundle.model if kept is None else decoding_view(bundle.model, load_library(), kept)
            score = score_text(
                model,
                rows.batches(8, max_rows=256),
                bundle.tokenizer.token_byte_lengths,
                reporter=reporter,
                total_tokens=min(256, rows.num_rows) * bundle.config.context_length,
            )
            found[name] = score.bits_per_byte
    return found
