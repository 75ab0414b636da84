"""What one GPU shows that no CPU can: an hour's questions in eight minutes.

    python bench/gpu.py [PART …] [--json] [--out gpu.json] [--tiny]

Parts run in the order of PARTS, the most telling first, each in a process of its own that ends after two minutes; all
together they end after eight. The file is rewritten after each part, so that a machine taken away costs one part. No
network, no data set, no optional dependency; `--tiny` makes every part small enough for a CPU, where it only shows that
the script still runs.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from infer import measure_decoding, new_engine, random_model, random_request, read_bandwidth
from train import measure, random_batches

from chatsmith.backends import choose_backend, choose_loss
from chatsmith.cli.config import BenchInferConfig, BenchTrainConfig
from chatsmith.cli.training import shape_of
from chatsmith.data.problems import Problem, Reply, Verdict
from chatsmith.engine.engine import Engine
from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import PagedAttention
from chatsmith.engine.scheduler import Chunk, Sequence
from chatsmith.model.config import model_cost
from chatsmith.model.gpt import GPT, Attention
from chatsmith.optim.muon import orthogonalize
from chatsmith.optim.sharded import make_optimizer
from chatsmith.rl.objective import Clip, RLLoss, rollout_batches
from chatsmith.rl.rollouts import RolloutWorker, seeds_of
from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.device import Runtime, detect_runtime, peak_memory_bytes
from chatsmith.runtime.states import StateWriter
from chatsmith.text.tokenizer import train_tokenizer
from chatsmith.train.checkpoint import Progress, TrainingKey, save_training
from chatsmith.train.memory import Way, step_memory
from chatsmith.train.plan import Plan, make_plan, make_rollout_plan
from chatsmith.train.step import prepare, train_step
from chatsmith.worlds.kindergarten.exam import rl_problem_set

ALL_SECONDS, PART_SECONDS, LEAST_SECONDS = 480, 120, 10
ROOT = Path(__file__).resolve().parents[1]

PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "T4": 65e12,
}
"""Dense bf16 (T4: fp16) operations a second by the makers' data sheets."""

Result = dict[str, Any]


def train_config(depth: int, tiny: bool) -> BenchTrainConfig:
    """Heads of 128, windows SSSL, 2,048 tokens in a row, a vocabulary of 32,768; 2^17 tokens a step."""
    if tiny:
        return BenchTrainConfig(
            depth=2,
            width=32,
            head_dim=16,
            sequence_length=32,
            vocab_size=300,
            batch_tokens=128,
            rows_per_microbatch=2,
            steps=1,
            compile=False,
        )
    return BenchTrainConfig(
        depth=depth,
        head_dim=128,
        sequence_length=2048,
        window_pattern="SSSL",
        vocab_size=32_768,
        batch_tokens=2**17,
        rows_per_microbatch=16,
        steps=6,
    )


def plan_of(config: BenchTrainConfig) -> Plan:
    """The plan of a training bench."""
    shape = shape_of(config, config.vocab_size)
    micro = config.rows_per_microbatch or None
    return make_plan(shape, 10**9, batch_tokens=config.batch_tokens, rows_per_microbatch=micro)


def tests(tiny: bool, runtime: Runtime) -> Result:
    """The tests marked gpu."""
    chosen = ["tests/model/test_attention.py"] if tiny else ["tests"]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-500:]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    return {"exit_code": done.returncode, **counts, "failures": re.findall(r"FAILED (\S+)", done.stdout)}


def training(depth: int, tiny: bool, runtime: Runtime) -> Result:
    """Tokens a second and MFU against the data sheet."""
    config = train_config(depth, tiny)
    plan = plan_of(config)
    found: Result = measure(config, plan, runtime, Reporter(json=True))
    name = torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else ""
    peak = next((value for key, value in PEAKS.items() if key in name), None)
    found |= {"parameters": plan.cost.parameters, "flops_per_token": plan.cost.training_flops_per_token}
    return found | {"mfu_of_data_sheet": found["flops_per_second"] / peak if peak else None}


