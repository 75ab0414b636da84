"""The served models: their engines, who may come in, and the replies under way.

`ServedModel.generate` is the way of every request: limits, admission, an engine, outputs as they come, and in the end,
for whatever reason, everything that the request held is given back.
"""

import asyncio
import copy
import json
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from pydantic import ValidationError

from chatsmith.runtime.errors import UserError
from chatsmith.serve.admission import Admission, Limits, Ticket
from chatsmith.serve.auth import Keys
from chatsmith.serve.engine_client import EngineClient, Events
from chatsmith.serve.errors import ApiError, invalid, known
from chatsmith.serve.ipc import EngineSettings, Job, ModelInfo, Output
from chatsmith.serve.log import RequestRecord
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.protocol import Defaults
from chatsmith.serve.runs import Runs
from chatsmith.text.tokenizer import Tokenizer

QUEUE_SHARE = 4
"""Prompt tokens that may wait by default, as a multiple of what the key-value pool holds."""

KEEP_ALIVE_SECONDS = 10.0
"""A stream that has said nothing for this long says that it is there, at the latest after as long again: proxies close
what is silent for a minute."""

MAX_LOGPROBS = 2**20
"""Of one request, alternatives included: about 100 bytes each in the answer, and several times that in memory."""

NOT_FINITE = "not finite"
"""What the engine says of logits that are no numbers, which is no fault of a grammar."""

TOOLS = ("calculator",)
"""Tools that the server runs itself when the model calls them."""


@dataclass(frozen=True)
class LoadedModel:
    """What is known of a model once it is loaded."""

    info: ModelInfo
    tokenizer: Tokenizer
    defaults: Defaults


class Passages(Protocol):
    """What finds passages of documents that go with a question (`adapt.search.PassageIndex`)."""

    def put_before(self, question: str, fits: Callable[[str], bool]) -> tuple[str, list[Any]]:
        """The question after passages that go with it, of which as many as fit; and these, each with name and text."""
        ...


@dataclass
class _Reply:
    """One reply of a request, as far as it is known."""

    prompt_tokens: int
    is_constrained: bool
    num_tokens: int = 0
    last_token_at: float | None = None
    is_over: bool = False


