"""`chatsmith serve`: put a model behind the OpenAI API and a web page.

Each model's engines run in processes of their own; this process speaks HTTP and needs no torch. What the endpoints
do is told in `chatsmith/serve/` and docs/serving.md. It trains nothing and changes no file.
"""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatsmith.runtime.errors import UserError

if TYPE_CHECKING:
    from chatsmith.serve.auth import Keys
    from chatsmith.serve.models import Service

DEFAULT_RUN = Path("runs/kindergarten")
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+")
"""As browsers send it: a scheme and a host in small letters, perhaps a port, no path."""


@dataclass(frozen=True)
class Config:
    """Put a model behind the OpenAI API and a web page.

    Listens on this machine only, unless --host says otherwise.
    """

    run: Path = DEFAULT_RUN
    """A run, whose newest stage answers, or a bundle."""
    model: tuple[str, ...] = ()
    """More models, each NAME=PATH of a run or bundle. Given alone, they replace the default run."""
    name: str | None = None
    """What the model is called in the API. Default: the name of its folder."""
    host: str = "127.0.0.1"
    """The address to listen at; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """The port to listen at; 0 takes a free one."""
    api_key: tuple[str, ...] = ()
    """Keys that clients must send, each KEY or NAME=KEY. Others can read flags: a file is better."""
    api_key_file: Path | None = None
    """A file with keys, one a line."""
    allowed_host: tuple[str, ...] = ()
    """More names (Host header) that a server without keys answers to, besides its address and localhost; * is all."""
    trusted_proxy: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks of proxies, whose X-Forwarded-For says which client a request is from (for the log)."""
    cors_origins: tuple[str, ...] = ()
    """Origins (https://example.org) whose web pages may use the API; * is all."""
    replicas: int = 1
    """Engines a model, one a GPU where there are several."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """What to compute in; auto: bf16 where the hardware multiplies it."""
    quantize: Literal["none", "bf16", "int8"] = "none"
    """Keep the weights of the large products smaller, and so answer faster; int8 costs a little quality."""
    threads: int = 0
    """CPU threads of each engine; 0 leaves a core to the front and divides the others among the engines."""
    max_running: int = 16
    """Replies that an engine writes at the same time."""
    tokens_per_step: int = 256
    """Tokens that an engine computes at once; more reads prompts faster, and lets the others wait longer."""
    tokens_beside_decoding: int = 0
    """Of these, how many may belong to prompts while other replies are written; 0 means 16 on a CPU, all elsewhere."""
    kv_tokens: int = 0
    """Tokens in an engine's key-value pool; 0 means as many as are useful and fit half of the free memory."""
    prefix_caching: bool = True
    """Keep what was computed for prompts that begin alike. Turn it off if clients must not learn, from how fast a
    reply begins, what others sent."""
    max_queue: int = 256
    """Replies that may wait for an engine; over it, clients are told when to come back (429)."""
    max_queue_tokens: int = 0
    """Prompt tokens that may wait; 0 means four times the key-value pool."""
    max_per_key: int = 0
    """Requests that one key may have open; 0 is no limit."""
    queue_seconds: float = 60.0
    """A reply that has not begun after so long is given up (503)."""
    request_seconds: float = 600.0
    """A reply that has not ended after so long is given up."""
    read_seconds: float = 30.0
    """How long a client may take to send its request."""
    max_body_mib: float = 4.0
    """Largest request, in MiB."""
    drain_seconds: float = 30.0
    """When told to stop, finish replies under way for so long at most."""
    log_prompts: bool = False
    """Write prompts and replies into the log."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port is {self.port}; it must be from 0 to 65535")
        for name in ("replicas", "max_running", "tokens_per_step"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1")
        for name in (
            "threads",
            "tokens_beside_decoding",
            "kv_tokens",
            "max_queue",
            "max_queue_tokens",
            "max_per_key",
        ):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 or more")
        for name in ("queue_seconds", "request_seconds", "read_seconds", "max_body_mib"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.drain_seconds < float("inf"):
            raise UserError(f"--drain-seconds is {self.drain_seconds}; it must be 0 or more")
        for proxy in self.trusted_proxy:
            try:
                ipaddress.ip_network(proxy, strict=False)
            except ValueError:
                raise UserError(
                    f"--trusted-proxy {proxy!r} is no address and no network; write 10.0.0.7 or 10.0.0.0/8"
                ) from None
        for origin in self.cors_origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise UserError(
                    f"--cors-origins {origin} is no origin: write https://example.org, with its port if it has one "
                    "and nothing after it, or * for all"
                )
        named_models(self)


def main(config: Config) -> None:
    """Serve until a signal. Raises UserError for a model that cannot be loaded, or an address already taken."""
    from chatsmith.runtime.logs import Reporter
    from chatsmith.serve.auth import Keys, read_keys
    from chatsmith.serve.server import Address, serve

    reporter = Reporter(json=True)  # stdout is for the log
    entries = [*config.api_key, *(read_keys(config.api_key_file) if config.api_key_file else [])]
    keys = Keys(entries)
    address = Address(config.host, config.port)
    if not address.is_local:
        reporter.notice(
            f"Warning: at {config.host} other machines can reach this server, without encryption."
        )
        if not keys.are_required:
            reporter.notice(
                "Warning: it asks for no key, so anyone who reaches it can use it. See --api-key-file."
            )
    serve(
        lambda: make_service(config, keys),
        address,
        allowed_hosts=config.allowed_host,
        trusted_proxies=config.trusted_proxy,
        cors_origins=config.cors_origins,
        drain_seconds=config.drain_seconds,
        tell=reporter.line,
    )


def named_models(config: Config) -> dict[str, Path]:
    """Path by name. Raises UserError."""
    models: dict[str, Path] = {}
    if not config.model or config.run != DEFAULT_RUN or config.name:
        models[config.name or _folder_name(config.run)] = config.run
    for entry in config.model:
        name, equals, path = entry.partition("=")
        if not equals or not path:
            raise UserError(f"--model is {entry!r}; write NAME=PATH")
        if name in models:
            raise UserError(f"two models are called {name}; give each its own name")
        models[name] = Path(path)
    for name in models:
        if not MODEL_NAME.fullmatch(name):
            raise UserError(f"{name!r} cannot be the name of a model; use letters, digits and . _ - /")
    return models


def engine_threads(num_engines: int) -> int:
    """CPU threads of each engine: the cores but one, divided. The front needs that one, and an engine's threads, which
    wait for each other after every product, all wait for the one whose core is taken."""
    return max(1, ((os.cpu_count() or 1) - 1) // num_engines)


def make_service(config: Config, keys: "Keys") -> "Service":
    """Everything that is served, not yet loaded. To be called inside the event loop."""
    from chatsmith.serve.admission import Limits
    from chatsmith.serve.ipc import EngineSettings
    from chatsmith.serve.metrics import Metrics
    from chatsmith.serve.models import ServedModel, Service

    metrics = Metrics()
    paths = named_models(config)
    num_engines = config.replicas * len(paths)
    threads = config.threads or engine_threads(num_engines)

    def setup(path: Path, index: int) -> EngineSettings:
        return EngineSettings(
            str(path),
            index,
            config.device,
            config.dtype,
            threads,
            config.max_running,
            config.tokens_per_step,
            config.kv_tokens or None,
            config.prefix_caching,
            None if config.quantize == "none" else config.quantize,
            config.tokens_beside_decoding,
        )

    models = {
        name: ServedModel(
            name,
            [setup(path, number * config.replicas + index) for index in range(config.replicas)],
            Limits(config.max_queue, config.max_queue_tokens, config.max_per_key),
            metrics,
            queue_seconds=config.queue_seconds,
            request_seconds=config.request_seconds,
        )
        for number, (name, path) in enumerate(paths.items())
    }
    max_body_bytes = round(config.max_body_mib * 2**20)
    return Service(models, keys, metrics, max_body_bytes, config.read_seconds, config.log_prompts)


def _folder_name(path: Path) -> str:
    """The folder's name; for runs/NAME/sft/bundle, NAME-sft."""
    parts = [part for part in path.absolute().parts if part != "bundle"]
    stages = ("pretrain", "sft", "rl")
    return "-".join(parts[-2:]) if parts[-1] in stages and len(parts) > 2 else parts[-1]