def timed(work: Callable[[], object], runtime: Runtime, times: int) -> float:
    """Seconds that `work` takes, after once to warm up."""
    work()
    runtime.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        work()
    runtime.synchronize()
    return (time.perf_counter() - started) / times


def optimizer(tiny: bool, runtime: Runtime) -> Result:
    """Muon's precision in bf16, what an update takes, and how long saving a state stops training."""
    config = train_config(20, tiny)
    plan = plan_of(config)
    model = GPT(plan.model)
    model.init_weights(torch.Generator().manual_seed(1))
    model.to(runtime.device)
    compute_loss = prepare(model, runtime, False, lambda _: None)
    made = make_optimizer(model, plan.rates, runtime)
    batches = random_batches(plan, torch.Generator().manual_seed(1))
    train_step(model, made, islice(batches, 1), plan, compute_loss, runtime, 1)
    compute_loss(model, next(batches).to(runtime.device), 1e-5).backward()
    seconds = timed(lambda: made.step(1.0, 0.95, 1.0), runtime, 1 if tiny else 5)
    noise = torch.randn(16, plan.model.model_dim, plan.model.model_dim, device=runtime.device)
    values = torch.linalg.svdvals(orthogonalize(noise, in_bf16=True).float())
    with tempfile.TemporaryDirectory() as folder:
        writer = StateWriter(Path(folder), runtime)
        stalls, writes = [], []
        for step in range(3):  # page-locked memory is made in the first, and kept
            started = time.perf_counter()
            save_training(writer, made, progress=Progress(step), key=TrainingKey("bench", 3, 1))
            stalls.append(time.perf_counter() - started)
            writer.finish()
            writes.append(time.perf_counter() - started)
        state = sum(path.stat().st_size for path in Path(folder).glob("000003/*"))
    return {
        "update_seconds": seconds,
        "muon_bf16_singular_values": [values.min().item(), values.max().item()],
        "muon_bf16_seconds": timed(lambda: orthogonalize(noise, in_bf16=True), runtime, 3),
        "muon_fp32_seconds": timed(lambda: orthogonalize(noise), runtime, 3),
        "state_bytes": state,
        "save_stall_seconds": stalls,
        "save_seconds": writes,
    }


def memory(tiny: bool, runtime: Runtime) -> Result:
    """The peak of a step by micro-batch, against the plan's estimate."""
    rows: list[Result] = []
    for micro in (1, 2) if tiny else (4, 16, 32):
        config = train_config(12, tiny)
        plan = make_plan(
            shape_of(config, config.vocab_size),
            10**9,
            batch_tokens=micro * config.sequence_length,
            rows_per_microbatch=micro,
        )
        if runtime.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(runtime.device)
        model = GPT(plan.model)
        model.init_weights(torch.Generator().manual_seed(1))
        model.to(runtime.device)
        loss = choose_loss(runtime, lambda _: None)
        compute_loss = prepare(model, runtime, not tiny, lambda _: None, gradient_of=loss)
        made = make_optimizer(model, plan.rates, runtime)
        batches = random_batches(plan, torch.Generator().manual_seed(1))
        for step in (1, 2):
            train_step(model, made, islice(batches, 1), plan, compute_loss, runtime, step)
        runtime.synchronize()
        tokens = plan.tokens_per_step
        way = Way(runtime.compute_dtype, on_gpu=runtime.device.type == "cuda", is_compiled=True)
        planned = step_memory(plan.model, plan.rows_per_microbatch, plan.accumulation, way)["peak"]
        peak = peak_memory_bytes(runtime)
        rows.append({"tokens": tokens, "peak": peak, "planned": planned, "ratio": planned / peak})
        del model, made
    return {"rows": rows}


