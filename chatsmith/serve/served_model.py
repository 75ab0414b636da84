"""One model behind the API: its engines, its tokenizer, who may come in, and the replies under way.

A request's jobs go to the engines with the fewest open replies, as its `Generation`; leaving the generation, for
whatever reason, cancels what is not finished, and the engine frees its blocks within a step.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatsmith.engine.request import Sampling
from chatsmith.runtime.errors import UserError
from chatsmith.serve.admission import Admission, Limits, Ticket
from chatsmith.serve.errors import ApiError, invalid, unavailable
from chatsmith.serve.generation import Generation, Watch
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.protocol import Figures, Job, ModelInfo, Setup
from chatsmith.serve.replica import Replica
from chatsmith.serve.request_log import RequestRecord
from chatsmith.serve.requests import Defaults
from chatsmith.serve.token_texts import TokenTexts
from chatsmith.text.tokenizer import Tokenizer

QUEUE_SHARE = 4
"""Prompt tokens that may wait unless told otherwise: so many times what the key-value pool holds."""

MAX_LOGPROBS = 2**20
"""Of one request, alternatives included: about 100 bytes each in the answer, and several times that in memory."""


@dataclass(frozen=True)
class LoadedModel:
    """What is known of a model once it is loaded."""

    info: ModelInfo
    tokenizer: Tokenizer
    defaults: Defaults
    texts: TokenTexts

    @staticmethod
    def of(info: ModelInfo) -> "LoadedModel":
        """All of it, from what an engine says of itself. Raises UserError."""
        tokenizer = Tokenizer.load(info.path)
        return LoadedModel(info, tokenizer, choose_defaults(info.generation), TokenTexts(tokenizer))


class ServedModel:
    """A model and the engines that run it."""

    def __init__(
        self,
        name: str,
        setups: Sequence[Setup],
        limits: Limits,
        metrics: Metrics,
        *,
        queue_seconds: float,
        request_seconds: float,
    ) -> None:
        self.name = name
        self.created = int(time.time())
        self.queue_seconds = queue_seconds
        self.request_seconds = request_seconds
        self.admission = Admission(limits, time.monotonic)
        self.metrics = metrics
        self.replicas = [Replica(name, setup, self._on_change) for setup in setups]
        self.open: set[Generation] = set()
        self._loaded: LoadedModel | None = None

    @property
    def loaded(self) -> "LoadedModel":
        """What is known once it was loaded. Raises ApiError (503) before."""
        if self._loaded is None:
            raise unavailable(
                "The model is being loaded. Try again in a moment.", "loading", self.retry_after
            )
        return self._loaded

    @property
    def is_loaded(self) -> bool:
        """Was it loaded once, so that everything about it is known?"""
        return self._loaded is not None

    @property
    def is_ready(self) -> bool:
        """Does an engine take jobs?"""
        return self.is_loaded and any(replica.is_ready for replica in self.replicas)

    @property
    def is_healthy(self) -> bool:
        """Is no engine dead?"""
        return all(replica.is_healthy for replica in self.replicas)

    async def run(self, on_loaded: Callable[["ServedModel"], None]) -> None:
        """Load, then keep the engines running. Raises UserError if the model cannot be loaded."""
        running = [asyncio.create_task(replica.run()) for replica in self.replicas]
        try:
            info = (await asyncio.gather(*(replica.loaded for replica in self.replicas)))[0]
            self._loaded = await asyncio.to_thread(LoadedModel.of, info)
            self.metrics.model_ready(self.name, info)
            limits = self.admission.limits
            if not limits.queue_tokens:
                queue_tokens = QUEUE_SHARE * info.kv_tokens * len(self.replicas)
                self.admission.limits = Limits(limits.queue_requests, queue_tokens, limits.per_key)
            self._count_ready()
            on_loaded(self)
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()

    async def stop(self) -> None:
        """End the engines."""
        await asyncio.gather(*(replica.stop() for replica in self.replicas))

    def generate(
        self,
        jobs: Sequence[Job],
        record: RequestRecord,
        parameters: Mapping[str, str],
        affinity: str | None = None,
    ) -> "Generation":
        """The replies to a request. Raises ApiError: 503 if no engine is ready, 429 when entered and there is no room.

        `parameters` says what the engine's names for parameters are called in the request.
        """
        self.check_ready()
        self._check_pool(jobs)
        self._check_logprobs(jobs)
        watch = Watch(self.name, self.metrics, record, self.queue_seconds, self.request_seconds)
        return Generation(
            jobs, lambda: self.pick(affinity), lambda: self._admit(jobs, record), watch, parameters, self.open
        )

    def pick(self, affinity: str | None = None) -> Replica:
        """The ready engine with the fewest open replies. Raises ApiError (503).

        Among equals, the same `affinity` gives the same engine, whose prefix cache may hold the prompt.
        """
        self.check_ready()
        ready = [replica for replica in self.replicas if replica.is_ready]
        fewest = min(replica.num_open for replica in ready)
        equals = [replica for replica in ready if replica.num_open == fewest]
        return equals[hash(affinity) % len(equals) if affinity else 0]

    async def count_cached(self, prompt_ids: Sequence[int]) -> int:
        """How many ids of a prompt the prefix cache of some engine holds now."""
        ready = [replica for replica in self.replicas if replica.is_ready]
        prompt_ids = prompt_ids[: self.loaded.info.context_length]
        return max(await asyncio.gather(*(replica.count_cached(prompt_ids) for replica in ready)), default=0)

    def _admit(self, jobs: Sequence[Job], record: RequestRecord) -> Ticket:
        num_replies = sum(job.n for job in jobs)
        num_tokens = sum(len(job.prompt_ids) for job in jobs)
        try:
            return self.admission.admit(record.key or "", num_replies, num_tokens)
        except ApiError as error:
            if error.status == 429:
                self.metrics.request_refused(self.name, error.code or "")
            raise

    def check_ready(self) -> None:
        """Raise ApiError (503) unless an engine takes jobs."""
        if self.loaded and not self.is_ready:
            raise unavailable(
                "The engine is being restarted. Try again in a moment.", "engine_restarting", self.retry_after
            )

    def _check_pool(self, jobs: Sequence[Job]) -> None:
        info = self.loaded.info
        for job in jobs:
            blocks = -(-(len(job.prompt_ids) + 1) // info.block_size)
            if job.n > 1 and job.n * blocks > info.num_blocks:
                room = info.num_blocks // blocks
                raise invalid(
                    f"n is {job.n}, but there is room for {room} replies to a prompt this long", "n"
                )

    def _check_logprobs(self, jobs: Sequence[Job]) -> None:
        """An answer is held in memory until it is whole, and for a client that reads slowly, so is a stream."""
        count = sum(job.num_logprobs(self.loaded.info.context_length) for job in jobs)
        if count > MAX_LOGPROBS:
            raise invalid(
                f"this could take {count} log-probabilities, and {MAX_LOGPROBS} may be asked for at once; ask for "
                "fewer alternatives, tokens, replies or prompts",
                "logprobs",
            )

    @property
    def retry_after(self) -> int:
        """Seconds until an engine may be ready again."""
        return min(replica.retry_after for replica in self.replicas)

    def _on_change(self, replica: Replica, before: Figures) -> None:
        self._count_ready()
        if replica.info is None:
            return
        if replica.state == "down":
            self.metrics.engine_crashed(self.name)
        else:
            figures = [one.figures for one in self.replicas if one.is_ready]
            self.metrics.engine_stepped(self.name, figures, replica.info.num_blocks, before, replica.figures)

    def _count_ready(self) -> None:
        ready = sum(replica.is_ready for replica in self.replicas)
        self.metrics.replicas_ready(self.name, ready)
        if self._loaded is not None:
            self.admission.capacity = max(1, ready) * self._loaded.info.max_running


def choose_defaults(generation: Mapping[str, Any]) -> Defaults:
    """How to sample where a request does not say: as generation_config.json does. Raises UserError."""
    numbers = (int, float)
    known = {
        "temperature": numbers,
        "top_p": numbers,
        "min_p": numbers,
        "top_k": (int,),
        "max_tokens": (int,),
    }
    given = {name: generation[name] for name in known if generation.get(name) is not None}
    for name, value in given.items():
        if type(value) not in known[name]:
            raise UserError(f"generation_config.json says {name} = {value!r}; it must be a number")
    defaults = Defaults(**given)
    try:
        Sampling(defaults.temperature, max(defaults.top_k, 0), defaults.top_p, defaults.min_p)
        if defaults.max_tokens is not None and defaults.max_tokens < 1:
            raise UserError("max_tokens must be at least 1")
    except UserError as error:
        raise UserError(f"generation_config.json cannot be used: {error}") from error
    return defaults
