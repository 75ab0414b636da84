"""The Triton kernel gives what attention written out gives: here under Triton's interpreter, in a process of its own,
since Triton decides when it is imported; on a GPU as it is. And it compiles for the GPUs that are not here.
"""

import copy
import math
import os
import random
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from chatsmith.engine.engine import Engine
from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import PagedAttention
from chatsmith.engine.scheduler import Chunk, Sequence
from chatsmith.model.attention import attention_scale
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT, Attention, rotary_table
from chatsmith.text.tokenizer import Tokenizer
from tests.backends.test_graph_decoder import Tape, a_request, recorded
from tests.engine.conftest import random_model

pytest.importorskip("triton", reason="a CPU build of torch brings no Triton: pip install triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
in_interpreter = pytest.mark.skipif(not INTERPRETED, reason="runs under Triton's interpreter")
not_interpreted = pytest.mark.skipif(INTERPRETED, reason="not under Triton's interpreter")
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"


@not_interpreted
@pytest.mark.long
def test_all_of_this_under_the_interpreter(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "13 passed" in done.stdout


def random_step(
    source: random.Random, config: GPTConfig, cache: KVCache, num_blocks: int, decodes: bool
) -> list[Chunk]:
    """Chunks of sequences whose blocks lie anywhere in the pool."""
    free = source.sample(range(1, num_blocks + 1), num_blocks)
    chunks: list[Chunk] = []
    for _ in range(source.randint(1, 3)):
        end = source.randint(1, config.context_length)
        start = end - 1 if decodes else source.randrange(end)
        sequence = Sequence([0] * end, end)
        sequence.blocks = [free.pop() for _ in range(-(-end // cache.block_size))]
        chunks.append(Chunk(sequence, start, end))
    return chunks


def written_out(config: GPTConfig, cache: KVCache, layer: int, chunks: list[Chunk], q: Tensor) -> Tensor:
    """Every query alone, in float64, over the slots that its sequence's blocks name."""
    keys, values = (
        pool.view(-1, config.num_heads, config.head_dim).double().cpu() for pool in cache.layer(layer)
    )
    rows: list[Tensor] = []
    for sequence, start, end in chunks:
        size, window = cache.block_size, config.windows[layer] or math.inf
        for place in range(start, end):
            seen = [
                sequence.blocks[at // size] * size + at % size
                for at in range(place + 1)
                if place - at < window
            ]
            scores = torch.einsum("hd,khd->hk", q[0, len(rows)].double().cpu(), keys[seen])
            weights = (scores * attention_scale(config.head_dim)).softmax(dim=-1)
            rows.append(torch.einsum("hk,khd->hd", weights, values[seen]))
    return torch.stack(rows)[None]


def check_attention(seed: int, head_dim: int, dtype: torch.dtype, *, decodes: bool, processors: int) -> None:
    from chatsmith.backends.triton_attention import TritonAttention

    source, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    block_size = source.choice([4, 5, 16])
    config = GPTConfig(
        300, 90, num_layers=3, num_heads=2, head_dim=head_dim, windows=(0, source.randint(1, 40), 89)
    )
    num_blocks = 3 * -(-config.context_length // block_size)
    cache = KVCache(config, num_blocks, block_size, dtype, torch.device(DEVICE))
    chunks = random_step(source, config, cache, num_blocks, decodes)
    used = {number for chunk in chunks for number in chunk.sequence.blocks}
    for layer in range(config.num_layers):
        for pool in cache.layer(layer):
            pool.copy_(torch.randn(pool.shape, generator=generator))
            for number in set(range(num_blocks + 2)) - used - {0}:
                pool[number] = float("nan")  # what others left there must not matter
    attention = TritonAttention(config, cache, processors)
    if decodes:
        most = -(-config.context_length // block_size)
        tables = [[*one.sequence.blocks, *[0] * (most - len(one.sequence.blocks))] for one in chunks]
        positions = torch.tensor([chunk.start for chunk in chunks], device=DEVICE)
        attention.plan_decoding(positions, torch.tensor(tables, device=DEVICE))
    else:
        attention.plan(chunks)
    shape = (3, 1, sum(chunk.length for chunk in chunks), config.num_heads, head_dim)
    for layer in range(config.num_layers):
        q, k, v = torch.randn(shape, generator=generator).to(DEVICE, dtype)
        found = attention(layer, q, k, v)
        assert found.dtype == dtype
        expected = written_out(config, cache, layer, chunks, q)
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(found.double().cpu(), expected, rtol=tolerance, atol=tolerance)


@in_interpreter
@pytest.mark.parametrize("head_dim", [32, 48, 128])
def test_any_tables_lengths_and_windows(head_dim: int) -> None:
    for seed in range(2):
        for processors in (1, 32):
            check_attention(seed, head_dim, torch.float32, decodes=True, processors=processors)
        check_attention(seed, head_dim, torch.float32, decodes=False, processors=1)


def check_fused(seed: int, head_dim: int, dtype: torch.dtype, *, decodes: bool) -> None:
    """The second kernel and attention after it against the model's own code in float64, and what it stores."""
    from chatsmith.backends.triton_attention import FusedAttention, TritonAttention

    source, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    config = GPTConfig(
        300, 40, num_layers=2, num_heads=2, head_dim=head_dim, windows=(0, 17), value_embedding_layers=(1,)
    )
    device = torch.device(DEVICE)
    cache, exact_cache = (KVCache(config, 9, 16, type, device) for type in (dtype, torch.float64))
    chunks = random_step(source, config, cache, 9, decodes)
    attention, plain = TritonAttention(config, cache, 8), PagedAttention(config, exact_cache, 3)
    attention.plan(chunks)
    plain.plan(chunks)
    places = torch.cat([torch.arange(chunk.start, chunk.end) for chunk in chunks])
    cos, sin = (table[places][None] for table in rotary_table(40, head_dim, config.rope_base))
    for layer in range(config.num_layers):
        past = torch.randn(2, *cache.layer(0)[0].shape, generator=generator).to(dtype)
        for pool, exact, numbers in zip(cache.layer(layer), exact_cache.layer(layer), past, strict=True):
            pool.copy_(numbers), exact.copy_(numbers)
        module = Attention(config, layer).to(device, dtype)
        for weight in module.parameters():
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5)
        exactly = copy.deepcopy(module).double()
        module.__class__ = FusedAttention
        x, values = torch.randn(2, 1, len(places), config.model_dim, generator=generator).to(device, dtype)
        angles = cos.to(device, dtype), sin.to(device, dtype)
        with torch.inference_mode():
            expected = exactly(x.double(), values.double(), *(one.double() for one in angles), plain)
            found = module(x, values, *angles, attention)
        tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
        for one, other in zip(
            (found, *cache.layer(layer)), (expected, *exact_cache.layer(layer)), strict=True
        ):
            assert one.dtype == dtype
            torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)


@in_interpreter
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [32, 48, 128])
def test_rotation_norms_gate_and_storing_in_one_kernel(head_dim: int, dtype: torch.dtype) -> None:
    for decodes in (True, False):
        check_fused(head_dim, head_dim, dtype, decodes=decodes)


@in_interpreter
@pytest.mark.parametrize("decodes", [True, False])
def test_bf16(decodes: bool) -> None:
    for seed in range(2, 4):
        check_attention(seed, 64, torch.bfloat16, decodes=decodes, processors=8)


@in_interpreter
def test_an_engine_says_the_same_and_its_recordings_hold_every_length(tokenizer: Tokenizer) -> None:
    """Rows decode in recordings of one table width; prompts are read in chunks beside them."""
    from chatsmith.backends.triton_attention import FusedAttention, TritonAttention

    model = random_model(tokenizer.vocab_size).float()
    options = {"max_running": 3, "block_size": 4, "tokens_per_step": 9, "kv_tokens": 160}
    requests = [a_request(index, 3 + 5 * index, 9) for index in range(4)]
    expected = Engine(model, tokenizer, **options).generate(requests)
    fast, tape = fast_engine_without_c(model, tokenizer, options), Tape()
    fast.backend.attention = TritonAttention(model.config, fast.backend.cache, 1)
    for block in fast.backend.model.blocks:
        block.attention.__class__ = FusedAttention
    found = recorded(fast, lambda work: tape_of_python(tape, work)).generate(requests)
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert len(tape.plays) <= 3, "one recording for each number of rows: 1, 2, 3"


def tape_of_python(tape: Tape, work):
    """The interpreter cannot be traced: it is only counted how often something is recorded."""
    tape.plays.append(0)
    return work


def fast_engine_without_c(model, tokenizer: Tokenizer, options) -> Engine:
    from chatsmith.backends import choose_backend

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chatsmith.backends.load_library", lambda: None)
        return Engine(model, tokenizer, backend=choose_backend(model), **options)


@in_interpreter
def test_a_kernel_that_is_wrong_or_cannot_run_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from chatsmith.backends import triton_attention

    config = GPTConfig(300, 20, num_layers=1, num_heads=1, head_dim=32)
    monkeypatch.setattr(triton_attention, "LENGTH_PROBED", 9)

    model = GPT(config)

    def probe(dtype: torch.dtype) -> object:
        caplog.clear()
        cache = KVCache(config, 4, 16, dtype, torch.device("cpu"))
        return triton_attention.probed(model, cache)

    assert probe(torch.float32) is None, "there is no CUDA device to ask for its processors"
    assert "Triton cannot" in caplog.text
    properties = type("Properties", (), {"multi_processor_count": 2})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    with caplog.at_level("INFO"):
        with monkeypatch.context() as patch:
            patch.setattr(triton_attention, "_prepare", {(8, 1): lambda *_, **__: None})
            assert isinstance(probe(torch.float32), triton_attention.TritonAttention)
            assert "reads the cache in place" in caplog.text and "by torch: Triton cannot" in caplog.text
            patch.setattr(triton_attention, "_prepare", defaultdict(lambda: lambda *_, **__: None))
            assert isinstance(probe(torch.float32), triton_attention.TritonAttention)
            assert "by torch: Triton is off by" in caplog.text
            assert type(model.blocks[0].attention) is Attention
        assert isinstance(probe(torch.float32), triton_attention.TritonAttention)
        assert "reads the cache in place" in caplog.text and "are one kernel" in caplog.text
        assert type(model.blocks[0].attention) is triton_attention.FusedAttention
        assert probe(torch.float64) is None
        assert "Triton cannot" in caplog.text
        monkeypatch.setattr(triton_attention, "attention_scale", lambda dim: 2.0)
        assert probe(torch.float32) is None
        assert "Triton is off by" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_on_a_gpu(head_dim: int, dtype: torch.dtype) -> None:
    for seed in range(4):
        for decodes in (True, False):
            check_attention(seed, head_dim, dtype, decodes=decodes, processors=64)
            check_fused(seed, head_dim, dtype, decodes=decodes)


@not_interpreted
@pytest.mark.long
@pytest.mark.parametrize(("architecture", "dtype"), [(75, "fp32"), (80, "bf16"), (90, "bf16")])
def test_it_compiles_for_gpus_that_are_not_here(architecture: int, dtype: str) -> None:
    """Down to machine code, and within the shared memory that these GPUs have."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from chatsmith.backends.triton_attention import TILES, _attend, _merge, _prepare

    target = GPUTarget("cuda", architecture, 32)
    most_queries, keys = TILES[{"fp32": 4, "bf16": 2}[dtype]]
    for queries, splits in {(16, 8), (most_queries, 1)}:
        pointers = dict.fromkeys(("q", "keys", "values"), f"*{dtype}") | {"tiles": "*i64", "table": "*i64"}
        pointers |= {"partial": "*fp32" if splits > 1 else f"*{dtype}", "totals": "*fp32"}
        numbers = {"num_tokens": "i32", "window": "i32"}
        shape = {"HEADS": 6, "DIM": 128, "WIDTH": 128, "BLOCK": 16, "QUERIES": queries, "KEYS": keys}
        constants = {**shape, "SPLITS": splits, "SCALE": 0.1, "WIDEN": False}
        signature = pointers | numbers | dict.fromkeys(constants, "constexpr")
        order = {name: signature[name] for name in _attend.arg_names}
        made = triton.compile(ASTSource(_attend, order, constants), target=target)
        assert made.asm["cubin"] and made.metadata.shared <= (64 if architecture == 75 else 99) * 1024
    constants = {"DIM": 128, "WIDTH": 128, "SPLITS": 8}
    signature = {"partial": "*fp32", "totals": "*fp32", "out": f"*{dtype}", "num_heads": "i32"}
    signature |= dict.fromkeys(constants, "constexpr")
    assert triton.compile(ASTSource(_merge, signature, constants), target=target).asm["cubin"]
    pointers = ("product", "gates", "embeddings", "cos", "sin", "queries", "keys", "values")
    signature = dict.fromkeys(pointers, f"*{dtype}") | {"slots": "*i64"}
    constants = {"HEADS": 6, "HALF": 64, "WIDTH": 64, "GATED": True}
    signature |= dict.fromkeys(constants, "constexpr")
    order = {name: signature[name] for name in _prepare.arg_names}
    made = triton.compile(ASTSource(_prepare, order, constants), target=target, options={"num_warps": 1})
    assert made.asm["cubin"]
