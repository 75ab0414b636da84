"""The engine: submit requests, take steps, collect what each step brings.

Everything in chatsmith that decodes goes through it: chat, server, evaluation, reinforcement learning. Inside
it is synchronous and belongs to one thread. A step lets the scheduler choose tokens to compute, runs the
model once over all of them, samples one token for each sequence that is due, and tells what came of it. A
reply depends on its request and seed alone: not on the batch it ran in, the prefix cache, chunks or
pre-emption. Requests that differ in their seed alone are computed once, until what is sampled differs.

It does not render chats, load bundles, print, or know what a tool does: it is given ids and a hook.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from chatsmith.backends.cpu_decoder import MOST_ROWS, Decoder
from chatsmith.backends.cuda_graph import CudaRecorder, GraphDecoder
from chatsmith.backends.guided import Forms, RequestError
from chatsmith.backends.native import load_library
from chatsmith.backends.quantized import Quantization, decoding_view, weight_bytes
from chatsmith.engine.block_manager import BlockManager
from chatsmith.engine.completion import Reply
from chatsmith.engine.kv_cache import KVCache, affordable_tokens
from chatsmith.engine.paged_attention import PagedAttention, packed_tokens, packing_order
from chatsmith.engine.request import Completion, Event, Request, check_possible
from chatsmith.engine.sampler import Choice, choose
from chatsmith.engine.scheduler import Chunk, Scheduler, Sequence
from chatsmith.engine.scoring import score_prompts
from chatsmith.model.config import kv_bytes_per_token
from chatsmith.model.gpt import GPT
from chatsmith.text.chat import Part
from chatsmith.text.tokenizer import Tokenizer

Tool = Callable[[str], str]
"""Takes what the model wrote between `<|python_start|>` and `<|python_end|>`, gives the text to force in."""

WORKSPACE_TOKENS = 16_384
"""Most keys gathered at once; more rows than that holds are attended to in turns."""


class Engine:
    """Continuous batching over one model.

    `tool` runs when a reply closes a call. `kv_tokens` is the size of the key-value pool; None sizes it by
    the free memory. `tokens_per_step` bounds the work of one step; `tokens_beside_decoding` bounds, below that,
    the prompts' part of a step in which others decode, so it bounds how long a prompt delays them. `seed` makes
    the replies to requests without a seed of their own repeatable, in their order of submission. `quantize` keeps
    smaller weights for the large products. `native` false leaves all work to torch's operations, one by one: no C on
    a CPU, no CUDA graphs on a GPU.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        tool: Tool | None = None,
        max_running: int = 16,
        tokens_per_step: int = 256,
        tokens_beside_decoding: int | None = None,
        kv_tokens: int | None = None,
        block_size: int = 16,
        prefix_caching: bool = True,
        seed: int | None = None,
        quantize: Quantization | None = None,
        native: bool = True,
    ) -> None:
        self.config = model.config
        self._source = model
        self._device = model.embedding.weight.device
        self._native = native
        self._library = load_library() if native and self._device.type == "cpu" else None
        dtype = model.compute_dtype or model.embedding.weight.dtype
        # Master weights that every product would cast anew are kept cast.
        is_cast = dtype == torch.bfloat16 and model.embedding.weight.dtype == torch.float32
        self._quantize: Quantization | None = quantize or ("bf16" if is_cast else None)
        self._model = decoding_view(model, self._library, self._quantize)
        self._tokenizer = tokenizer
        self._tool = tool
        if kv_tokens is None:
            kv_tokens = affordable_tokens(self.config, dtype, self._device, max_running)
        self._blocks = BlockManager(
            max(1, kv_tokens // block_size), block_size, prefix_caching=prefix_caching
        )
        self._scheduler = Scheduler(
            self._blocks,
            tokens_per_step=max(tokens_per_step, max_running),
            max_running=max_running,
            tokens_beside_decoding=tokens_beside_decoding,
        )
        # One whole context must fit, rounded up to blocks.
        longest = self._blocks.blocks_for(self.config.context_length) * block_size
        workspace = max(longest, min(WORKSPACE_TOKENS, max_running * longest))
        self._cache = KVCache(
            self.config, self._blocks.num_blocks, block_size, workspace, dtype, self._device
        )
        self._attention = PagedAttention(self.config, self._cache)
        self._decoder = self._make_decoder()
        self._replies: dict[int, Reply] = {}
        self._by_sequence: dict[Sequence, Reply] = {}
        self.num_computed = 0
        """Tokens that went through the model, since the beginning."""
        self._next_handle = 0
        self._newest: Reply | None = None
        self._seeds = random.Random(seed)

    @property
    def is_idle(self) -> bool:
        """Is there nothing left to do?"""
        return not self._replies

    @property
    def num_running(self) -> int:
        """Requests that hold a part of the pool."""
        return sum(len(self._by_sequence[one].seeds) for one in self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a place."""
        return sum(len(self._by_sequence[one].seeds) for one in self._scheduler.waiting)

    @property
    def num_preemptions(self) -> int:
        """How often a request had to give its blocks back and start again, since the beginning."""
        return self._scheduler.num_preemptions

    @property
    def num_free_blocks(self) -> int:
        """Blocks of the pool that no request holds; cached prefixes are among them."""
        return self._blocks.num_free

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool."""
        return self._blocks.num_blocks

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights that every step of decoding reads."""
        return weight_bytes(self._model)

    @property
    def decodes_with(self) -> str:
        """What single tokens go through: "C" on a CPU, "CUDA graphs" on a GPU, "torch" elsewhere."""
        return "torch" if self._decoder is None else self._decoder.name

    @property
    def prefix_queries(self) -> int:
        """Prompt tokens that were looked up in the prefix cache, since the beginning."""
        return self._scheduler.num_looked_up

    @property
    def prefix_hits(self) -> int:
        """Prompt tokens that were found in it."""
        return self._scheduler.num_found

    def describe(self) -> str:
        """One line about the key-value pool, for a command to print at start-up."""
        each = kv_bytes_per_token(self.config, self._cache.dtype.itemsize)
        tokens = self._pool_tokens
        return (
            f"key-value pool: {tokens * each / 2**20:,.0f} MiB, {tokens:,} tokens of {each / 1024:,.1f} KiB, "
            f"{tokens / self.config.context_length:,.1f} full contexts"
        )

    def submit(self, request: Request) -> int:
        """Queue a request; its handle names it in events. Raises RequestError if it can never run."""
        check_possible(request, self.config.context_length, self._pool_tokens, self.config.vocab_size)
        # Drawn even if unused, so that one request's seed does not shift those of the others.
        drawn_seed = self._seeds.getrandbits(63)
        seed = drawn_seed if request.sampling.seed is None else request.sampling.seed
        handle = self._next_handle
        reply = self._newest
        # What one client's request saves another's can be noticed, as with the prefix cache.
        if self._blocks.prefix_caching and reply is not None and reply.serves(request):
            reply.seeds[handle] = seed
        else:
            reply = self._newest = self._begin(request, handle, seed)
        self._next_handle += 1
        self._replies[handle] = reply
        return handle

    @property
    def _pool_tokens(self) -> int:
        return self._blocks.num_blocks * self._blocks.block_size

    def _begin(self, request: Request, handle: int, seed: int) -> Reply:
        form = None if request.constraint is None else self._forms.start(request.constraint)
        # The last id of a prompt that is only scored predicts nothing.
        prompt = list(request.prompt_ids[:-1] if request.only_scores else request.prompt_ids)
        prompt = prompt or list(request.prompt_ids)
        limits = [self.config.context_length, self._pool_tokens + 1]
        if request.sampling.max_tokens is not None:
            limits.append(len(prompt) + request.sampling.max_tokens)
        needed_from = None if request.score_from is None else max(request.score_from - 1, 0)
        sequence = Sequence(prompt, min(limits), needed_from)
        reply = Reply(handle, request, sequence, seed, self._tokenizer, form)
        self._scheduler.add(sequence)
        self._by_sequence[sequence] = reply
        return reply

    def step(self) -> list[Event]:
        """Compute once for as many requests as fit. No events are normal while prompts are read."""
        step = self._scheduler.schedule()
        if not step.chunks:
            assert self.is_idle, "requests wait, but none can run"
            return []
        chunks = packing_order(step.chunks)
        with torch.inference_mode():
            self._cache.zero(step.fresh_blocks)
            hidden = self._forward(chunks)
            self._scheduler.computed(chunks)
            self.num_computed += len(hidden)
            score_prompts(
                self._model, hidden, [(chunk, self._by_sequence[chunk.sequence]) for chunk in chunks]
            )
            events = self._fail_broken(chunks, hidden)
            ends = itertools.accumulate(chunk.length for chunk in chunks)
            due = [
                (self._by_sequence[chunk.sequence], end - 1)
                for chunk, end in zip(chunks, ends, strict=True)
                if chunk.samples and chunk.sequence in self._by_sequence
            ]
            sampling = [(reply, row) for reply, row in due if not reply.request.only_scores]
            choices: list[Choice] = []
            if sampling:
                logits = self._model.logits(hidden[[row for _, row in sampling]])
                choices = choose(logits, [reply.row() for reply, _ in sampling])
        chosen = iter(choices)
        for reply, _ in due:
            if reply.request.only_scores:
                events += self._advance(reply, None)
            else:
                events += self._choose(reply, [next(chosen) for _ in reply.seeds])
        return events

    def cancel(self, handle: int) -> Completion | None:
        """Give up a request and free its blocks. Returns what there was of it; None if it is over already."""
        reply = self._replies.get(handle)
        if reply is None:
            return None
        if len(reply.seeds) > 1:  # the others go on
            reply = reply.branch([handle], reply.sequence)
            del self._replies[handle]
            reply.finish("cancelled")
            return reply.completion()
        reply.finish("cancelled")
        return self._retire(reply)

    def generate(
        self, requests: Iterable[Request], on_finish: Callable[[int, Completion], None] | None = None
    ) -> list[Completion]:
        """Answer all requests, in their order. `on_finish(index, completion)` hears of each as it ends.

        A request that `submit` would refuse is answered with finish_reason `error` and the reason, so that it
        does not cost the others their replies.
        """
        assert self.is_idle, "generate needs the engine to itself"
        completions: dict[int, Completion] = {}
        index_of: dict[int, int] = {}

        def finish(index: int, completion: Completion) -> None:
            completions[index] = completion
            if on_finish is not None:
                on_finish(index, completion)

        try:
            for index, request in enumerate(requests):
                try:
                    index_of[self.submit(request)] = index
                except RequestError as error:
                    finish(index, Completion.refused(request, error))
            while not self.is_idle:
                for event in self.step():
                    if event.completion is not None:
                        finish(index_of[event.handle], event.completion)
        finally:
            for handle in index_of:
                self.cancel(handle)
        return [completions[index] for index in sorted(completions)]

    def num_cached(self, prompt_ids: tuple[int, ...]) -> int:
        """How many ids of a prompt the prefix cache would spare now; the last id is always computed."""
        size = self._blocks.block_size
        keys = Sequence(list(prompt_ids), len(prompt_ids)).keys(size)
        return len(self._blocks.match(keys, prompt_ids, len(prompt_ids) - 1)) * size

    def weights_changed(self) -> None:
        """Forget what was computed with the model's former weights. The engine must be idle.

        It reads the parameters of the very model it was given, so new ones need no loading; only quantized ones
        are made anew.
        """
        assert self.is_idle, "a reply would be continued by another model than it was begun by"
        if self._quantize:
            self._model = decoding_view(self._source, self._library, self._quantize)
        self._decoder = self._make_decoder()
        self._blocks.forget_all()

    def _make_decoder(self) -> Decoder | GraphDecoder | None:
        longest = self._blocks.blocks_for(self.config.context_length)
        rows = self._scheduler.max_running
        if self._native and self._device.type == "cuda":
            return GraphDecoder(self._model, self._cache, rows, longest, CudaRecorder(self._device))
        if self._library is None or not Decoder.is_possible(self._model, self._cache):
            return None
        rows = max(rows, min(MOST_ROWS, self._scheduler.tokens_per_step))
        return Decoder(self._library, self._model, self._cache, rows, longest)

    @functools.cached_property
    def _forms(self) -> Forms:
        return Forms(self._tokenizer)

    def _forward(self, chunks: list[Chunk]) -> Tensor:
        """Hidden states (N, C) of the packed tokens; their keys and values go into the pool."""
        count = 0 if self._decoder is None else self._decoder.num_taken(chunks)
        if self._decoder is None or not count:
            return self._forward_by_torch(chunks)
        hidden = self._decoder.hidden(chunks[:count])
        if count == len(chunks):
            return hidden
        return torch.cat((hidden, self._forward_by_torch(chunks[count:]).to(hidden.dtype)))

    def _forward_by_torch(self, chunks: list[Chunk]) -> Tensor:
        self._attention.plan(chunks)
        packed = torch.tensor(packed_tokens(chunks), device=self._device)[:, None]
        return self._model(packed[0], previous=packed[1], positions=packed[2], attend=self._attention)[0]

    def _fail_broken(self, chunks: list[Chunk], hidden: Tensor) -> list[Event]:
        """End the replies whose hidden states are no numbers, before others find what they left in the pool."""
        # A single token whose logits choose the next one is found broken then.
        if all(chunk.length == 1 and chunk.samples for chunk in chunks) or hidden.isfinite().all():
            return []
        parts = hidden.split([chunk.length for chunk in chunks])
        broken = [chunk for chunk, part in zip(chunks, parts, strict=True) if not part.isfinite().all()]
        replies = [self._by_sequence[chunk.sequence] for chunk in broken]
        return [event for reply in replies for event in self._advance(reply, Choice(None))]

    def _choose(self, reply: Reply, choices: list[Choice]) -> list[Event]:
        """Go on with what was chosen for each of a reply's requests: where that differs, the reply branches."""
        handles: dict[Choice, list[int]] = {}
        for handle, choice in zip(reply.seeds, choices, strict=True):
            handles.setdefault(choice, []).append(handle)
        stays, *leave = handles
        branches = [(self._branch(reply, handles[choice]), choice) for choice in leave]
        return [event for one, choice in [(reply, stays), *branches] for event in self._advance(one, choice)]

    def _branch(self, reply: Reply, handles: list[int]) -> Reply:
        sequence, copies = self._scheduler.branch(reply.sequence)
        self._cache.copy(copies)
        twin = self._by_sequence[sequence] = reply.branch(handles, sequence)
        self._replies.update(dict.fromkeys(handles, twin))
        return twin

    def _advance(self, reply: Reply, choice: Choice | None) -> list[Event]:
        """Go on with what was chosen; None where there is only the prompt to score, which is done."""
        num_known = len(reply.sequence.tokens)
        if choice is None:
            parts = reply.end_scoring()
        elif choice.id is None:
            parts = reply.fail()
        else:
            parts = reply.push(choice.id, choice.logprob)
            parts += self._run_tool(reply)
        ids = tuple(reply.sequence.tokens[num_known:])
        logprobs = reply.logprobs_of_last(len(ids))
        completion = self._retire(reply) if reply.finish_reason else None
        cached = reply.sequence.num_cached or 0
        return [Event(handle, ids, tuple(parts), completion, logprobs, cached) for handle in reply.seeds]

    def _run_tool(self, reply: Reply) -> list[Part]:
        """If the last id closed a call, force the tool's result in. Only this request suffers if it fails."""
        expression = reply.closed_call()
        if self._tool is None or expression is None:
            return []
        try:
            result = self._tool(expression)
        except Exception as error:
            return reply.finish("error", f"the tool failed: {error}")
        special = self._tokenizer.special
        forced = [special("<|output_start|>"), *self._tokenizer.encode(result), special("<|output_end|>")]
        parts: list[Part] = []
        for id in forced:
            if reply.finish_reason is None:  # a long result may fill the context
                parts += reply.push(id, sampled=False)
        return parts

    def _retire(self, reply: Reply) -> Completion:
        # What a failed request left in the pool is not to be found again by others.
        self._scheduler.remove(reply.sequence, forget=reply.finish_reason == "error")
        for handle in reply.seeds:
            del self._replies[handle]
        del self._by_sequence[reply.sequence]
        return reply.completion()
