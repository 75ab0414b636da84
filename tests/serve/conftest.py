"""Tiny bundles, and real servers in processes of their own: one that most tests share, and more for special wishes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from chatsmith.backends import choose_backend
from chatsmith.bundle import save_bundle
from chatsmith.engine.engine import Engine
from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.text.tokenizer import Tokenizer, train_tokenizer

CONTEXT = 256
KEY = "test-key-of-the-tests"
MAX_RUNNING = 8
KV_TOKENS = 4096

AS_EXACT = ("--port", "0", "--device", "cpu", "--dtype", "fp32")
"""Where the processor multiplies bf16, replies would differ from those of the bare engine otherwise."""

BY_NAME = ("--allowed-host", "x")
"""The name in the Host header of requests that are written by hand."""


class RunningServer:
    """`chatsmith serve` in a process of its own, at a free port, and its log."""

    def __init__(self, *flags: str) -> None:
        names = () if "--allowed-host" in flags else BY_NAME
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATSMITH_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "chatsmith", "serve", *flags, *AS_EXACT, *names],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        self.log: list[dict[str, Any]] = []
        self.said = ""
        self._readers = [
            threading.Thread(target=read, daemon=True) for read in (self._read_log, self._read_said)
        ]
        for reader in self._readers:
            reader.start()
        self.url = ""

    def _read_log(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.log.append(json.loads(line))

    def _read_said(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of the log with this event, so far."""
        return [line for line in self.log if line["event"] == name]

    def wait_for(self, name: str, seconds: float = 120.0, count: int = 1) -> dict[str, Any]:
        """The line of the log with this event, once it is there."""
        deadline = time.monotonic() + seconds
        while len(self.events(name)) < count:
            assert self.process.poll() is None, f"the server ended: {self.said}"
            assert time.monotonic() < deadline, f"no {name} in {self.log[-20:]}; it said {self.said}"
            time.sleep(0.02)
        return self.events(name)[count - 1]

    def wait_until_ready(self) -> "RunningServer":
        self.url = self.wait_for("ready")["url"]
        return self

    def line_of(self, response: httpx.Response) -> dict[str, Any]:
        """The log's line about the request that this is the response to; it is written after the response."""
        id, deadline = response.headers["x-request-id"], time.monotonic() + 60
        while time.monotonic() < deadline:
            for line in reversed(self.events("request")):
                if line["request_id"] == id:
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line about {id}")

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log[-20:]
            time.sleep(0.02)

    def chat_events(self, body: dict[str, Any], began: threading.Event | None = None) -> list[Any]:
        """The events of a stream to its very end; `[DONE]` as that text."""
        events: list[Any] = []
        with (
            self.client() as client,
            client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as response,
        ):
            assert response.status_code == 200
            for line in response.iter_lines():
                if line.startswith("data: "):
                    data = line.removeprefix("data: ")
                    events.append(data if data == "[DONE]" else json.loads(data))
                    if began is not None and len(events) > 2:
                        began.set()
        return events

    def client_behind(self, proxies: str, **headers: str) -> str:
        """The client in the log of a request with this X-Forwarded-For."""
        with self.client() as client:
            asked = client.get("/v1/models", headers={"X-Forwarded-For": proxies, **headers})
        return self.line_of(asked)["client"]

    @property
    def worker(self) -> int:
        """The process of the engine that was started last."""
        return self.events("engine_ready")[-1]["pid"]

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric, summed over the labels that are not given."""
        with self.client() as client:
            text = client.get("/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
        found = [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith((f"{name}{{", f"{name} "))
            and all(f'{label}="{value}"' in line for label, value in labels.items())
        ]
        assert found, f"no metric {name}"
        return sum(found)

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        """Until no request holds anything."""
        deadline = time.monotonic() + seconds
        names = (
            "chatsmith_num_requests_running",
            "chatsmith_num_requests_waiting",
            "chatsmith_kv_cache_usage_perc",
        )
        while any(self.metric(name) for name in names):
            assert time.monotonic() < deadline, [(name, self.metric(name)) for name in names]
            time.sleep(0.02)

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """The exit code."""
        self.process.send_signal(signal_number)
        try:
            code = self.process.wait(timeout=60)
        finally:
            self.process.kill()
        for reader in self._readers:
            reader.join(timeout=10)
        return code


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    """Each client of httpx reads them when it is made, which takes 24 ms, and there are more than a thousand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", cache(httpx.create_ssl_context))
        yield


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    words = "the cat sat on the mat; the dog sat on the cat. What is 1+1=2? hello äöü "
    return train_tokenizer([words * 3], vocab_size=320)


def random_model(tokenizer: Tokenizer, context: int = CONTEXT, seed: int = 0) -> GPT:
    """Every parameter random: what it says is nonsense, but its own."""
    model = GPT(
        GPTConfig(tokenizer.vocab_size, context_length=context, num_layers=2, num_heads=2, head_dim=8)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model.eval()


@pytest.fixture(scope="session")
def model(tokenizer: Tokenizer) -> GPT:
    return random_model(tokenizer)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, model: GPT, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("serve") / "tiny"
    generation = {"temperature": 1.0, "top_k": 0}
    save_bundle(path, model, tokenizer, generation=generation, card="# Tiny\n")
    return path


@pytest.fixture
def engine(model: GPT, tokenizer: Tokenizer) -> Engine:
    """The bare engine, to compare with."""
    return Engine(
        model, tokenizer, backend=choose_backend(model), max_running=MAX_RUNNING, kv_tokens=KV_TOKENS
    )


@pytest.fixture(scope="session")
def start_server() -> Iterator[Callable[..., RunningServer]]:
    """Starts servers; whatever still runs at the end is killed."""
    servers: list[RunningServer] = []

    def start(*flags: object) -> RunningServer:
        servers.append(RunningServer(*map(str, flags)))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start_server: Callable[..., RunningServer], bundle: Path) -> RunningServer:
    """The server that most tests share: without keys, and never stopped by them."""
    flags = ("--max-running", MAX_RUNNING, "--kv-tokens", KV_TOKENS, "--max-queue", 2000)
    return start_server(bundle, *flags).wait_until_ready()


@pytest.fixture(scope="session")
def roomy_server(start_server: Callable[..., RunningServer], roomy_bundle: Path) -> RunningServer:
    """A server whose model takes longer prompts, and a while for its replies. Shared; tests leave it idle."""
    return start_server(roomy_bundle, "--max-running", 4, "--kv-tokens", 16_384).wait_until_ready()


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def roomy_bundle(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """The tiny model with a context of 2,048 tokens."""
    path = tmp_path_factory.mktemp("serve-roomy") / "roomy"
    save_bundle(path, random_model(tokenizer, 2048), tokenizer, generation={}, card="# Roomy\n")
    return path
