"""`chatsmith serve`: put a model behind the OpenAI API and a web page.

Each model's engines run in processes of their own; this process speaks HTTP and needs no torch. What the endpoints
do is told in `chatsmith/serve/` and docs/serving.md. It trains nothing and changes no file. `chatsmith watch` serves
the page that shows how runs go, and no model: a run may be in training, over, interrupted, or copied here.
"""

import atexit
import os
import shlex
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from chatsmith.adapt.passages import read_documents
from chatsmith.adapt.search import PassageIndex
from chatsmith.cli.config import Listening, WatchConfig, named_models
from chatsmith.cli.config import ServeConfig as Config
from chatsmith.cli.settings import expanded
from chatsmith.report.run_facts import is_run
from chatsmith.report.watch import WatchedRuns
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.run_directory import RunDirectory
from chatsmith.serve.admission import Limits
from chatsmith.serve.auth import Keys, read_keys
from chatsmith.serve.ipc import EngineSettings
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.models import ServedModel, Service
from chatsmith.serve.runs import Runs
from chatsmith.serve.server import Address, serve


def main(config: Config) -> None:
    """Serve until a signal. Raises UserError for a model that cannot be loaded, or an address already taken."""
    listen(config, lambda keys: make_service(config, keys), config.drain_seconds, config.cors_origins)


def listen(
    config: Listening, make: Callable[[Keys], Service], drain_seconds: float, cors_origins: Sequence[str] = ()
) -> None:
    """Serve what `make` makes, inside the event loop, until a signal; with a warning if that lets in others than it may
    seem. Raises UserError if the address is taken."""
    reporter = Reporter(json=True)  # stdout is for the log
    entries = [*config.api_key, *(read_keys(config.api_key_file) if config.api_key_file else [])]
    keys = Keys(entries)
    address = Address(config.host, config.port, config.allowed_host, config.trusted_proxy, cors_origins)
    if not address.is_local:
        reporter.notice(
            f"Warning: at {config.host} other machines can reach this server, without encryption."
        )
        if not keys.are_required:
            reporter.notice(
                "Warning: it asks for no key, so anyone who reaches it can use it. See --api-key-file."
            )
    serve(lambda: make(keys), address, drain_seconds, reporter.line)


def engine_threads(num_engines: int) -> int:
    """CPU threads of each engine: the cores but one, divided. The front needs that one, and an engine's threads, which
    wait for each other after every product, all wait for the one whose core is taken."""
    return max(1, ((os.cpu_count() or 1) - 1) // num_engines)


def make_service(config: Config, keys: Keys) -> Service:
    """Everything that is served, not yet loaded. To be called inside the event loop."""

    metrics = Metrics()
    paths, adapter_paths = named_models(config)
    adapters = {name: str(path) for name, path in adapter_paths.items()}
    threads = config.threads or engine_threads(config.replicas * len(paths))
    same = {name: value for name, value in vars(config).items() if name in EngineSettings.__struct_fields__}
    limits = Limits(config.max_queue, config.max_queue_tokens, config.max_per_key)
    times = config.queue_seconds, config.request_seconds
    folder = config.documents
    passages = PassageIndex(read_documents(expanded(folder)).passages) if folder else None
    models: dict[str, ServedModel] = {}
    for name, path in paths.items():
        own = {"path": str(path), "threads": threads, "adapters": {} if models else adapters}
        indices = range(len(models) * config.replicas, (len(models) + 1) * config.replicas)
        engines = [EngineSettings(index=index, **same | own) for index in indices]
        models[name] = ServedModel(name, engines, limits, metrics, *times, passages)
    first = next(iter(models.values()))
    models |= {name: first.with_adapter(name) for name in adapters}
    max_body_bytes = round(config.max_body_mib * 2**20)
    trained = [path for path in paths.values() if is_run(RunDirectory(path))]
    runs = Runs(WatchedRuns([*trained, *config.also]), paths) if trained else None
    return Service(models, keys, metrics, max_body_bytes, config.read_seconds, config.log_prompts, runs)


MAX_BODY_BYTES, READ_SECONDS, DRAIN_SECONDS = 2**16, 30.0, 1.0


def watch(config: WatchConfig) -> None:
    """Serve the page until a signal. Raises UserError if there is no run, or the address is taken."""
    watched = WatchedRuns([config.folder, *config.also], config.price_per_hour)

    def make_service(keys: Keys) -> Service:
        runs = Runs(watched, {}, config.notify)
        return Service({}, keys, Metrics(), MAX_BODY_BYTES, READ_SECONDS, runs=runs)

    listen(config, make_service, DRAIN_SECONDS)


def open_page(run: Path, reporter: Reporter) -> None:
    """Open the page of a run in the browser, served by a process of its own that ends with this one."""
    command = [sys.executable, "-m", "chatsmith", "watch", str(run), "--port", str(WatchConfig.port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.terminate)
    address = f"http://{WatchConfig.host}:{WatchConfig.port}/runs"
    reporter.line(f"Training page: {address}, until this ends; then: chatsmith watch {shlex.quote(str(run))}")
    webbrowser.open(address)
