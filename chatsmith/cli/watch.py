"""`chatsmith watch`: a web page that shows how a run goes, or every run in a folder. It loads no model.

It only reads, at whatever time: a run may be in training, over, interrupted, or copied here from another machine.
"""

import atexit
import subprocess
import sys
import webbrowser
from pathlib import Path

from chatsmith.cli.config import WatchConfig as Config
from chatsmith.cli.serve import who_may_come_in
from chatsmith.report.watch import WatchedRuns
from chatsmith.runtime.console import Reporter
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.models import Service
from chatsmith.serve.runs import Runs
from chatsmith.serve.server import serve

MAX_BODY_BYTES, READ_SECONDS, DRAIN_SECONDS = 2**16, 30.0, 1.0


def main(config: Config) -> None:
    """Serve the page until a signal. Raises UserError if there is no run, or the address is taken."""
    reporter = Reporter(json=True)  # stdout is for the log
    keys, address = who_may_come_in(config, reporter)
    watched = WatchedRuns([config.folder, *config.also], config.price_per_hour)

    def make_service() -> Service:
        runs = Runs(watched, {}, config.notify)
        return Service({}, keys, Metrics(), MAX_BODY_BYTES, READ_SECONDS, runs=runs)

    serve(
        make_service,
        address,
        allowed_hosts=config.allowed_host,
        trusted_proxies=config.trusted_proxy,
        cors_origins=(),
        drain_seconds=DRAIN_SECONDS,
        tell=reporter.line,
    )


def open_page(run: Path, reporter: Reporter) -> None:
    """Open the page of a run in the browser, served by a process of its own that ends with this one."""
    command = [sys.executable, "-m", "chatsmith", "watch", str(run), "--port", str(Config.port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(process.terminate)
    address = f"http://{Config.host}:{Config.port}/runs"
    reporter.line(f"Training page: {address}, until this ends; then: chatsmith watch {run}")
    webbrowser.open(address)