@dataclass(eq=False)
class ServedModel:
    """A model and the engines that run it, one for each of `settings`."""

    name: str
    settings: InitVar[Sequence[EngineSettings]]
    limits: InitVar[Limits]
    metrics: Metrics
    queue_seconds: float
    request_seconds: float
    passages: Passages | None = None
    """Documents to answer chats from."""
    adapter: str = ""
    """What the engines add to the model for requests to this name."""
    open: set[Events] = field(default_factory=set)
    """The queues of requests under way; an ApiError put into one ends its request."""
    _loaded: LoadedModel | None = None
    _adapted: list["ServedModel"] = field(default_factory=list)

    def __post_init__(self, settings: Sequence[EngineSettings], limits: Limits) -> None:
        self.created = int(time.time())
        self.admission = Admission(limits, time.monotonic)
        self.engines = [EngineClient(self.name, one, self.metrics) for one in settings]

    def with_adapter(self, name: str) -> "ServedModel":
        """The same model and engines under another name, with the adapter of that name."""
        twin = copy.copy(self)
        twin.name = twin.adapter = name
        twin.open = set()
        self._adapted.append(twin)
        return twin

    @property
    def loaded(self) -> LoadedModel:
        """What is known once it was loaded. Raises ApiError (503) before."""
        if self._loaded is None:
            raise known("loading", retry_after=self.retry_after)
        return self._loaded

    @property
    def is_loaded(self) -> bool:
        """Was it loaded once, so that everything about it is known?"""
        return self._loaded is not None

    @property
    def is_healthy(self) -> bool:
        """Is no engine dead?"""
        return all(engine.is_healthy for engine in self.engines)

    @property
    def ready_engines(self) -> list[EngineClient]:
        """The engines that take jobs."""
        return [engine for engine in self.engines if engine.is_ready]

    @property
    def retry_after(self) -> int:
        """Seconds until an engine may be ready again."""
        return min(engine.retry_after for engine in self.engines)

    def check_ready(self) -> None:
        """Raise ApiError (503) unless an engine takes jobs."""
        if self.loaded and not self.ready_engines:
            raise known("engine_restarting", retry_after=self.retry_after)

    async def run(self, on_loaded: Callable[["ServedModel"], None]) -> None:
        """Load, then keep the engines running. Raises UserError if the model cannot be loaded."""
        running = [asyncio.create_task(engine.run()) for engine in self.engines]
        try:
            info = (await asyncio.gather(*(engine.loaded for engine in self.engines)))[0]
            tokenizer = await asyncio.to_thread(Tokenizer.load, Path(info.path))
            loaded = LoadedModel(info, tokenizer, choose_defaults(info.generation))
            for model in (self, *self._adapted):
                model._loaded = loaded
                self.metrics.model_ready(model.name, info)
            if not self.admission.limits.queue_tokens:
                queue_tokens = QUEUE_SHARE * info.kv_tokens * len(self.engines)
                self.admission.limits = replace(self.admission.limits, queue_tokens=queue_tokens)
            on_loaded(self)
            await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()

    async def stop(self) -> None:
        """End the engines."""
        await asyncio.gather(*(engine.stop() for engine in self.engines))

    async def count_cached(self, prompt_ids: Sequence[int]) -> int:
        """How many ids of a prompt the prefix cache of some engine holds now."""
        prompt_ids = prompt_ids[: self.loaded.info.context_length]
        counts = await asyncio.gather(
            *(engine.count_cached(prompt_ids, self.adapter) for engine in self.ready_engines)
        )
        return max(counts, default=0)

    async def generate(
        self,
        jobs: Sequence[Job],
        record: RequestRecord,
        names: Mapping[str, str],
        affinity: str | None = None,
    ) -> AsyncGenerator[list[Output], None]:
        """The outputs of a request's jobs, in batches as they come; `index` numbers the replies over all jobs. Every
        KEEP_ALIVE_SECONDS a batch comes even if it is empty.

        Requests with the same `affinity` go to the same engine when load allows. Raises ApiError: 503 if no engine is
        ready or none begins in time, 504 if the replies take too long, 429 if there is no room, and whatever ends a
        reply other than as it should. `names` says what the engine's parameters are called in the request.
        """
        self.check_ready()
        self._check_limits(jobs)
        replies = [
            _Reply(len(job.prompt_ids), job.constraint is not None) for job in jobs for _ in range(job.n)
        ]
        record.prompt_tokens = sum(len(job.prompt_ids) for job in jobs)
        ticket = self._admit(record, len(replies), record.prompt_tokens)
        events: Events = asyncio.Queue()
        self.open.add(events)
        watching = asyncio.create_task(self._watch(events, record))
        submitted: list[tuple[EngineClient, int]] = []
        reason = "abort"  # what is not over in the end; whoever reads on no more has left
        try:
            first_choice = 0
            for job in jobs:
                engine = self._pick(affinity)
                own = msgspec.structs.replace(job, adapter=self.adapter)
                submitted.append((engine, engine.submit(own, events, first_choice)))
                first_choice += job.n
            while not all(reply.is_over for reply in replies):
                batch: list[Output] = []
                event = await events.get()
                while True:
                    if isinstance(event, ApiError):
                        raise event.rename(names)
                    if event is not None:
                        self._count(replies[event.index], event, ticket, record)
                        if event.finish_reason == "error":
                            raise _failure(event, replies[event.index], names)
                        batch.append(event)
                    if events.empty():
                        break
                    event = events.get_nowait()
                yield batch
        except ApiError:
            reason = "error"
            raise
        finally:
            watching.cancel()
            for engine, number in submitted:
                engine.cancel(number)
            for reply in replies:
                if not reply.is_over:
                    self._end(reply, reason, record)
            ticket.close()
            self.open.discard(events)

    def _check_limits(self, jobs: Sequence[Job]) -> None:
        info = self.loaded.info
        for job in jobs:
            blocks = -(-(len(job.prompt_ids) + 1) // info.block_size)
            if job.n > 1 and job.n * blocks > info.num_blocks:
                room = info.num_blocks // blocks
                raise invalid(
                    f"n is {job.n}, but there is room for {room} replies to a prompt this long", "n"
                )
        # An answer is held in memory until it is whole, and for a client that reads slowly, so is a stream.
        count = sum(job.num_logprobs(info.context_length) for job in jobs)
        if count > MAX_LOGPROBS:
            raise invalid(
                f"this could take {count} log-probabilities, and {MAX_LOGPROBS} may be asked for at once; ask for "
                "fewer alternatives, tokens, replies or prompts",
                "logprobs",
            )

    def _admit(self, record: RequestRecord, num_replies: int, num_tokens: int) -> Ticket:
        self.admission.capacity = max(1, len(self.ready_engines)) * self.loaded.info.max_running
        try:
            return self.admission.admit(record.key or "", num_replies, num_tokens)
        except ApiError as error:
            if error.status == 429:
                self.metrics.at("requests_refused", self.name, error.code or "").inc()
            raise

    def _pick(self, affinity: str | None) -> EngineClient:
        """The ready engine with the fewest open replies. Raises ApiError (503).

        Among equals, the same `affinity` gives the same engine, whose prefix cache may hold the prompt.
        """
        self.check_ready()
        ready = self.ready_engines
        fewest = min(engine.num_open for engine in ready)
        equals = [engine for engine in ready if engine.num_open == fewest]
        return equals[hash(affinity) % len(equals) if affinity else 0]

    async def _watch(self, events: Events, record: RequestRecord) -> None:
        """Put None into the queue every KEEP_ALIVE_SECONDS, and an ApiError when the first token, or after that the
        end, does not come in time."""
        while True:
            has_to_begin = record.ttft is None and self.queue_seconds < self.request_seconds
            seconds = self.queue_seconds if has_to_begin else self.request_seconds
            left = record.arrived + seconds - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(left, KEEP_ALIVE_SECONDS))
            events.put_nowait(None)
        if has_to_begin:
            later = max(1, min(60, round(seconds)))
            events.put_nowait(known("queue_timeout", retry_after=later, seconds=seconds))
        else:
            events.put_nowait(known("deadline_exceeded", seconds=seconds))

    def _count(self, reply: _Reply, output: Output, ticket: Ticket, record: RequestRecord) -> None:
        """Note a reply's new tokens in metrics, log and admission."""
        now = time.monotonic()
        if record.ttft is None:
            record.ttft = now - record.arrived
        if reply.last_token_at is None:
            ticket.begin()
            self.metrics.at("prompt_tokens", self.name).inc(reply.prompt_tokens)
            self.metrics.at("request_prompt_tokens", self.name).observe(reply.prompt_tokens)
            self.metrics.at("time_to_first_token_seconds", self.name).observe(now - record.arrived)
        else:
            self.metrics.at("inter_token_latency_seconds", self.name).observe(now - reply.last_token_at)
        self.metrics.at("generation_tokens", self.name).inc(len(output.ids))
        reply.last_token_at = now
        reply.num_tokens += len(output.ids)
        if output.finish_reason is not None:
            self._end(reply, output.finish_reason, record)
            ticket.end()

    def _end(self, reply: _Reply, reason: str, record: RequestRecord) -> None:
        reply.is_over = True
        self.metrics.at("request_success", self.name, reason).inc()
        self.metrics.at("request_generation_tokens", self.name).observe(reply.num_tokens)
        self.metrics.at("e2e_request_latency_seconds", self.name).observe(time.monotonic() - record.arrived)
        record.finish.append(reason)
        record.completion_tokens = (record.completion_tokens or 0) + reply.num_tokens


