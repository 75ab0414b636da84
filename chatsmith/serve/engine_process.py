"""The process of one engine: `python -m chatsmith.serve.engine_process FD`, started by the API server with one end of
a socket.

It loads a model, then loops: read commands, take a step, send what came of it. Requests arrive as token ids and leave
as ids and text; HTTP, keys, queues and rendering are the API server's business. When the API server is gone, or says
so, the process ends; signals of a terminal or a service manager are left to the API server.
"""

import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch

from chatsmith.backends import choose_backend
from chatsmith.backends.lora import load_adapter
from chatsmith.bundle import bundle_fingerprint, load_bundle
from chatsmith.engine.engine import Engine
from chatsmith.engine.request import Event, RequestError
from chatsmith.runtime.device import detect_runtime, settled
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.serve import ipc
from chatsmith.tools.calculator import calculator_tool

CPU_TOKENS_BESIDE_DECODING = 16
"""A CPU is slow at prompts: this many tokens of them take about as long as one token for each of the others (measured
at depth 12, see docs/lab-log.md)."""

BLOCK_SIZE = 16
"""Tokens of a block of the key-value pool."""

SEND_SECONDS = 0.004
"""Outputs of steps within this time share a message, except for a reply's first token and its end, which go at once.
No eye sees the difference (a screen shows a picture every 16 ms), and each message costs engine, API server and client
some fifty microseconds each, a sixth of a tiny model's step. Measured on two cores with one client and the
kindergarten's model, side by side: 4.6 % more tokens a second than with a quarter of it. A step that takes longer is
sent at once."""

LINGER_SECONDS = 0.002 if (os.cpu_count() or 1) > 1 else 0.0
"""An engine with nothing left to do polls for this long before it sleeps. The next question of a client that has just
been answered comes within a millisecond, and finds an engine that is awake, with warm caches: measured with one client
and replies of 64 tokens on the kindergarten's model, 3 % more tokens a second."""


def main(descriptor: int) -> int:
    """Serve the API server at the other end of the socket until it is done. Returns the exit code."""
    # A service manager sends SIGTERM to every process of a service, but the replies under way are to be finished.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_IGN)
    channel = ipc.Channel(socket.socket(fileno=descriptor))
    try:
        [settings] = channel.receive(wait=True)
        assert isinstance(settings, ipc.EngineSettings)
        try:
            engine, info = load(settings)
        except UserError as error:
            channel.send(ipc.Failed(str(error)))
            return 2
        channel.send(ipc.Ready(info))
        with settled():
            EngineLoop(channel, engine).run()
    except ipc.Closed:
        pass
    return 0


