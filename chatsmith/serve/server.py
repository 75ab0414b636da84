"""Running the server: engines and HTTP front together, from the first connection to the last reply.

It listens at once; until the models are loaded it says so (503). SIGTERM or Ctrl-C drains it: no new work, replies
under way are finished within the time given, what is left then ends with an error event, and the process ends with
exit code 0. A second signal does not wait.
"""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from chatsmith.runtime.errors import UserError
from chatsmith.serve.app import create_app
from chatsmith.serve.auth import HostNames
from chatsmith.serve.connection import connection_class
from chatsmith.serve.log import log_event, log_thread
from chatsmith.serve.models import ServedModel, Service

KEEP_ALIVE_SECONDS = 75
"""An idle connection is kept for so long: longer than the minute of usual proxies, so that they close first."""

CLOSE_SECONDS = 5

OPEN_FILES = 65_536

BEGIN_SECONDS = 0.05
"""A request that was let in just before draining counts as open after so long."""


@dataclass(frozen=True)
class Address:
    """Where to listen, and for whom."""

    host: str
    port: int
    allowed_hosts: Sequence[str] = ()
    """More names that a server without keys answers to."""
    trusted_proxies: Sequence[str] = ()
    """Who may say, in X-Forwarded-For, which client a request is from."""
    cors_origins: Sequence[str] = ()
    """Of web pages that may use the API."""

    @property
    def is_local(self) -> bool:
        """Can only this machine reach it?"""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def serve(
    make_service: Callable[[], Service], address: Address, drain_seconds: float, tell: Callable[[str], None]
) -> None:
    """Run until a signal. Raises UserError if a model cannot be loaded, or the address not be used.

    `make_service` is called inside the event loop; `tell` says a line to the person who started the server.
    """
    _allow_open_files()

    async def run(listening: socket.socket) -> None:
        service = make_service()
        hosts = HostNames(address.host, address.allowed_hosts)
        config = uvicorn.Config(
            create_app(service, hosts, address.cors_origins),
            http=connection_class(service.read_seconds),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=list(address.trusted_proxies),
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        http = _HttpServer(config)
        stop = _stop_event()
        serving = asyncio.create_task(http.serve([listening]))
        engines = asyncio.create_task(_run_engines(service, _url(listening), tell))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((serving, engines, stopped), return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                await _drain(service, stop, drain_seconds, tell)
        finally:
            http.should_exit = True
            await serving
            await asyncio.gather(*(model.stop() for model in service.models.values() if not model.adapter))
            stopped.cancel()
            if not engines.done():
                engines.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await engines  # raises what went wrong while loading

    with (
        contextlib.closing(_listen(address)) as listening,
        log_thread(),
        asyncio.Runner(loop_factory=auto_loop_factory()) as runner,
    ):
        runner.run(run(listening))


async def _run_engines(service: Service, url: str, tell: Callable[[str], None]) -> None:
    """Load the models and keep them running. Raises UserError if one cannot be loaded."""
    log_event("listening", url=url)
    if service.models:
        tell(f"Listening at {url}; loading {', '.join(service.models)}.")
    if service.runs is not None:
        tell(f"Training page at {url}/runs. Ctrl-C stops.")

    def ready(model: ServedModel) -> None:
        tell(f"{model.name} is ready: {model.loaded.info.description}")
        if service.status == "ok":
            log_event("ready", url=url, models=list(service.models))
            tell(f"Chat page at {url}/, OpenAI API at {url}/v1. Ctrl-C stops.")

    running = [asyncio.create_task(one.run(ready)) for one in service.models.values() if not one.adapter]
    if service.runs is not None:
        running.append(asyncio.create_task(service.runs.tell()))
    try:
        await asyncio.gather(*running)
        await asyncio.Event().wait()  # without a model, until a signal
    finally:
        for task in running:
            task.cancel()


async def _drain(service: Service, stop: asyncio.Event, seconds: float, tell: Callable[[str], None]) -> None:
    """Finish what is under way, within so many seconds or until a second signal."""
    service.drained_by = time.monotonic() + seconds
    log_event("draining", open_requests=service.num_open, seconds=seconds)
    if service.num_open:
        tell(
            f"Finishing {service.num_open} requests, for {seconds:g} seconds at most; again to stop at once."
        )
    stop.clear()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await asyncio.sleep(BEGIN_SECONDS)
            while service.num_open and not stop.is_set():
                await asyncio.sleep(0.05)
    if service.num_open:
        log_event("aborting", level="warning", open_requests=service.num_open)
        service.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while service.num_open:
                    await asyncio.sleep(0.01)
    log_event("stopped")


class _HttpServer(uvicorn.Server):
    """uvicorn, with signals left to us: its own handling ends the process with the signal, not with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    return stop


def _listen(address: Address) -> socket.socket:
    """A listening socket. Raises UserError."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # localhost is ::1 first on some machines, and clients then write 127.0.0.1.
        family, *_, (host, port, *_) = min(found, key=lambda one: one[0] != socket.AF_INET)
        listening = socket.create_server((str(host), int(port)), family=family, backlog=2048)
        listening.setblocking(False)
        return listening
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen at {address.host} port {address.port} ({error}); choose another --host or --port"
        ) from error


def _allow_open_files() -> None:
    """A connection is an open file, and many systems allow 1,024 where no more is asked for."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
