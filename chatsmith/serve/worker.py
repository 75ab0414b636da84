"""The process of one engine: `python -m chatsmith.serve.worker FD`, started by the front with one end of a socket.

It loads a model, then turns: read what the front asks, take a step, tell what came of it. Requests arrive as token
ids and leave as ids and text; HTTP, keys, queues and rendering are the front's business. When the front is gone, or
says so, the process ends; signals of a terminal or a service manager are left to the front.
"""

import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from chatsmith.backends import choose_backend
from chatsmith.bundle import bundle_fingerprint, load_bundle
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Event, RequestError
from chatsmith.runtime.device import detect_runtime, settled
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.serve.protocol import Channel, Closed, Figures, Job, Message, ModelInfo, Output, Setup
from chatsmith.tools.calculator import calculator_tool

CPU_TOKENS_BESIDE_DECODING = 16
"""A CPU is slow at prompts: this many tokens of them take about as long as one token for each of the others (measured
at depth 12, see docs/lab-log.md)."""

BLOCK_SIZE = 16
"""Tokens of a block of the key-value pool."""


def main(descriptor: int) -> int:
    """Serve the front at the other end of the socket until it is done. Returns the exit code."""
    # A service manager sends SIGTERM to every process of a service, but the replies under way are to be finished.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        setup = Setup(**channel.receive(wait=True)[0]["setup"])
        try:
            engine, info = load(setup)
        except UserError as error:
            channel.send({"type": "failed", "message": str(error)})
            return 2
        channel.send({"type": "ready", "info": asdict(info)})
        with settled():
            EngineLoop(channel, engine).run()
    except Closed:
        pass
    return 0


def load(setup: Setup) -> tuple[Engine, ModelInfo]:
    """The engine, and what there is to know about its model. Raises UserError."""
    if setup.threads:
        torch.set_num_threads(setup.threads)
    path = resolve_bundle(Path(setup.path))
    runtime = detect_runtime(_device(setup), setup.dtype)
    bundle = load_bundle(path, device=runtime.device, dtype=runtime.compute_dtype)
    if setup.kv_tokens and setup.kv_tokens < bundle.config.context_length:
        raise UserError(
            f"--kv-tokens {setup.kv_tokens} is too small: one context of this model takes "
            f"{bundle.config.context_length} tokens"
        )
    beside = CPU_TOKENS_BESIDE_DECODING if runtime.device.type == "cpu" else None
    engine = Engine(
        bundle.model,
        bundle.tokenizer,
        backend=choose_backend(bundle.model, quantize=setup.quantize),
        tool=calculator_tool,
        max_running=setup.max_running,
        tokens_per_step=setup.tokens_per_step,
        tokens_beside_decoding=setup.tokens_beside_decoding or beside,
        kv_tokens=setup.kv_tokens,
        block_size=BLOCK_SIZE,
        prefix_caching=setup.prefix_caching,
    )
    return engine, ModelInfo(
        path=str(path),
        context_length=bundle.config.context_length,
        vocab_size=bundle.config.vocab_size,
        num_parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
        generation=bundle.generation,
        fingerprint=bundle_fingerprint(path),
        num_blocks=engine.num_blocks,
        block_size=BLOCK_SIZE,
        max_running=setup.max_running,
        description=f"{runtime.describe()}; {engine.describe()}",
    )


def _device(setup: Setup) -> str:
    """With several GPUs, every replica has its own, in turn."""
    num_gpus = torch.cuda.device_count() if setup.device in ("auto", "cuda") else 0
    return f"cuda:{setup.index % num_gpus}" if num_gpus else setup.device


@dataclass
class _Place:
    """Where the output of a handle belongs."""

    job: int
    index: int
    is_urgent: bool = True
    """Is there something that must not wait: the first token, or the end?"""


SEND_SECONDS = 0.004
"""What steps bring within this time shares a message, but for the first token of a reply and its end, which go at once.
No eye sees the difference (a screen shows a picture every 16 ms), and each message costs engine, front and client some
fifty microseconds each, a sixth of a tiny model's step. Measured on two cores with one client and the kindergarten's
model, side by side: 4.6 % more tokens a second than with a quarter of it. A step that takes longer is sent at once."""

