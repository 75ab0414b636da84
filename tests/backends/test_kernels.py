"""How many kernels a step of decoding starts, layer by layer, and that none of them copies the cache.

Counted on the CPU, where every operation of torch that is no view stands for a kernel on a GPU. Triton's kernels are
not run: what would start them is counted.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chatsmith.backends.cuda_graph import _Size
from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import PagedAttention, StepAttention
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT, Attention

CONTEXT, BLOCK, ROWS = 512, 16, 4
MOST_KERNELS = 20
"""Of a layer that has everything: a value embedding, a bigram embedding, and keys split among programs. Few enough for
1,000 tokens a second (docs/scaling.md)."""


class Kernels(TorchDispatchMode):
    """Counts what runs, and the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and "empty" not in name:
            self.counts[name] += 1
            if isinstance(result, torch.Tensor) and not name.endswith("_"):
                self.largest = max(self.largest, result.numel())
        return result


def kernels_of(
    num_layers: int, attention_over: Callable[[GPTConfig, KVCache], StepAttention], kind: type = Attention
) -> Kernels:
    config = GPTConfig(
        300,
        CONTEXT,
        num_layers=num_layers,
        num_heads=2,
        head_dim=32,
        windows=(0,) * num_layers,
        value_embedding_layers=tuple(range(num_layers)),
        bigram_buckets=64,
    )
    model = GPT(config)
    model.init_weights(torch.Generator().manual_seed(1))
    model = model.to(torch.bfloat16)
    for block in model.blocks:
        block.attention.__class__ = kind
    cache = KVCache(config, ROWS * CONTEXT // BLOCK, BLOCK, torch.bfloat16, torch.device("cpu"))
    kernels = Kernels()
    step = _Size(model, attention_over(config, cache), cache, ROWS, CONTEXT // BLOCK)
    with torch.inference_mode(), kernels:
        step.replay()
    return kernels


def by_layer(
    attention_over: Callable[[GPTConfig, KVCache], StepAttention], kind: type = Attention
) -> Counter[str]:
    few, more = (kernels_of(count, attention_over, kind) for count in (2, 3))
    more.counts.subtract(few.counts)
    return +more.counts


def test_a_step_with_the_kernel_starts_few_others_and_copies_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from chatsmith.backends import triton_attention

    started: list[str] = []

    class Launcher:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            return lambda *arguments, **constants: started.append(self.name)

    for name in ("_prepare", "_attend", "_merge"):
        monkeypatch.setattr(triton_attention, name, Launcher(name))

    def attention_over(config: GPTConfig, cache: KVCache) -> StepAttention:
        return triton_attention.TritonAttention(config, cache, 32)

    fused = triton_attention.FusedAttention
    kernels = kernels_of(3, attention_over, fused)
    assert started == ["_prepare", "_attend", "_merge"] * 3
    assert kernels.largest < ROWS * CONTEXT, "smaller than the keys of one head"
    counts = by_layer(attention_over, fused)
    assert sum(counts.values()) + 3 <= MOST_KERNELS, counts
    assert not {"index_select", "index", "gather"} & set(counts)


def test_plain_attention_gathers_which_the_count_sees() -> None:
    counts = by_layer(lambda config, cache: PagedAttention(config, cache, ROWS))
    assert counts["index_select"] == 2
