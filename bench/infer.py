"""`chatsmith bench infer`: inference throughput and latency, against the limit that memory sets.

Every token needs every weight of the linear layers once, and every key and value of its sequence: so tokens per second
are bounded by the memory bandwidth, which is measured in the same run. Weights are random; the speed does not depend on
them. Nothing is read from a run, except for --run, and nothing is written.
"""

import math
import random
import statistics
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from chatsmith.backends import choose_backend, weight_bytes
from chatsmith.backends.native import load_library
from chatsmith.backends.quantized import Quantization, decoding_view
from chatsmith.bundle import load_bundle
from chatsmith.cli.config import BenchInferConfig as Config
from chatsmith.cli.training import shape_of
from chatsmith.data.dataset import load_manifest
from chatsmith.data.packing import ValidationRows
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Request, SamplingParams
from chatsmith.evals.bpb import score_text, text_score
from chatsmith.ingest.hub import open_tokens
from chatsmith.model.config import kv_bytes_per_token
from chatsmith.model.gpt import GPT
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, best_seconds, detect_runtime
from chatsmith.runtime.run_directory import RunDirectory, resolve_bundle
from chatsmith.text.tokenizer import train_tokenizer

STREAMS, LONG_PROMPT = 8, 400
"""Of the latency test: requests that decode, and the prompt that arrives beside them."""
REQUESTS, LOAD = 24, 0.5
"""Random requests, and the share of the engine's capacity at which they arrive."""
SHARED, TOTAL = 400, 444
"""Tokens of a shared prefix, and of the prompts that have it."""


def main(config: Config) -> None:
    """Measure, and print tables or one JSON object."""
    reporter = Reporter(json=config.json)
    runtime = detect_runtime(config.device, config.dtype)
    reporter.stage("Inference speed", runtime.describe())
    model = random_model(config, runtime)
    results: dict[str, Any] = {"read_bytes_per_second": read_bandwidth(runtime)}
    if "decode" in config.parts:
        measure_decoding(config, model, runtime, results, reporter)
        show_decoding(results, reporter)
    if "load" in config.parts:
        engine = new_engine(model, 16, tokens_beside_decoding=16)
        results["load"] = {
            "steady": measure_steady_streams(engine, reporter),
            "random": measure_random_load(new_engine(model, 16, tokens_beside_decoding=16), reporter),
        }
        show_load(results["load"], reporter)
    if "prefix" in config.parts:
        results["prefix"] = measure_prefix_caching(new_engine(model, 1), reporter)
        show_prefix(results["prefix"], reporter)
    if config.run is not None:
        results["bits_per_byte"] = measure_bits(config.run, runtime, reporter)
        bits = results["bits_per_byte"]
        rows = [[name, f"{value:.4f}", f"{value / bits['own'] - 1:+.2%}"] for name, value in bits.items()]
        reporter.table("What quantization costs", ["weights", "bits per byte", "worse by"], rows)
    reporter.result(results)