LINGER_SECONDS = 0.002 if (os.cpu_count() or 1) > 1 else 0.0
"""An engine with nothing left to do looks for more for so long before it sleeps. The next question of a client that
has just been answered comes within a millisecond, and finds an engine that is awake, with warm caches: measured with
one client and replies of 64 tokens on the kindergarten's model, 3 % more tokens a second."""


class EngineLoop:
    """Reads commands between steps, and sends what steps brought: at once, or a little later."""

    def __init__(self, channel: Channel, engine: Engine) -> None:
        self._channel = channel
        self._engine = engine
        self._places: dict[int, _Place] = {}

    def run(self) -> None:
        """Until the front says stop. Raises Closed if it is gone."""
        waiting: list[tuple[_Place, Message]] = []
        sent = 0.0
        while True:
            for command in self._commands():
                if command["type"] == "stop":
                    return
                self._obey(command)
            waiting += [self._output(event) for event in self._engine.step()]
            now = time.monotonic()
            if self._engine.is_idle or now - sent >= SEND_SECONDS:
                self._send(waiting)
                waiting, sent = [], now
            elif any(place.is_urgent for place, _ in waiting):
                waiting = self._send_urgent(waiting)

    def _send(self, outputs: list[tuple[_Place, Message]]) -> None:
        for place, _ in outputs:
            place.is_urgent = False
        # Not asdict, which copies deeply: 15 microseconds, at every step.
        figures = vars(self._figures())
        self._channel.send({"type": "step", "outputs": [one for _, one in outputs], "figures": figures})

    def _send_urgent(self, outputs: list[tuple[_Place, Message]]) -> list[tuple[_Place, Message]]:
        """Send what is there of the replies that must not wait. Returns the rest."""
        later = [(place, output) for place, output in outputs if not place.is_urgent]
        self._send([(place, output) for place, output in outputs if place.is_urgent])
        return later

    def _commands(self) -> list[Message]:
        """What the front asks for, at least one thing if there is nothing else to do."""
        if not self._engine.is_idle:
            return self._channel.receive(wait=False)
        until = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < until:
            if commands := self._channel.receive(wait=False):
                return commands
        return self._channel.receive(wait=True)

    def _obey(self, command: Message) -> None:
        if command["type"] == "submit":
            self._submit(command)
        elif command["type"] == "cancel":
            for handle in [handle for handle, place in self._places.items() if place.job == command["job"]]:
                self._engine.cancel(handle)
                del self._places[handle]
        elif command["type"] == "count_cached":
            count = self._engine.num_cached(tuple(command["prompt_ids"]))
            self._channel.send({"type": "cached", "question": command["question"], "count": count})

    def _submit(self, command: Message) -> None:
        handles: list[int] = []
        try:
            for request in Job.from_json(command).requests():
                handles.append(self._engine.submit(request))
        except Exception as error:
            for handle in handles:
                self._engine.cancel(handle)
            self._channel.send({"type": "refused", "job": command["job"], **_reason(error, command)})
            return
        for index, handle in enumerate(handles):
            self._places[handle] = _Place(command["job"], index)

    def _output(self, event: Event) -> tuple[_Place, Message]:
        over = event.completion
        place = self._places[event.handle]
        if over is not None:
            del self._places[event.handle]
            place.is_urgent = True
        output = Output(
            place.job,
            place.index,
            event.ids,
            event.parts,
            event.logprobs,
            event.cached_tokens,
            over.finish_reason if over else None,
            over.error if over else None,
            over.prompt_logprobs if over else None,
        )
        return place, output.to_json()

    def _figures(self) -> Figures:
        return Figures(*self._engine.stats())


def _reason(error: Exception, command: Message) -> Message:
    """Why a job was refused. Whatever goes wrong before it begins is its own affair: the others must go on."""
    if isinstance(error, RequestError):
        return {"message": str(error), "parameter": error.parameter, "code": error.code}
    if command["constraint"] is not None:
        # Found: llguidance 1.9 raises ValueError, not an error of its own, for a schema with a number beyond 64 bits.
        message = f"the form cannot be used: {str(error)[:200]}"
        return {"message": message, "parameter": "constraint", "code": "invalid_value"}
    traceback.print_exception(error)
    return {"message": None, "parameter": None, "code": None}


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