def _failure(output: Output, reply: _Reply, names: Mapping[str, str]) -> ApiError:
    reason = output.error or "The model failed."
    # A grammar may prove too complex on the way, which is the client's affair: a 500 would be tried again. The words of
    # the library for it ("NoExtensionBias") say nothing to the client.
    if reply.is_constrained and NOT_FINITE not in reason:
        param = names.get("constraint", "constraint")
        why = "it contradicts itself, or is too large"
        return invalid(f"{param} asks for a form that cannot be followed further: {why}", param)
    return known("generation_failed", reason=reason)


def choose_defaults(generation: Mapping[str, Any]) -> Defaults:
    """How to sample where a request does not say: as generation_config.json does. Raises UserError."""
    try:
        return Defaults(**{name: value for name, value in generation.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"generation_config.json says {first['loc'][0]} = {first['input']!r}: {first['msg']}"
        ) from error


@dataclass
class Service:
    """What all requests share: the models, the keys, the metrics, and whether the server still takes work."""

    models: Mapping[str, ServedModel]
    """By name."""
    keys: Keys
    metrics: Metrics
    max_body_bytes: int
    read_seconds: float
    """A request must have arrived whole within this time."""
    logs_prompts: bool = False
    runs: Runs | None = None
    """What the training page shows, if it is served."""
    drained_by: float | None = None
    """Set once the server shuts down: no new work is taken, and what is open must end by then."""

    @property
    def status(self) -> Literal["ok", "loading", "degraded", "draining"]:
        """Whether new work is taken; `degraded` if some engine that did take it does not now."""
        if self.drained_by is not None:
            return "draining"
        if not all(model.is_loaded for model in self.models.values()):
            return "loading"
        return "ok" if all(model.is_healthy for model in self.models.values()) else "degraded"

    @property
    def num_open(self) -> int:
        """Generating requests under way."""
        return sum(len(model.open) for model in self.models.values())

    def model(self, name: str | None) -> ServedModel:
        """The model of this name; without one, the first. Raises ApiError: 404, and 503 while draining."""
        self.check_open()
        if name is None and self.models:
            return next(iter(self.models.values()))
        wanted = name or ""  # Ollama's clients add what it calls the newest
        found = self.models.get(wanted) or self.models.get(wanted.removesuffix(":latest"))
        if found is None:
            there = ", ".join(self.models) or "none"
            raise known("model_not_found", param="model", name=wanted[:100], known=there)
        return found

    def check_open(self) -> None:
        """Raise ApiError (503) while draining."""
        if self.drained_by is not None:
            left = max(1, min(60, round(self.drained_by - time.monotonic())))
            raise known("draining", retry_after=left)

    def check_health(self) -> None:
        """Raise ApiError (503) if every engine is dead."""
        engines = [engine for model in self.models.values() for engine in model.engines]
        if engines and not any(engine.is_healthy for engine in engines):
            model = next(iter(self.models.values()))
            raise known("engine_dead", retry_after=model.retry_after, name=model.name)

    def check_ready(self) -> None:
        """Raise ApiError (503) until every model is loaded, and then unless some model takes work."""
        self.check_open()
        refusals: list[ApiError] = []
        for model in self.models.values():
            try:
                model.check_ready()
            except ApiError as error:
                refusals.append(error)
        if refusals and (self.status == "loading" or len(refusals) == len(self.models)):
            raise refusals[0]

    def abort(self) -> None:
        """End all requests under way with an error, because the server stops."""
        for model in self.models.values():
            for events in model.open:
                events.put_nowait(known("shutdown", retry_after=1))

    def metrics_text(self) -> bytes:
        """What Prometheus reads."""
        for model in self.models.values():
            if model.is_loaded and not model.adapter:  # whose engines are its model's
                stats = [engine.stats for engine in model.ready_engines]
                self.metrics.set_engines(model.name, stats, model.loaded.info.num_blocks)
        return self.metrics.render()


def bundle_card(model: ServedModel) -> dict[str, Any]:
    """The model card of a bundle, and the suggestions in its front matter. Raises ApiError (503)."""
    readme = Path(model.loaded.info.path) / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    front, card = text.split("\n---\n", 1) if text.startswith("---\n") and "\n---\n" in text else ("", text)
    # Written by `report.model_card`, as the model cards of Hugging Face have it: a JSON text is one of YAML, too.
    suggestions: list[str] = []
    for found in re.findall(r'^ *- text: ("(?:[^"\\]|\\.)*") *$', front, re.MULTILINE):
        with suppress(ValueError):  # people write YAML that is no JSON
            suggestions.append(json.loads(found))
    return {"card": card.strip(), "suggestions": suggestions}


def card(model: ServedModel) -> dict[str, Any]:
    """One model as /v1/models shows it. Raises ApiError (503) while it is being loaded."""
    info = model.loaded.info
    extension = {name: getattr(info, name) for name in ("context_length", "vocab_size", "num_parameters")}
    extension |= {"defaults": model.loaded.defaults.model_dump(), "tools": TOOLS}
    known = {"id": model.name, "object": "model", "created": model.created, "owned_by": "chatsmith"}
    return {**known, "chatsmith": extension}
