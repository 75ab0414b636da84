"""What the API server and an engine process say to each other, over one socket.

A message is a msgspec struct in MessagePack, with its length before it (four bytes, big-endian). Every type is checked
as it is read, and nothing that is read is ever run. API server to engine: EngineSettings (first), Submit, Cancel,
CountCached, Stop. Engine to API server: Ready or Failed (first), then one Step for the outputs of one or several steps,
and Refused and Cached as answers.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from chatsmith.engine.request import (
    Constraint,
    EngineStats,
    FinishReason,
    Request,
    SamplingParams,
    TokenLogprob,
)
from chatsmith.text.chat import Part

_LENGTH = struct.Struct(">I")
_READ_SIZE = 1 << 16

Logprobs = tuple[TokenLogprob | None, ...] | None


class EngineSettings(msgspec.Struct, frozen=True, tag=True):
    """What an engine process needs to know to load a model and make an engine of it."""

    path: str
    """A bundle, or a run."""
    index: int = 0
    """Which replica this is: with several GPUs each takes its own."""
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0
    """CPU threads of torch; 0 is its own choice."""
    max_running: int = 0
    """This, and the three numbers below: 0 is the engine's own choice."""
    tokens_per_step: int = 0
    kv_tokens: int = 0
    prefix_caching: bool = True
    quantize: Literal["bf16", "int8", "none"] = "none"
    tokens_beside_decoding: int = 0
    exact: bool = False
    """Refuse a machine on which a reply depends, in its last bits, on what runs beside it."""
    adapters: dict[str, str] = {}
    """Folders of adapters by name: of the adapter itself, of a bundle that it stands beside, or of a run."""


class Job(msgspec.Struct, frozen=True):
    """One prompt, and how many replies to it."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = msgspec.field(default_factory=SamplingParams)
    n: int = 1
    score_from: int | None = None
    constraint: Constraint | None = None
    adapter: str = ""

    def requests(self) -> list[Request]:
        """For the engine. Raises RequestError."""
        one = Request(self.prompt_ids, self.sampling, self.score_from, self.constraint, self.adapter)
        return one.replicas(self.n)

    def num_logprobs(self, context: int) -> int:
        """The most log-probabilities that can be reported, alternatives included."""
        if self.sampling.logprobs is None:
            return 0
        room = max(0, context - len(self.prompt_ids))
        reply = room if self.sampling.max_tokens is None else min(room, self.sampling.max_tokens)
        scored = 0 if self.score_from is None else len(self.prompt_ids) - self.score_from
        return self.n * (reply + scored) * (self.sampling.logprobs + 1)


class Submit(msgspec.Struct, tag=True):
    """Begin a job. Its number is the API server's."""

    number: int
    job: Job


class Cancel(msgspec.Struct, tag=True):
    """Give up what is left of a job."""

    number: int


class CountCached(msgspec.Struct, tag=True):
    """How many ids of a prompt does the prefix cache hold now?"""

    number: int
    prompt_ids: tuple[int, ...]
    adapter: str = ""


class Stop(msgspec.Struct, tag=True):
    """End the process."""


class ModelInfo(msgspec.Struct, frozen=True):
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


class Ready(msgspec.Struct, tag=True):
    """The model is loaded."""

    info: ModelInfo


class Failed(msgspec.Struct, tag=True):
    """The model cannot be loaded."""

    message: str


class Output(msgspec.Struct, array_like=True, omit_defaults=True):
    """New tokens of one reply."""

    job: int
    index: int
    """Which of the job's replies; in the API server, which of the request's choices."""
    ids: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None
    """None while the reply goes on."""
    error: str | None = None
    logprobs: Logprobs = None
    prompt_logprobs: Logprobs = None


class Step(msgspec.Struct, tag=True):
    """What steps of the engine produced."""

    outputs: list[Output]
    stats: EngineStats


class Refused(msgspec.Struct, tag=True):
    """A job cannot be done. Without a parameter and a code it is the server's fault."""

    number: int
    message: str = ""
    parameter: str | None = None
    code: str | None = None


class Cached(msgspec.Struct, tag=True):
    """The answer to CountCached."""

    number: int
    count: int


Command = EngineSettings | Submit | Cancel | CountCached | Stop
Report = Ready | Failed | Step | Refused | Cached

_encoder = msgspec.msgpack.Encoder()
_commands = msgspec.msgpack.Decoder(Command)
_reports = msgspec.msgpack.Decoder(Report)


class Closed(Exception):
    """The other side is gone."""


def encode(message: Command | Report) -> bytes:
    """A message as it goes over the socket."""
    content = _encoder.encode(message)
    return _LENGTH.pack(len(content)) + content


async def read_report(reader: asyncio.StreamReader) -> Report:
    """The API server's end: the engine's next message. Raises Closed."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return _reports.decode(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError) as error:
        raise Closed from error


class Channel:
    """The engine's end: blocking, for one thread."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._buffer = bytearray()

    def send(self, report: Report) -> None:
        """Raises Closed."""
        try:
            self._connection.sendall(encode(report))
        except OSError as error:
            raise Closed from error

    def receive(self, *, wait: bool) -> list[Command]:
        """What has arrived; with `wait`, at least one message. Raises Closed."""
        commands = list(self._whole_messages()) if self._buffer else []
        while True:
            try:
                flags = 0 if wait and not commands else socket.MSG_DONTWAIT
                data = self._connection.recv(_READ_SIZE, flags)
            except BlockingIOError:
                return commands
            except OSError as error:
                raise Closed from error
            if not data:
                raise Closed
            self._buffer += data
            commands += self._whole_messages()

    def _whole_messages(self) -> Iterator[Command]:
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            content = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield _commands.decode(content)