def load(settings: ipc.EngineSettings) -> tuple[Engine, ipc.ModelInfo]:
    """The engine, and what there is to know about its model. Raises UserError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    path = resolve_bundle(Path(settings.path))
    runtime = detect_runtime(_device(settings), settings.dtype)
    bundle = load_bundle(path, device=runtime.device, dtype=runtime.compute_dtype)
    if settings.kv_tokens and settings.kv_tokens < bundle.config.context_length:
        raise UserError(
            f"--kv-tokens {settings.kv_tokens} is too small: one context of this model takes "
            f"{bundle.config.context_length} tokens"
        )
    adapters = {name: load_adapter(Path(folder), path) for name, folder in settings.adapters.items()}
    quantize = None if settings.quantize == "none" else settings.quantize
    beside = CPU_TOKENS_BESIDE_DECODING if runtime.device.type == "cpu" else None
    engine = Engine(
        bundle.model,
        bundle.tokenizer,
        backend=choose_backend(
            bundle.model, quantize=quantize, exact=settings.exact or None, adapters=adapters
        ),
        tool=calculator_tool,
        max_running=settings.max_running or None,
        tokens_per_step=settings.tokens_per_step or None,
        tokens_beside_decoding=settings.tokens_beside_decoding or beside,
        kv_tokens=settings.kv_tokens or None,
        block_size=BLOCK_SIZE,
        prefix_caching=settings.prefix_caching,
    )
    return engine, ipc.ModelInfo(
        path=str(path),
        context_length=bundle.config.context_length,
        vocab_size=bundle.config.vocab_size,
        num_parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
        generation=bundle.generation,
        fingerprint=bundle_fingerprint(path),
        num_blocks=engine.num_blocks,
        block_size=BLOCK_SIZE,
        max_running=engine.max_running,
        description=f"{runtime.describe()}; {engine.describe()}"
        + "; exact" * engine.backend.is_exact
        + "; what asks for an adapter runs through torch, on a CPU at about a third of the speed"
        * bool(adapters),
    )


def _device(settings: ipc.EngineSettings) -> str:
    """With several GPUs, every replica has its own, in turn."""
    num_gpus = torch.cuda.device_count() if settings.device in ("auto", "cuda") else 0
    return f"cuda:{settings.index % num_gpus}" if num_gpus else settings.device


class EngineLoop:
    """Reads commands between steps, and sends the outputs of steps: at once, or a little later."""

    def __init__(self, channel: ipc.Channel, engine: Engine) -> None:
        self._channel = channel
        self._engine = engine
        self._replies: dict[int, tuple[int, int]] = {}
        """By the engine's handle: the job, and which of its replies."""
        self._begun: set[int] = set()
        """Handles of replies whose first token was sent."""

    def run(self) -> None:
        """Until the API server says stop. Raises Closed if it is gone."""
        pending: list[Event] = []
        sent = 0.0
        while True:
            for command in self._commands():
                if isinstance(command, ipc.Stop):
                    return
                self._execute(command)
            pending += self._engine.step()
            now = time.monotonic()
            if self._engine.is_idle or now - sent >= SEND_SECONDS:
                self._send(pending)
                pending, sent = [], now
            elif urgent := {event.handle for event in pending if self._is_urgent(event)}:
                self._send([event for event in pending if event.handle in urgent])
                pending = [event for event in pending if event.handle not in urgent]

    def _is_urgent(self, event: Event) -> bool:
        """Is it something that must not wait: a reply's first token, or its end?"""
        return event.completion is not None or event.handle not in self._begun

    def _commands(self) -> list[ipc.Command]:
        """The commands that have come, at least one if there is nothing else to do."""
        if not self._engine.is_idle:
            return self._channel.receive(wait=False)
        until = time.monotonic() + LINGER_SECONDS
        while time.monotonic() < until:
            if commands := self._channel.receive(wait=False):
                return commands
        return self._channel.receive(wait=True)

    def _execute(self, command: ipc.Command) -> None:
        if isinstance(command, ipc.Submit):
            self._submit(command)
        elif isinstance(command, ipc.Cancel):
            for handle in [handle for handle, (job, _) in self._replies.items() if job == command.number]:
                self._engine.cancel(handle)
                self._forget(handle)
        elif isinstance(command, ipc.CountCached):
            self._channel.send(
                ipc.Cached(command.number, self._engine.num_cached(command.prompt_ids, command.adapter))
            )

    def _submit(self, command: ipc.Submit) -> None:
        handles: list[int] = []
        try:
            for request in command.job.requests():
                handles.append(self._engine.submit(request))
        except Exception as error:
            for handle in handles:
                self._engine.cancel(handle)
            self._channel.send(refusal(error, command))
            return
        for index, handle in enumerate(handles):
            self._replies[handle] = command.number, index

    def _send(self, events: list[Event]) -> None:
        outputs: list[ipc.Output] = []
        for event in events:
            if event.handle not in self._replies:
                continue  # cancelled meanwhile
            output = ipc.Output(*self._replies[event.handle], event.ids, event.parts, event.cached_tokens)
            output.logprobs = event.logprobs
            self._begun.add(event.handle)
            if event.completion is not None:
                output.finish_reason = event.completion.finish_reason
                output.error = event.completion.error
                output.prompt_logprobs = event.completion.prompt_logprobs
                self._forget(event.handle)
            outputs.append(output)
        self._channel.send(ipc.Step(outputs, self._engine.stats()))

    def _forget(self, handle: int) -> None:
        del self._replies[handle]
        self._begun.discard(handle)


def refusal(error: Exception, command: ipc.Submit) -> ipc.Refused:
    """Why a job was refused. Whatever goes wrong before it begins is its own affair: the others must go on."""
    if isinstance(error, RequestError):
        return ipc.Refused(command.number, str(error), error.parameter, error.code)
    if command.job.constraint is not None:
        # Found: llguidance 1.9 raises ValueError, not an error of its own, for a schema with a number beyond 64 bits.
        message = f"the form cannot be used: {str(error)[:200]}"
        return ipc.Refused(command.number, message, "constraint", "invalid_value")
    traceback.print_exception(error)
    return ipc.Refused(command.number)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
