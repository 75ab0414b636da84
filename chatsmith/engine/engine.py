"""The engine: submit requests, take steps, collect what each step brings.

Everything in chatsmith that decodes goes through it: chat, server, evaluation, reinforcement learning. It is
synchronous and belongs to one thread. A step schedules (which tokens of which sequences), runs the model once over all
of them, samples one token for each sequence that is due, and updates: text, calls of the tool, the end. A completion
depends on its request and seed alone: not on the batch it ran in, the prefix cache, chunks or pre-emption. Requests
that differ in their seed alone are computed once, until what is sampled differs.

It does not render chats, load bundles, print, or know what the tool does: it is given ids and a function.
"""

import itertools
import random
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from chatsmith.engine.backend import Backend
from chatsmith.engine.block_manager import BlockManager
from chatsmith.engine.completion import CompletionBuilder
from chatsmith.engine.kv_cache import TOKENS_PER_STEP, affordable
from chatsmith.engine.paged_attention import packing_order
from chatsmith.engine.request import Completion, EngineStats, Event, Request, RequestError, check_possible
from chatsmith.engine.sampler import Choice, choose, token_logprobs
from chatsmith.engine.scheduler import Chunk, Scheduler, Sequence
from chatsmith.model.config import kv_bytes_per_token
from chatsmith.model.gpt import GPT
from chatsmith.text.chat import Part
from chatsmith.text.tokenizer import Tokenizer

Tool = Callable[[str], str]
"""Takes what the model wrote between `<|python_start|>` and `<|python_end|>`, gives the text to force in."""

SCORED_AT_ONCE = 256
"""Rows of logits when prompts are scored: all logits of one long prompt would take more memory than its keys and values
(2,048 tokens of a vocabulary of 32,768 are 256 MiB in float32)."""

Sampled = tuple[CompletionBuilder, list[Choice]]
"""A completion and what was chosen next for each of its seeds; nothing where nothing was to be sampled."""


