"""How engine and loss compute faster: C on CPUs, CUDA graphs and Triton on GPUs, quantized weights, guided decoding.

Others need two functions: what `choose_backend` gives is handed to an Engine, what `choose_loss` gives to training.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress

import torch
from torch import Tensor

from chatsmith.backends.cpu_decoder import MOST_ROWS, CPUDecoder
from chatsmith.backends.cuda_graph import CudaRecorder, GraphDecoder
from chatsmith.backends.guided import Grammars
from chatsmith.backends.lora import Adapter, Routes, adapt
from chatsmith.backends.native import load_library
from chatsmith.backends.quantized import Quantization, decoding_view, refresh, weight_bytes
from chatsmith.engine.backend import Backend, Guide
from chatsmith.engine.paged_attention import StepAttention
from chatsmith.engine.request import Constraint
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.gpt import GPT
from chatsmith.model.loss import ChunkGradient, chunk_gradient
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

__all__ = ["Quantization", "choose_backend", "choose_loss", "weight_bytes"]


def choose_backend(
    model: GPT,
    *,
    quantize: Quantization | None = None,
    exact: bool | None = False,
    adapters: Mapping[str, Adapter] | None = None,
) -> Backend:
    """The fastest way to decode with `model`, on the device where it is.

    Single tokens and short chunks run in C on a CPU, as recorded CUDA graphs on a GPU, through torch elsewhere.
    `quantize` keeps the weights of the large products in "bf16" or "int8"; master weights in fp32 that every product
    would cast to bf16 are kept in bf16 without being asked.

    `exact` (None: where that is possible): a completion is the same bit for bit whatever runs beside it, and whether
    its prompt was cached. Every token goes through C, which sums each of its numbers in one order; up to 256 tokens at
    once that costs nothing (docs/lab-log.md). An engine cannot be made with True where there is no C.

    With `adapters`, by name, each request chooses one or none. A step in which one is asked for runs through torch,
    over the same weights, quantized or not; nothing is exact then. Raises UserError for them with `exact` True.
    """
    return _FastBackend(model, quantize, exact, adapters or {})


def choose_loss(runtime: Runtime, notice: Callable[[str], object]) -> ChunkGradient:
    """How the loss of a chunk of logits and its gradient are computed on this device: on CUDA by a Triton kernel, if it
    gives here what the plain code gives. There a line says which it is."""
    if runtime.device.type != "cuda":
        return chunk_gradient
    why = "its numbers are others"
    try:
        from chatsmith.backends import triton_loss

        if triton_loss.agrees(runtime.device, runtime.compute_dtype):
            notice("Loss: a fused Triton kernel.")
            return triton_loss.fused_chunk_gradient
    # No Triton, no compiler, a GPU that it does not know: each fails in its own way.
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
    notice(f"Loss: plain, since the Triton kernel does not work here ({why}).")
    return chunk_gradient


class _FastBackend(Backend):
    """Few tokens go through a decoder of their own, if there is one; all others through the model."""

    def __init__(
        self, model: GPT, quantize: Quantization | None, exact: bool | None, adapters: Mapping[str, Adapter]
    ) -> None:
        super().__init__(model)
        if exact and adapters:
            raise UserError("replies beside adapters are not exact; do without one of them", setting="exact")
        exact = False if adapters else exact
        self._source, self._must_be_exact, self.adapters = model, exact, adapters.keys()
        self._library = load_library() if self.device.type == "cpu" else None
        casts = self.dtype == torch.bfloat16 and model.embedding.weight.dtype == torch.float32
        quantize = quantize or ("bf16" if casts else None)
        self._view = decoding_view(model, self._library, quantize, exact=exact is not False)
        self._routes = Routes()
        self.model = adapt(model, self._view, adapters, self._routes) if adapters else self._view
        self._decoder: CPUDecoder | GraphDecoder | None = None
        self._grammars: Grammars | None = None

    def allocate(self, num_blocks: int, block_size: int, max_running: int, tokens_per_step: int) -> None:
        super().allocate(num_blocks, block_size, max_running, tokens_per_step)
        longest = -(-self.config.context_length // block_size)
        if self.device.type == "cuda":
            recorder = CudaRecorder(self.device)
            self._decoder = GraphDecoder(
                self._view, self.attention, self.cache, max_running, longest, recorder
            )
        elif self._library is not None and CPUDecoder.is_possible(self._view, self.cache):
            rows = max(max_running, min(MOST_ROWS, tokens_per_step))
            self._decoder = CPUDecoder(self._library, self._view, self.cache, rows, longest)
        if self._decoder is not None:
            self.name = self._decoder.name
        self.is_exact = self._must_be_exact is not False and isinstance(self._decoder, CPUDecoder)
        if self._must_be_exact and not self.is_exact:
            raise UserError(
                "replies that are the same whatever runs beside them take a CPU, a C compiler, and a model whose width "
                "is a multiple of 16; do without",
                setting="exact",
            )
        if self.is_exact and self._library is not None:
            self._library.tile_always()

    def make_attention(self, max_running: int) -> StepAttention:
        if self.device.type == "cuda" and self.dtype != torch.float64:
            with suppress(ImportError):  # torch for some platforms brings no Triton
                from chatsmith.backends.triton_attention import probed

                if kernel := probed(self.model, self.cache):
                    return kernel
        return super().make_attention(max_running)

    def forward(self, chunks: list[Chunk]) -> Tensor:
        self._routes.plan(chunks, self.device)
        if self._routes.rows:
            return super().forward(chunks)
        if self.is_exact and isinstance(self._decoder, CPUDecoder):
            return torch.cat([self._decoder.hidden(part) for part in self._decoder.parts(chunks)])
        count = 0 if self._decoder is None else self._decoder.num_taken(chunks)
        if self._decoder is None or not count:
            return super().forward(chunks)
        hidden = self._decoder.hidden(chunks[:count])
        if count == len(chunks):
            return hidden
        return torch.cat((hidden, super().forward(chunks[count:]).to(hidden.dtype)))

    def weights_changed(self) -> None:
        refresh(self._view, self._source)
        if isinstance(self._decoder, CPUDecoder):
            self._decoder.refresh()

    def guide(self, constraint: Constraint, tokenizer: Tokenizer) -> Guide:
        self._grammars = self._grammars or Grammars(tokenizer)
        return self._grammars.start(constraint)
