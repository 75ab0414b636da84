"""Decoding on a GPU, with each step recorded as a CUDA graph.

A token takes a GPU so little time that starting its few hundred operations one by one costs more than they do. A
graph starts them all at once, but repeats exactly what was recorded: the same shapes, at the same addresses. So a step
is rounded up to one of few sizes: so many rows of one token each, so many blocks that each may look back upon. What
differs from step to step is copied into one tensor of inputs, and all else (slots, masks) is computed from it on the
device. Rows that are nobody's write to the pool's scratch block. (vLLM and SGLang decode so, too.)

A size is recorded when it is first needed. The recorder is the only part that cannot run without CUDA: tests put
another in its place and compare the rest with the model itself.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from chatsmith.engine.kv_cache import KVCache
from chatsmith.engine.paged_attention import PagedAttention, StepAttention, packed_tokens, padded_table
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.gpt import GPT

logger = logging.getLogger(__name__)

FEWEST_BLOCKS = 8
"""Shorter tables would be sizes of their own and save next to nothing."""

WARM_UPS = 2
"""Runs before a recording: libraries allocate and choose their kernels in the first ones."""

TOLERANCE = 0.05
"""How far, absolutely and relatively, a replay may be from the step itself: hidden states are of unit size, and a last
bit of bf16 is 1/256. What a wrong replay gives is another token's state, off by about 1."""

Work = Callable[[], None]
Recorder = Callable[[Work], Work]
"""Takes work on tensors that stay where they are, and returns what repeats it. The work may run meanwhile."""


class GraphDecoder:
    """Steps of single tokens through one model and one pool. It sees weights that change in place, not new tensors."""

    name = "CUDA graphs"

    def __init__(
        self,
        view: GPT,
        attention: StepAttention,
        cache: KVCache,
        max_rows: int,
        max_blocks: int,
        recorder: Recorder,
    ) -> None:
        self._view, self._attention, self._cache = view, attention, cache
        self._max_rows, self._max_blocks = max_rows, max_blocks
        # What attends to a copy of the cache takes as long as the longest table: shorter ones are sizes of their own.
        self._fewest_blocks = FEWEST_BLOCKS if isinstance(attention, PagedAttention) else max_blocks
        self._recorder = recorder
        self._sizes: dict[tuple[int, int], _Size] = {}

    def num_taken(self, chunks: list[Chunk]) -> int:
        """How many of a step's chunks, the first, it takes. They are packed by length, the shortest first."""
        return min(sum(chunk.length == 1 for chunk in chunks), self._max_rows)

    def hidden(self, chunks: list[Chunk]) -> Tensor:
        """Hidden states (R, C) of chunks of one token; their keys and values go into the pool."""
        tables = [chunk.sequence.blocks for chunk in chunks]
        num_rows = rounded_up(len(chunks), self._max_rows)
        num_blocks = rounded_up(max(self._fewest_blocks, *map(len, tables)), self._max_blocks)
        size = self._sizes.get((num_rows, num_blocks))
        if is_new := size is None:
            size = _Size(self._view, self._attention, self._cache, num_rows, num_blocks)
            self._sizes[num_rows, num_blocks] = size
        size.fill(torch.tensor(packed_tokens(chunks)), padded_table(tables))
        if is_new:
            size.record(self._recorder)
        size.replay()
        return size.hidden[: len(chunks)].clone()


class _Size:
    """One size of step: inputs at one address, hidden states at another, and how to get from these to those."""

    def __init__(
        self, view: GPT, attention: StepAttention, cache: KVCache, num_rows: int, num_blocks: int
    ) -> None:
        self._view, self._attention = view, attention
        nobody = [0, -1, 0, cache.scratch_block, *[0] * (num_blocks - 1)]
        self._nobody = torch.tensor([nobody] * num_rows)
        self._inputs = self._nobody.to(cache.device, copy=True)
        """(R, 3 + W): token, the one before it, position, blocks."""
        self.hidden = torch.zeros(num_rows, view.config.model_dim, dtype=cache.dtype, device=cache.device)
        """(R, C)"""
        self.replay: Work = self._compute

    def fill(self, numbers: Tensor, table: Tensor) -> None:
        """Set the inputs of the rows that are somebody's: token, the one before it and position (3, R), and blocks."""
        filled = self._nobody.clone()
        rows, width = table.shape
        filled[:rows, :3], filled[:rows, 3:] = numbers.T, 0
        filled[:rows, 3 : 3 + width] = table
        self._inputs.copy_(filled)

    def record(self, recorder: Recorder) -> None:
        """From now on `replay` repeats a recording. What cannot be recorded, or does something else for the present
        inputs than the work itself, is computed as before, with a warning."""
        try:
            self.replay = recorder(self._compute)
            self._compute()
            expected = self.hidden.clone()
            self.hidden.zero_()
            self.replay()
            if torch.allclose(self.hidden, expected, TOLERANCE, TOLERANCE, equal_nan=True):
                return
            reason: object = "it computes something else"
        except RuntimeError as error:  # CUDA's word for an operation, or a driver, that cannot
            reason = error
        self.replay = self._compute
        logger.warning("decoding %d rows without a CUDA graph: %s", len(self._inputs), reason)

    def _compute(self) -> None:
        tokens, previous, positions = self._inputs[:, :3].T[:, None]
        self._attention.plan_decoding(positions[0], self._inputs[:, 3:])
        hidden = self._view(tokens, previous=previous, positions=positions, attend=self._attention)
        self.hidden.copy_(hidden[0])


class CudaRecorder:
    """Records work as CUDA graphs, which share the memory of what they compute on the way."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """Run the work a few times on a stream of its own, then record it there."""
        graph, stream = torch.cuda.CUDAGraph(), self._stream
        with torch.cuda.device(stream.device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    work()
                # Other threads may use the device meanwhile; what they do is not recorded.
                with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
        return graph.replay


def rounded_up(count: int, most: int) -> int:
    """The next power of two, but no more than `most`: the sizes that steps are recorded in."""
    return min(1 << (count - 1).bit_length(), most)