class Engine:
    """Continuous batching over one model.

    `backend` computes the steps: `chatsmith.backends.choose_backend(model)` gives the fastest, None plain torch. `tool`
    runs when a completion closes a call. `max_running` sequences at most run at once. `kv_tokens` is the size of the
    key-value pool; None sizes it by the free memory. On a GPU the memory also says how many may run, unless
    `max_running` does. `tokens_per_step` bounds the work of one step;
    `tokens_beside_decoding` bounds, below that, the part of prompts in a step in which others decode, so it bounds how
    long a prompt delays them. `seed` makes the completions of requests without a seed of their own repeatable, in
    their order of submission.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        backend: Backend | None = None,
        tool: Tool | None = None,
        max_running: int | None = None,
        tokens_per_step: int | None = None,
        tokens_beside_decoding: int | None = None,
        kv_tokens: int | None = None,
        block_size: int = 16,
        prefix_caching: bool = True,
        seed: int | None = None,
    ) -> None:
        self.config = model.config
        self.backend = backend or Backend(model)
        self._tokenizer = tokenizer
        self._tool = tool
        dtype, device = self.backend.dtype, self.backend.device
        self.max_running, held = affordable(self.config, dtype, device, max_running)
        tokens_per_step = tokens_per_step or TOKENS_PER_STEP[device.type]
        self.num_blocks = max(1, (kv_tokens or held) // block_size)
        self._pool_tokens = self.num_blocks * block_size
        self._blocks = BlockManager(self.num_blocks, block_size, prefix_caching=prefix_caching)
        self._scheduler = Scheduler(
            self._blocks,
            tokens_per_step=max(tokens_per_step, self.max_running),
            max_running=self.max_running,
            tokens_beside_decoding=tokens_beside_decoding or 0,
        )
        self.backend.allocate(self.num_blocks, block_size, self.max_running, self._scheduler.tokens_per_step)
        self._builders: dict[int, CompletionBuilder] = {}
        """By handle. Requests that differ in their seed alone have the same one."""
        self._by_sequence: dict[Sequence, CompletionBuilder] = {}
        self.num_computed = 0
        """Tokens that went through the model."""
        self._next_handle = 0
        self._newest: CompletionBuilder | None = None
        self._seeds = random.Random(seed)

    def submit(self, request: Request) -> int:
        """Queue a request; its handle names it in events. Raises RequestError if it can never run."""
        check_possible(request, self.config.context_length, self._pool_tokens, self.config.vocab_size)
        if request.adapter and request.adapter not in self.backend.adapters:
            raise RequestError(f"the engine has no adapter {request.adapter!r}", parameter="adapter")
        # Drawn even if unused, so that one request's seed does not shift those of the others.
        drawn_seed = self._seeds.getrandbits(63)
        seed = drawn_seed if request.sampling.seed is None else request.sampling.seed
        handle = self._next_handle
        builder = self._newest
        # What one client's request saves another's can be noticed, as with the prefix cache.
        if self._blocks.prefix_caching and builder is not None and builder.serves(request):
            builder.seeds[handle] = seed
        else:
            builder = self._newest = self._begin(request, handle, seed)
        self._next_handle += 1
        self._builders[handle] = builder
        return handle

    def step(self) -> list[Event]:
        """Compute once for as many requests as fit. No events are normal while prompts are read."""
        step = self._scheduler.schedule()
        if not step.chunks:
            assert self.is_idle, "requests wait, but none can run"
            return []
        chunks = packing_order(step.chunks)
        with torch.inference_mode():
            self.backend.cache.zero(step.fresh_blocks)
            hidden = self.backend.forward(chunks)
            self._scheduler.computed(chunks)
            self.num_computed += len(hidden)
            self._score_prompts(chunks, hidden)
            sampled = self._sample(chunks, hidden)
        return [event for builder, choices in sampled for event in self._update(builder, choices)]

    def cancel(self, handle: int) -> Completion | None:
        """Give up a request and free its blocks. Returns what there was of it; None if it is over already."""
        builder = self._builders.get(handle)
        if builder is None:
            return None
        if is_shared := len(builder.seeds) > 1:  # the others go on
            builder = builder.fork([handle], builder.sequence)
            del self._builders[handle]
        builder.finish("cancelled")
        return builder.completion() if is_shared else self._retire(builder)

    def generate(
        self,
        requests: Iterable[Request],
        on_finish: Callable[[int, Completion], object] = lambda index, completion: None,
    ) -> list[Completion]:
        """Answer all requests, in their order. `on_finish(index, completion)` is called as each ends.

        A request that `submit` would refuse is answered with finish_reason `error` and the reason, so that it
        does not cost the others their completions.
        """
        assert self.is_idle, "generate needs the engine to itself"
        completions: dict[int, Completion] = {}
        index_of: dict[int, int] = {}
        try:
            for index, request in enumerate(requests):
                try:
                    index_of[self.submit(request)] = index
                except RequestError as error:
                    completions[index] = Completion(request.prompt_ids, (), (), (), "error", error=str(error))
                    on_finish(index, completions[index])
            while not self.is_idle:
                for event in self.step():
                    if event.completion is not None:
                        completions[index_of[event.handle]] = event.completion
                        on_finish(index_of[event.handle], event.completion)
        finally:
            for handle in index_of:
                self.cancel(handle)
        return [completions[index] for index in sorted(completions)]

    def weights_changed(self) -> None:
        """Forget what was computed with the model's former weights. The engine must be idle.

        The model's parameters were changed in place, so they need no loading: a backend only quantizes them again.
        """
        assert self.is_idle, "a completion would be continued by another model than it was begun by"
        self.backend.weights_changed()
        self._blocks.forget_all()

    def num_cached(self, prompt_ids: tuple[int, ...], adapter: str = "") -> int:
        """How many ids of a prompt the prefix cache holds now; the last id is always computed."""
        size = self._blocks.block_size
        keys = Sequence(list(prompt_ids), len(prompt_ids), adapter=adapter).keys(size)
        return len(self._blocks.match(keys, prompt_ids, len(prompt_ids) - 1)) * size

    @property
    def is_idle(self) -> bool:
        """Is there nothing left to do?"""
        return not self._builders

    @property
    def num_waiting(self) -> int:
        """Requests that wait for room."""
        return sum(len(self._by_sequence[one].seeds) for one in self._scheduler.waiting)

    def stats(self) -> EngineStats:
        """What the engine is doing, for metrics."""
        scheduler = self._scheduler
        return EngineStats(
            sum(len(self._by_sequence[one].seeds) for one in scheduler.running),
            self.num_waiting,
            self._blocks.num_free,
            scheduler.num_preemptions,
            scheduler.num_looked_up,
            scheduler.num_found,
        )

    def describe(self) -> str:
        """One line about the key-value pool, for a command to print at start-up."""
        each = kv_bytes_per_token(self.config, self.backend.dtype.itemsize)
        tokens = self._pool_tokens
        return (
            f"key-value pool: {tokens * each / 2**20:,.0f} MiB, {tokens:,} tokens of {each / 1024:,.1f} KiB, "
            f"{tokens / self.config.context_length:,.1f} full contexts"
        )

    def _begin(self, request: Request, handle: int, seed: int) -> CompletionBuilder:
        constraint = request.constraint
        guide = None if constraint is None else self.backend.guide(constraint, self._tokenizer)
        # The last id of a prompt that is only scored predicts nothing.
        prompt = list(request.prompt_ids[:-1] if request.only_scores else request.prompt_ids)
        prompt = prompt or list(request.prompt_ids)
        limits = [self.config.context_length, self._pool_tokens + 1]
        if request.sampling.max_tokens is not None:
            limits.append(len(prompt) + request.sampling.max_tokens)
        needed_from = None if request.score_from is None else max(request.score_from - 1, 0)
        sequence = Sequence(prompt, min(limits), needed_from, request.adapter)
        builder = CompletionBuilder({handle: seed}, request, sequence, self._tokenizer, guide)
        self._scheduler.add(sequence)
        self._by_sequence[sequence] = builder
        return builder

    def _score_prompts(self, chunks: list[Chunk], hidden: Tensor) -> None:
        """Note the log-probabilities of the prompt ids that hidden states (N, C) of these chunks predict."""
        wanted: list[tuple[int, CompletionBuilder, int]] = []  # row of hidden, whose, index in the prompt
        first_row = 0
        for chunk in chunks:
            builder, needed_from = self._by_sequence[chunk.sequence], chunk.sequence.needed_from
            if needed_from is not None:
                last = len(builder.request.prompt_ids) - 1
                start, end = max(chunk.start, needed_from), min(chunk.end, last)
                wanted += [(first_row + at - chunk.start, builder, at + 1) for at in range(start, end)]
                if chunk.end >= last:
                    chunk.sequence.needed_from = None  # if pre-empted from now on, the cache may serve
            first_row += chunk.length
        for begin in range(0, len(wanted), SCORED_AT_ONCE):
            rows, builders, indices = zip(*wanted[begin : begin + SCORED_AT_ONCE], strict=True)
            ids = [builder.request.prompt_ids[at] for builder, at in zip(builders, indices, strict=True)]
            num_top = [builder.request.sampling.logprobs or 0 for builder in builders]
            logits = self.backend.model.logits(hidden[list(rows)])
            found = token_logprobs(logits, torch.tensor(ids, device=hidden.device), range(len(rows)), num_top)
            for builder, index, logprob in zip(builders, indices, found, strict=True):
                builder.prompt_logprobs[index] = logprob

    def _sample(self, chunks: list[Chunk], hidden: Tensor) -> list[Sampled]:
        """What comes next where the last known token was computed, from hidden states (N, C) of these chunks."""
        broken = self._broken(chunks, hidden)
        results: list[Sampled] = [(builder, [Choice(None)] * len(builder.seeds)) for builder in broken]
        last_rows: dict[CompletionBuilder, int] = {}
        ends = itertools.accumulate(chunk.length for chunk in chunks)
        for chunk, end in zip(chunks, ends, strict=True):
            builder = self._by_sequence[chunk.sequence]
            if not chunk.samples or builder in broken:
                continue
            if builder.request.only_scores or (self._tool and builder.pending_call() is not None):
                results.append((builder, []))
            else:
                last_rows[builder] = end - 1
        if last_rows:
            logits = self.backend.model.logits(hidden[list(last_rows.values())])
            choices = iter(choose(logits, [builder.row() for builder in last_rows]))
            results += [(builder, [next(choices) for _ in builder.seeds]) for builder in last_rows]
        return results

    def _broken(self, chunks: list[Chunk], hidden: Tensor) -> list[CompletionBuilder]:
        """The completions whose hidden states are not finite: others must not find what they left in the pool."""
        # A single token whose logits choose the next one is found broken then.
        if all(chunk.length == 1 and chunk.samples for chunk in chunks) or hidden.isfinite().all():
            return []
        parts = hidden.split([chunk.length for chunk in chunks])
        broken = [chunk for chunk, part in zip(chunks, parts, strict=True) if not part.isfinite().all()]
        return [self._by_sequence[chunk.sequence] for chunk in broken]

    def _update(self, builder: CompletionBuilder, choices: list[Choice]) -> list[Event]:
        """Go on with what was chosen for each of the completion's seeds: where that differs, it forks."""
        if not choices:
            return self._advance(builder, None)
        handles: dict[Choice, list[int]] = {}
        for handle, choice in zip(builder.seeds, choices, strict=True):
            handles.setdefault(choice, []).append(handle)
        stays, *leave = handles
        forks = [(self._fork(builder, handles[choice]), choice) for choice in leave]
        return [event for one, choice in [(builder, stays), *forks] for event in self._advance(one, choice)]

    def _fork(self, builder: CompletionBuilder, handles: list[int]) -> CompletionBuilder:
        sequence, copies = self._scheduler.fork(builder.sequence)
        self.backend.cache.copy(copies)
        twin = self._by_sequence[sequence] = builder.fork(handles, sequence)
        self._builders.update(dict.fromkeys(handles, twin))
        return twin

    def _advance(self, builder: CompletionBuilder, choice: Choice | None) -> list[Event]:
        """Go on with what was chosen; None where the prompt is scored, or ends in a call without its output."""
        num_known = len(builder.sequence.tokens)
        if choice is None:
            parts = builder.finish_scoring() if builder.request.only_scores else []
        elif choice.id is None:
            parts = builder.fail()
        else:
            parts = builder.push(choice.id, choice.logprob)
        parts += self._run_tool(builder)
        ids = tuple(builder.sequence.tokens[num_known:])
        logprobs = builder.logprobs_of_last(len(ids))
        completion = self._retire(builder) if builder.finish_reason else None
        cached = builder.sequence.num_cached or 0
        return [Event(handle, ids, tuple(parts), completion, logprobs, cached) for handle in builder.seeds]

    def _run_tool(self, builder: CompletionBuilder) -> list[Part]:
        """If a call waits for its output, force that in. Only this request suffers if the tool fails."""
        if self._tool is None or (expression := builder.pending_call()) is None:
            return []
        try:
            output = self._tool(expression)
        except Exception as error:
            return builder.finish("error", f"the tool failed: {error}")
        return builder.push_output(output)

    def _retire(self, builder: CompletionBuilder) -> Completion:
        # What a failed request left in the pool is not to be found again by others.
        self._scheduler.remove(builder.sequence, forget=builder.finish_reason == "error")
        for handle in builder.seeds:
            del self._builders[handle]
        del self._by_sequence[builder.sequence]
        return builder.completion()