def read_bandwidth(runtime: Runtime, megabytes: int = 512, seconds: float = 1.0) -> float:
    """Bytes a second at which the device reads its memory: the best sum over a tensor larger than any cache.

    It bounds decoding: every token needs every weight once.
    """
    numbers = torch.ones(megabytes * 2**20 // 4, device=runtime.device)
    return numbers.numel() * 4 / best_seconds(numbers.sum, runtime, seconds)


def random_model(config: Config, runtime: Runtime) -> GPT:
    """A model of random weights, none of them zero."""
    model = GPT(shape_of(config, config.vocab_size))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.to(device=runtime.device, dtype=runtime.compute_dtype).eval()


def new_engine(
    model: GPT, batch: int, *, quantize: Quantization | None = None, tokens_beside_decoding: int | None = None
) -> Engine:
    """An engine for `batch` requests of full context. It wants a tokenizer; nobody reads what random models say."""
    return Engine(
        model,
        train_tokenizer(["speed"], vocab_size=300),
        max_running=batch,
        kv_tokens=batch * model.config.context_length,
        tokens_beside_decoding=tokens_beside_decoding,
        backend=choose_backend(model, quantize=quantize),
    )


def random_request(source: random.Random, num_tokens: int, **sampling: Any) -> Request:
    """A prompt of random bytes."""
    prompt = tuple(source.randrange(256) for _ in range(num_tokens))
    return Request(prompt, SamplingParams(ignore_end=True, **sampling))


# ---- decoding ----


def measure_decoding(
    config: Config, model: GPT, runtime: Runtime, results: dict[str, Any], reporter: Reporter
) -> None:
    """Each type of weights with each batch, as `rows` in `results`; the bandwidth there is kept at its best.

    A step must read the weights of the linear layers once, and the KV cache of every sequence.
    """
    own = str(runtime.compute_dtype).removeprefix("torch.")
    types: dict[str, list[Quantization | None]] = {
        "float32": [None, "bf16", "int8"],
        "bfloat16": [None, "int8"],
    }
    num_bytes: list[float] = []
    rows: list[dict[str, Any]] = []
    kinds: list[tuple[Quantization | None, int]] = [
        (quantize, batch) for quantize in types.get(own, [None]) for batch in config.batches
    ]
    kv_bytes = kv_bytes_per_token(model.config, runtime.compute_dtype.itemsize)
    context = config.prompt_tokens + config.new_tokens / 2
    with reporter.progress("decode", len(kinds), "batches") as bar:
        for quantize, batch in kinds:
            engine = new_engine(model, batch, quantize=quantize)
            source, new = random.Random(batch), config.new_tokens
            requests = [
                random_request(source, config.prompt_tokens, temperature=0.0, max_tokens=new)
                for _ in range(batch)
            ]
            seconds = seconds_per_step(engine, requests, runtime)
            bandwidth = read_bandwidth(runtime, seconds=0.3)
            results["read_bytes_per_second"] = max(results["read_bytes_per_second"], bandwidth)
            num_bytes.append(weight_bytes(engine.backend.model) + batch * context * kv_bytes)
            rows.append(
                {
                    "batch": batch,
                    "dtype": {None: own, "bf16": "bfloat16", "int8": "int8"}[quantize],
                    "tokens_per_second": batch / seconds,
                    "milliseconds_per_step": 1000 * seconds,
                    "decoder": engine.backend.name,
                }
            )
            bar.advance()
    for row, size in zip(rows, num_bytes, strict=True):
        row["bound_tokens_per_second"] = row["batch"] * results["read_bytes_per_second"] / size
    results["rows"] = rows


def seconds_per_step(engine: Engine, requests: Sequence[Request], runtime: Runtime) -> float:
    """The median step in which all requests decode."""
    handles = {engine.submit(request) for request in requests}
    durations: list[float] = []
    while not engine.is_idle:
        started = time.perf_counter()
        events = engine.step()
        runtime.synchronize()
        if {event.handle for event in events} == handles:
            durations.append(time.perf_counter() - started)
    return statistics.median(durations[1:] or durations)  # the first of them read the last prompt


def show_decoding(results: dict[str, Any], reporter: Reporter) -> None:
    """Decoding by type of the weights and batch, against the bound."""
    single = {row["dtype"]: row["tokens_per_second"] for row in results["rows"] if row["batch"] == 1}
    reporter.line(f"Memory is read at {results['read_bytes_per_second'] / 1e9:.1f} GB/s.")
    table = []
    for row in results["rows"]:
        speed, bound = row["tokens_per_second"], row["bound_tokens_per_second"]
        times = speed / single.get(row["dtype"], math.nan)
        cells = [row["dtype"], str(row["batch"]), f"{speed:,.0f}", f"{bound:,.0f}", f"{speed / bound:.0%}"]
        table.append([*cells, f"{times:.1f}", row["decoder"]])
    columns = ["weights", "batch", "tokens/s", "bound", "of it", "times batch 1", "decoded by"]
    reporter.table("Decoding", columns, table)


# ---- latency ----


def measure_steady_streams(engine: Engine, reporter: Reporter) -> dict[str, Any]:
    """Seconds between tokens of streams that decode, alone and while a long prompt is read beside them.

    `added_token_times` is how many undisturbed medians the long prompt adds to their 99th percentile.
    """
    source = random.Random(1)
    room = engine.config.context_length - 32
    handles = {
        engine.submit(random_request(source, 16, max_tokens=room, seed=index)) for index in range(STREAMS)
    }
    while {event.handle for event in engine.step()} != handles:
        pass  # until all prompts are read
    alone = []
    for _ in range(60):
        started = time.perf_counter()
        engine.step()
        alone.append(time.perf_counter() - started)
    long = engine.submit(random_request(source, LONG_PROMPT, max_tokens=1))
    beside: list[float] = []
    with reporter.progress("load, a long prompt", LONG_PROMPT, "tokens") as bar:
        for _ in range(2 * LONG_PROMPT):
            started = time.perf_counter()
            events = engine.step()
            beside.append(time.perf_counter() - started)
            bar.advance(LONG_PROMPT // 16)
            if any(event.handle == long for event in events):
                break
    without, disturbed = percentiles(alone), percentiles(beside)
    return {
        "streams": STREAMS,
        "long_prompt": LONG_PROMPT,
        "without": without,
        "with": disturbed,
        "added_token_times": (disturbed["p99"] - without["p99"]) / statistics.median(alone),
    }


def measure_random_load(engine: Engine, reporter: Reporter) -> dict[str, Any]:
    """Poisson arrivals of prompts of 16 to 512 tokens that want 16 to 256 more, at a share of the engine's capacity,
    which is measured first, by the same requests submitted all at once."""
    source = random.Random(2)
    requests = [
        random_request(source, source.randint(16, 512), max_tokens=source.randint(16, 256), seed=index)
        for index in range(REQUESTS)
    ]
    with reporter.progress("load, all at once", REQUESTS, "requests") as bar:
        started = time.perf_counter()
        engine.generate(requests, on_finish=lambda *_: bar.advance())
        capacity = REQUESTS / (time.perf_counter() - started)
    engine.weights_changed()  # forgets the prompts
    moments: list[float] = []
    for _ in requests:
        moments.append((moments[-1] if moments else 0.0) + source.expovariate(LOAD * capacity))
    arrivals = deque(zip(moments, requests, strict=True))
    arrived: dict[int, float] = {}
    latest: dict[int, float] = {}
    first: list[float] = []
    between: list[float] = []
    began = time.perf_counter()
    with reporter.progress("load, one by one", REQUESTS, "requests") as bar:
        while arrivals or not engine.is_idle:
            now = time.perf_counter() - began
            while arrivals and arrivals[0][0] <= now:
                moment, request = arrivals.popleft()
                arrived[engine.submit(request)] = moment
            if engine.is_idle:
                time.sleep(max(0.0, arrivals[0][0] - now))
                continue
            events = engine.step()
            now = time.perf_counter() - began
            for event in events:
                is_first = event.handle not in latest
                times, since = (first, arrived) if is_first else (between, latest)
                times.append(now - since[event.handle])
                latest[event.handle] = now
                bar.advance(int(event.completion is not None))
    return {
        "requests": REQUESTS,
        "per_second": LOAD * capacity,
        "capacity_per_second": capacity,
        "first_token": percentiles(first),
        "between_tokens": percentiles(between),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The median and the 99th percentile, by the nearest rank."""
    ordered = sorted(values)
    return {
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
    }


def show_load(load: dict[str, Any], reporter: Reporter) -> None:
    """Latencies."""
    steady, random_load = load["steady"], load["random"]
    rows = [
        [name, *(f"{1000 * steady[key][p]:.0f} ms" for p in ("p50", "p99"))]
        for name, key in (("alone", "without"), ("beside a long prompt", "with"))
    ]
    title = f"{steady['streams']} streams, then a prompt of {steady['long_prompt']} tokens"
    reporter.table(title, ["between tokens", "median", "p99"], rows)
    reporter.line(f"The long prompt adds {steady['added_token_times']:.1f} token times to the others' p99.")
    rows = [
        [name, *(f"{1000 * random_load[key][p]:,.0f} ms" for p in ("p50", "p99"))]
        for name, key in (("first token", "first_token"), ("between tokens", "between_tokens"))
    ]
    title = f"{random_load['requests']} requests at random, {random_load['per_second']:.2f} a second"
    reporter.table(title, ["time to", "median", "p99"], rows)


# ---- prefix caching, quantization ----


def measure_prefix_caching(engine: Engine, reporter: Reporter) -> dict[str, float]:
    """Seconds to the first token of a prompt, when none of it is cached and when its prefix is."""
    cold: list[float] = []
    warm: list[float] = []
    with reporter.progress("prefix", 3, "rounds") as bar:
        for seed in range(3):
            source = random.Random(seed)
            prefix = random_request(source, SHARED).prompt_ids
            for number in range(3):
                prompt = prefix + random_request(source, TOTAL - SHARED).prompt_ids
                started = time.perf_counter()
                engine.generate([Request(prompt, SamplingParams(max_tokens=1, ignore_end=True))])
                (cold if number == 0 else warm).append(time.perf_counter() - started)
            bar.advance()
    return {
        "shared_tokens": SHARED,
        "prompt_tokens": TOTAL,
        "cold_seconds": statistics.median(cold),
        "warm_seconds": statistics.median(warm),
        "ratio": statistics.median(warm) / statistics.median(cold),
    }


def show_prefix(found: dict[str, float], reporter: Reporter) -> None:
    """What a cached prefix saves."""
    reporter.line(
        f"First token of {found['prompt_tokens']:.0f}: {1000 * found['cold_seconds']:,.0f} ms; "
        f"with {found['shared_tokens']:.0f} of them cached {1000 * found['warm_seconds']:,.0f} ms "
        f"({found['ratio']:.0%})."
    )


def measure_bits(path: Path, runtime: Runtime, reporter: Reporter) -> dict[str, float]:
    """Bits per byte of the run's validation text with the model's own weights, and with quantized ones."""
    folder = resolve_bundle(path)
    run = RunDirectory(folder.parent.parent)
    bundle = load_bundle(folder, device=runtime.device, dtype=runtime.compute_dtype)
    kinds: dict[str, Quantization | None] = {"own": None, "bfloat16": "bf16", "int8": "int8"}
    found: dict[str, float] = {}
    with open_tokens(run.tokens, load_manifest(run.data), bundle.tokenizer, "validation") as cache:
        rows = ValidationRows(cache, bundle.config.context_length)
        for name, kept in kinds.items():
            model = bundle.model if kept is None else decoding_view(bundle.model, load_library(), kept)
            parts = score_text(
                model,
                rows.batches(8, max_rows=256),
                bundle.tokenizer.token_byte_lengths,
                reporter=reporter,
                total_tokens=min(256, rows.num_rows) * bundle.config.context_length,
            )
            found[name] = text_score(parts, bundle.tokenizer.vocab_size)["bits_per_byte"]
    return found