def engine(tiny: bool, runtime: Runtime) -> Result:
    """Decoding by batch against the memory-bandwidth bound, and prompts read a second."""
    sizes = {"batches": (1, 2), "prompt_tokens": 8, "new_tokens": 4} if tiny else {"batches": (1, 32, 128)}
    trained = train_config(12, tiny)
    names = ("depth", "width", "head_dim", "sequence_length", "window_pattern", "vocab_size")
    config = BenchInferConfig(**{name: getattr(trained, name) for name in names}, **sizes)  # pyright: ignore
    model = random_model(config, runtime)
    found: Result = {"read_bytes_per_second": 0.0}
    measure_decoding(config, model, runtime, found, Reporter(json=True))
    length, count = config.sequence_length - 2, 2 if tiny else 8
    reader = new_engine(model, count)
    prompts = random.Random(1)
    for timed_round in range(2):
        started = time.perf_counter()
        reader.generate([random_request(prompts, length, max_tokens=1, seed=1) for _ in range(count)])
        runtime.synchronize()
        if timed_round:
            seconds, products = time.perf_counter() - started, model_cost(model.config).matrices
            found["prefill_tokens_per_second"] = count * length / seconds
            found["prefill_flops_per_second"] = 2 * products * count * length / seconds
    return found


def attention(tiny: bool, runtime: Runtime) -> Result:
    """Attention over the cache, by Triton and through a copy: how far they are from each other, and how fast they read
    keys and values, compared with what the memory gives. And all between the products of a layer, with rotation, norms
    and storing by torch or by the other kernel."""
    config = train_config(12, tiny)
    shape, device, dtype = shape_of(config, config.vocab_size), runtime.device, runtime.compute_dtype
    length, block, context = (24, 4, 32) if tiny else (1536, 16, 2048)
    kinds: dict[str, Any] = {"copy": lambda cache, rows: PagedAttention(shape, cache, rows)}
    found: Result = {"rows": [], "read_bytes_per_second": read_bandwidth(runtime, 16 if tiny else 512)}
    if find_spec("triton") and device.type == "cuda":
        from chatsmith.backends import triton_attention as triton

        kinds["triton"] = lambda cache, rows: triton.TritonAttention(shape, cache)
        found["error"] = triton.error_of(shape, block, dtype, device)
        found["fused_error"] = triton.error_of(shape, block, dtype, device, triton.FusedAttention)
    kv_bytes = 2 * shape.model_dim * dtype.itemsize * length
    for count, rows in ((1, 1), (1, 2)) if tiny else ((1, 1), (1, 32), (1, 256), (length, 1), (length, 8)):
        cache = KVCache(shape, rows * context // block, block, dtype, device)
        blocks = torch.randperm(rows * context // block).add(1).view(rows, -1).tolist()
        chunks = [Chunk(Sequence([0] * length, context), length - count, length) for _ in range(rows)]
        for chunk, own in zip(chunks, blocks, strict=True):
            chunk.sequence.blocks = own[: -(-length // block)]
        noise = (3, 1, rows * count, shape.num_heads, shape.head_dim)
        q, k, v = torch.randn(noise, device=device).to(dtype)
        row: Result = {"sequences": rows, "tokens_of_each": count, "length": length}
        full = len(shape.windows) - 1  # the last layer sees all
        for name, make in kinds.items():
            attend = make(cache, rows)
            attend.plan(chunks)
            with torch.inference_mode():
                seconds = timed(partial(attend, full, q, k, v), runtime, 1 if tiny else 20)
            row |= {f"{name}_seconds": seconds, f"{name}_bytes_per_second": rows * kv_bytes / seconds}
            if name == "triton":
                qkv, angle = torch.cat((q, k, v), dim=1).view(1, -1, 3 * shape.model_dim), k[..., 0, ::2]
                for kind in (Attention, triton.FusedAttention):
                    with torch.inference_mode():
                        work = partial(kind(shape, full).attended, qkv, None, angle, angle, attend)
                        row[f"{kind.__name__}_seconds"] = timed(work, runtime, 20)
        found["rows"].append(row)
        del cache
    return found


def rl(tiny: bool, runtime: Runtime) -> Result:
    """Rounds of reinforcement learning, rewarded at random: writing and updating, and what is recorded anew."""
    problems, samples, longest = (2, 2, 4) if tiny else (32, 8, 128)
    config = train_config(12, tiny)
    tokenizer = train_tokenizer(["speed"], vocab_size=300)
    shape = shape_of(config, tokenizer.vocab_size)
    model = GPT(shape)
    model.init_weights(torch.Generator().manual_seed(1))
    model.to(runtime.device)
    model.compute_dtype = runtime.compute_dtype
    replies = problems * samples
    plan = make_rollout_plan(shape, steps=10, replies=replies, rows_per_microbatch=32)
    engine = Engine(
        model,
        tokenizer,
        backend=choose_backend(model),
        tool=lambda text: text,
        max_running=replies,
        tokens_per_step=2048,
    )

    def reward(problem: Problem, reply: Reply) -> Verdict:
        return Verdict(float(len(reply.text) % 2), True)

    worker = RolloutWorker(engine, tokenizer, reward, Reporter(json=True), max_tokens=longest)
    loss = RLLoss(Clip(0.2, 0.3), 0.0, None, 0.0)
    made = make_optimizer(model, plan.rates, runtime)
    asked = [rl_problem_set(1).train(index) for index in range(problems)]
    rounds: list[Result] = []
    for step in range(1, 4):
        started = time.perf_counter()
        groups = worker.write(asked, samples, seeds_of(1, step, list(range(problems))))
        runtime.synchronize()
        written = time.perf_counter()
        scored = [reply for group in groups for reply in group.scored(False)]
        micro = plan.rows_per_microbatch
        batches = rollout_batches(scored, micro, replies // micro, most_inputs=plan.sequence_length)
        loss.expect(batches, runtime)
        train_step(model, made, batches, plan, loss, runtime, step)
        runtime.synchronize()
        loss.take_tally()
        ended = time.perf_counter()
        rounds.append({"rollout_seconds": written - started, "update_seconds": ended - written})
    return {"rounds": rounds, "computed_tokens": engine.num_computed}


PARTS: dict[str, Callable[[bool, Runtime], Result]] = {
    "tests": tests,
    "d12": lambda tiny, runtime: training(12, tiny, runtime),
    "optimizer": optimizer,
    "memory": memory,
    "attention": attention,
    "engine": engine,
    "d20": lambda tiny, runtime: training(20, tiny, runtime),
    "rl": rl,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts and write the file; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true", help="print the object at the end")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tiny", action="store_true", help="small enough for a CPU")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not torch.cuda.is_available() and not options.tiny:
        parser.error("no CUDA device is here; --tiny runs on a CPU")
    if options.here:
        runtime = detect_runtime("cpu" if options.tiny else "cuda", "fp32" if options.tiny else "auto")
        print(json.dumps(PARTS[options.parts[0]](options.tiny, runtime)))
        return 0
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    report: Result = {"gpu": gpu, "torch": torch.__version__, "tiny": options.tiny, "parts": {}}
    end = time.monotonic() + ALL_SECONDS
    for part in options.parts or PARTS:
        report["parts"][part] = run(part, options.tiny, min(PART_SECONDS, end - time.monotonic()))
        atomic.write_text(options.out, json.dumps(report, indent=1) + "\n")
        if not options.json:
            print(part, json.dumps(report["parts"][part]))
    if options.json:
        print(json.dumps(report))
    return int(any("failed" in found for found in report["parts"].values()))


def run(part: str, tiny: bool, seconds: float) -> Result:
    """A part in a process of its own, which ends after so many seconds."""
    if seconds < LEAST_SECONDS:
        return {"failed": "no time was left", "seconds": 0.0}
    command = [sys.executable, __file__, part, "--here", *(["--tiny"] if tiny else [])]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        lines, words = done.stdout.strip().splitlines(), done.stderr.strip().splitlines()
        found = json.loads(lines[-1]) if done.returncode == 0 else {"failed": "\n".join(words[-8:])}
    except subprocess.TimeoutExpired:
        found = {"failed": f"took longer than {seconds:.0f} s"}
    return {**found, "seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    sys.exit(main())
