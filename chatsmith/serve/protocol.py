"""What the front process and an engine's process say to each other, over one socket.

A message is a JSON object with its length before it, four bytes, big end first: nothing that is read is ever run.
Front to worker: setup (first), submit, cancel, count_cached, stop. Worker to front: ready or failed (first), then one
`step` a step of the engine, with every output of it and the engine's figures, and refused, cached as answers.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from chatsmith.engine.request import Constraint, FinishReason, Request, Sampling, TokenLogprob
from chatsmith.text.chat import Part

Message = dict[str, Any]

_LENGTH = struct.Struct(">I")
_READ_SIZE = 1 << 16
_encoder = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know to load a model and make an engine of it."""

    path: str
    """A bundle, or a run."""
    index: int = 0
    """Which replica this is: with several GPUs each takes its own."""
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    """CPU threads of torch; 0 is its own choice."""
    max_running: int = 16
    tokens_per_step: int = 256
    kv_tokens: int | None = None
    prefix_caching: bool = True
    quantize: Literal["bf16", "int8"] | None = None
    tokens_beside_decoding: int = 0
    """0 is CPU_TOKENS_BESIDE_DECODING on a CPU, and no limit elsewhere."""


@dataclass(frozen=True)
class ModelInfo:
    """What a loaded model turned out to be."""

    path: str
    """Of the bundle."""
    context_length: int
    vocab_size: int
    num_parameters: int
    generation: dict[str, Any]
    """The bundle's generation_config.json."""
    fingerprint: str
    num_blocks: int
    block_size: int
    max_running: int
    description: str
    """One line about device and memory."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that the key-value pool holds."""
        return self.num_blocks * self.block_size


@dataclass(frozen=True)
class Job:
    """One prompt, and how many replies to it."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling = field(default_factory=Sampling)
    n: int = 1
    score_from: int | None = None
    constraint: Constraint | None = None

    def requests(self) -> list[Request]:
        """For the engine. Raises RequestError."""
        one = Request(self.prompt_ids, self.sampling, self.score_from, self.constraint)
        return one.replicas(self.n)

    def num_logprobs(self, context: int) -> int:
        """How many log-probabilities will be told at most, alternatives included."""
        if self.sampling.logprobs is None:
            return 0
        room = max(0, context - len(self.prompt_ids))
        reply = room if self.sampling.max_tokens is None else min(room, self.sampling.max_tokens)
        scored = 0 if self.score_from is None else len(self.prompt_ids) - self.score_from
        return self.n * (reply + scored) * (self.sampling.logprobs + 1)

    def to_json(self) -> Message:
        """The fields of a submit message."""
        wanted = {name: value for name, value in vars(self.sampling).items() if value != _USUAL[name]}
        # A list of pairs keeps the ids of a bias whole numbers, which the keys of a JSON object cannot be.
        if "logit_bias" in wanted:
            wanted["logit_bias"] = list(self.sampling.logit_bias.items())
        return {
            "prompt_ids": self.prompt_ids,
            "sampling": wanted,
            "n": self.n,
            "score_from": self.score_from,
            "constraint": asdict(self.constraint) if self.constraint else None,
        }

    @staticmethod
    def from_json(content: Message) -> "Job":
        """The opposite. Raises RequestError."""
        sampling = dict(content["sampling"])
        if "logit_bias" in sampling:
            sampling["logit_bias"] = dict(sampling["logit_bias"])
        for name in ("stop", "stop_ids"):
            if name in sampling:
                sampling[name] = tuple(sampling[name])
        constraint = content["constraint"]
        return Job(
            tuple(content["prompt_ids"]),
            Sampling(**sampling),
            content["n"],
            content["score_from"],
            Constraint(**constraint) if constraint else None,
        )


@dataclass(slots=True)
class Output:
    """What one step brought one reply. Not frozen: one is made twice for every token, and that takes a third so."""

    job: int
    index: int
    """Which of the job's replies."""
    ids: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    logprobs: tuple[TokenLogprob | None, ...] | None = None
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    """None while the reply goes on."""
    error: str | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None

    def to_json(self) -> Message:
        """Its entry in a step message."""
        content: Message = {"job": self.job, "index": self.index, "ids": self.ids}
        if self.parts:
            content["parts"] = [(part.kind, part.text) for part in self.parts]
        if self.logprobs is not None:
            content["logprobs"] = _pairs(self.logprobs)
        if self.cached_tokens:
            content["cached_tokens"] = self.cached_tokens
        if self.finish_reason is not None:
            content |= {"finish_reason": self.finish_reason, "error": self.error}
        if self.prompt_logprobs is not None:
            content["prompt_logprobs"] = _pairs(self.prompt_logprobs)
        return content

    @staticmethod
    def from_json(content: Message) -> "Output":
        """The opposite."""
        return Output(
            content["job"],
            content["index"],
            tuple(content["ids"]),
            tuple(Part(kind, text) for kind, text in content.get("parts", ())),
            _logprobs(content.get("logprobs")),
            content.get("cached_tokens", 0),
            content.get("finish_reason"),
            content.get("error"),
            _logprobs(content.get("prompt_logprobs")),
        )


@dataclass(frozen=True)
class Figures:
    """The engine's own, after a step."""

    num_running: int = 0
    num_waiting: int = 0
    num_free_blocks: int = 0
    num_preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0


class Closed(Exception):
    """The other side is gone."""


class Channel:
    """The worker's end: blocking, for one thread."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._buffer = bytearray()

    def send(self, message: Message) -> None:
        """Raises Closed."""
        try:
            self._connection.sendall(encode(message))
        except OSError as error:
            raise Closed from error

    def receive(self, *, wait: bool) -> list[Message]:
        """What has arrived; with `wait`, at least one message. Raises Closed."""
        messages = list(self._whole_messages()) if self._buffer else []
        while True:
            try:
                flags = 0 if wait and not messages else socket.MSG_DONTWAIT
                data = self._connection.recv(_READ_SIZE, flags)
            except BlockingIOError:
                return messages
            except OSError as error:
                raise Closed from error
            if not data:
                raise Closed
            self._buffer += data
            messages += self._whole_messages()

    def _whole_messages(self) -> Iterator[Message]:
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            content = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield json.loads(content)


def encode(message: Message) -> bytes:
    """A message as it goes over the socket."""
    content = _encoder.encode(message).encode()
    return _LENGTH.pack(len(content)) + content


async def read_message(reader: asyncio.StreamReader) -> Message:
    """The front's end: the next message. Raises Closed."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return json.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError) as error:
        raise Closed from error


_USUAL = vars(Sampling())


def _pairs(logprobs: tuple[TokenLogprob | None, ...]) -> list[Any]:
    return [None if one is None else (one.logprob, one.top) for one in logprobs]


def _logprobs(pairs: list[Any] | None) -> tuple[TokenLogprob | None, ...] | None:
    if pairs is None:
        return None
    return tuple(
        None if pair is None else TokenLogprob(pair[0], tuple((id, value) for id, value in pair[1]))
        for pair in pairs
    )
