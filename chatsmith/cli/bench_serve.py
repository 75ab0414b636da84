"""`chatsmith bench serve`: how a server holds up, measured by a load client of our own.

Against a server that runs (--url), of any make that speaks the OpenAI API; or it starts one for a run. With
--compare-engine the same requests go to the bare engine first, in this process, so that the share that HTTP costs can
be read off. The server's memory (its engines' included) is noted after a warm-up and at the end, its open files before
and after the load: they should not grow.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatsmith.cli.config import BenchServeConfig as Config
from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.runtime.console import Reporter
    from chatsmith.serve.load_client import Target

WARM_UP_SHARE = 0.2
"""Memory and files are noted for the first time after this share of the run."""


def main(config: Config) -> None:
    """Measure, and print a table or one JSON object."""
    from chatsmith.runtime.console import Reporter

    reporter = Reporter(json=config.json)
    load = f"{config.rate:g} requests a second" if config.rate else f"{config.clients} clients"
    reporter.stage("Serving under load", f"{load}, {config.reply_tokens} tokens a reply")
    engine_speed = measure_engine(config, reporter) if config.compare_engine else None
    if config.url is not None:
        figures = measure(config, config.url, config.pid, reporter)
    else:
        with started_server(config) as (url, pid):
            figures = measure(config, url, pid, reporter)
    if engine_speed is not None:
        figures["engine_tokens_per_second"] = engine_speed
        figures["share_of_engine"] = figures["tokens_per_second"] / engine_speed
    _show(figures, reporter)
    if config.json:
        sys.stdout.write(json.dumps(figures) + "\n")


def measure(config: Config, url: str, pid: int | None, reporter: "Reporter") -> dict[str, Any]:
    """Figures of the server at `url` under the load that `config` asks for."""
    import asyncio

    from chatsmith.serve.load_client import Timing, ask, closed_loop, open_loop, summarize
    from chatsmith.serve.server import loop_factory

    target = _target(config, url)
    warm = asyncio.run(ask(target, -1, time.perf_counter()))
    if warm.error is not None:
        raise UserError(
            f"the server at {url} does not answer ({warm.error}); check --url, --model and --api-key"
        )
    before = None if pid is None else _footprint_at_rest(pid)
    memory: list[dict[str, int]] = []
    started = time.perf_counter()
    is_over = _limit(config, started)
    warm_up = WARM_UP_SHARE * (config.requests or config.seconds)
    total = config.requests or None
    num_ended = 0
    with reporter.progress("requests", total, "requests") as bar:

        def ended(timing: Timing) -> None:
            nonlocal num_ended
            num_ended += 1
            bar.advance(1)
            progress = num_ended if config.requests else time.perf_counter() - started
            if pid is not None and not memory and progress >= warm_up:
                memory.append(footprint(pid))

        loop = open_loop(target, config.rate, is_over, ended) if config.rate else None
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            timings = runner.run(loop or closed_loop(target, config.clients, is_over, ended))
        seconds = time.perf_counter() - started
    figures = {"url": url, "clients": config.clients, "rate": config.rate, **summarize(timings, seconds)}
    if pid is not None:
        memory.append(_footprint_at_rest(pid))
        figures["server"] = {"before": before, "after_warm_up": memory[0], "at_end": memory[-1]}
    return figures


def measure_engine(config: Config, reporter: "Reporter") -> float:
    """Tokens a second of the bare engine, made as a server makes it, with the same requests, as many at a time."""
    from chatsmith.cli.serve import engine_threads
    from chatsmith.serve.chat_completions import chat_job
    from chatsmith.serve.protocol import Setup
    from chatsmith.serve.requests import ChatRequest
    from chatsmith.serve.served_model import LoadedModel
    from chatsmith.serve.worker import load

    setup = Setup(
        str(config.run),
        device=config.device,
        dtype=config.dtype,
        threads=config.threads or engine_threads(1),
        max_running=config.max_running,
    )
    engine, info = load(setup)
    model = LoadedModel.of(info)
    target = _target(config, "")
    tokens = 0

    def submit(number: int) -> None:
        for request in chat_job(ChatRequest.read(target.body(number)), model).requests():
            engine.submit(request)

    submit(-1)
    while not engine.is_idle:
        engine.step()
    started = time.perf_counter()
    is_over = _limit(config, started)
    number = 0
    with reporter.progress("bare engine", config.requests or None, "requests") as bar:
        while number < config.clients and not is_over(number):
            submit(number)
            number += 1
        while not engine.is_idle:
            for event in engine.step():
                tokens += len(event.ids)
                if event.completion is not None:
                    bar.advance(1)
                    if not is_over(number):
                        submit(number)
                        number += 1
    return tokens / (time.perf_counter() - started)


@contextmanager
def started_server(config: Config) -> Iterator[tuple[str, int]]:
    """A server of our own for `config.run`, at a free port: its URL and process."""
    flags = ["--port", "0", "--device", config.device, "--dtype", config.dtype]
    flags += [
        "--max-running",
        str(config.max_running),
        "--max-queue",
        "4096",
        "--threads",
        str(config.threads),
    ]
    command = [sys.executable, "-m", "chatsmith", "serve", str(config.run), *flags]
    # The log of every request would fill a pipe that nobody reads, so it goes through a file.
    import tempfile

    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=log, stderr=said, text=True)
        try:
            while not (url := _ready_url(log)):
                if process.poll() is not None:
                    said.seek(0)
                    last = (said.read().strip().splitlines() or ["it said nothing"])[-1]
                    raise UserError(f"the server could not be started: {last.removeprefix('chatsmith: ')}")
                time.sleep(0.1)
            yield url, process.pid
        finally:
            process.terminate()
            process.wait()


def _ready_url(log: Any) -> str | None:
    log.seek(0)
    lines = (json.loads(line) for line in log if line.endswith("\n"))
    return next((line["url"] for line in lines if line["event"] == "ready"), None)


def _footprint_at_rest(pid: int) -> dict[str, int]:
    time.sleep(0.5)  # for connections to be closed on the other side
    return footprint(pid)


def footprint(pid: int) -> dict[str, int]:
    """Resident bytes and open files of a process and its children. Raises UserError if there is none."""
    pids = [pid, *(child for child in _processes() if _parent(child) == pid)]
    try:
        pages = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in pids]
        files = sum(len(list(Path(f"/proc/{one}/fd").iterdir())) for one in pids)
    except OSError as error:
        raise UserError(f"process {pid} cannot be watched ({error.strerror}); leave --pid out") from error
    import resource

    return {"resident_bytes": sum(pages) * resource.getpagesize(), "open_files": files}


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return None


def _limit(config: Config, started: float) -> Callable[[int], bool]:
    """Whether request number so-and-so is one too many."""
    if config.requests:
        return lambda number: number >= config.requests
    return lambda number: time.perf_counter() - started >= config.seconds


def _target(config: Config, url: str) -> "Target":
    from chatsmith.serve.load_client import Target

    return Target(
        url.rstrip("/").removesuffix("/v1"),
        config.model,
        config.api_key,
        config.prompt_words,
        config.reply_tokens,
        config.ignore_end,
    )


def _show(figures: dict[str, Any], reporter: "Reporter") -> None:
    rows = [
        ["requests", f"{figures['requests']:,}, {figures['errors']:,} failed"],
        ["requests per second", f"{figures['requests_per_second']:,.2f}"],
        ["tokens per second", f"{figures['tokens_per_second']:,.1f}"],
    ]
    if "share_of_engine" in figures:
        rows.append(["the bare engine", f"{figures['engine_tokens_per_second']:,.1f} tokens per second"])
        rows.append(["share of it through HTTP", f"{figures['share_of_engine']:.1%}"])
    names = {"ttft_ms": "first token after", "itl_ms": "between tokens", "total_ms": "whole reply"}
    for key, name in names.items():
        shown = ", ".join(f"{label} {value:,.1f}" for label, value in figures[key].items())
        rows.append([f"{name} (ms)", shown])
    if "server" in figures:
        before, warm, after = (figures["server"][name] for name in ("before", "after_warm_up", "at_end"))
        grown = (after["resident_bytes"] - warm["resident_bytes"]) / 2**20
        rows.append(
            ["server's memory", f"{after['resident_bytes'] / 2**20:,.0f} MiB, {grown:+,.1f} since warm-up"]
        )
        rows.append(
            ["server's open files", f"{after['open_files']}, {after['open_files'] - before['open_files']:+d}"]
        )
    for kind, count in figures["error_kinds"].items():
        rows.append([f"failed: {kind}", f"{count:,}"])
    reporter.table("Serving under load", ["figure", "value"], rows)
