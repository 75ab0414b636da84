"""The server on every machine of a Ray cluster, behind one address: a Ray Serve application.

    pip install 'chatsmith[ray]'
    ray start --head                     # elsewhere: ray start --address HEAD:6379
    python examples/ray_serve.py RUN --min-replicas 2 --max-replicas 8 --gpus 1 --host 0.0.0.0 --port 8000

A replica is what `chatsmith serve` is on one machine: the same API with its limits, and engines in processes of their
own. The run (or bundle) lies at the same path everywhere. Ray starts as many replicas as there are requests for. One
that is to go gets no new requests and finishes those it has; one that dies is replaced, and its open streams break.
Clients retry those, as OpenAI's does. The prefix cache and the limits are each replica's own.
"""

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

from ray import serve

from chatsmith.cli.config import ServeConfig
from chatsmith.cli.serve import make_service
from chatsmith.serve.app import create_app
from chatsmith.serve.auth import HostNames, Keys

DRAIN_SECONDS = 120.0
REQUESTS_OF_A_REPLICA = 16
"""Open at a time, on average, before Ray starts another one: what an engine on a CPU answers together."""


@serve.deployment
@serve.ingress()
class Replica:
    """One server, without a port of its own."""

    async def __init__(self, config: ServeConfig) -> None:
        self.service = make_service(config, Keys(config.api_key))
        self.hosts = HostNames(config.host, config.allowed_host)
        models = self.service.models.values()
        self.engines = [asyncio.create_task(model.run(lambda _: None)) for model in models]
        while self.service.status == "loading":
            for ended in (task for task in self.engines if task.done()):
                ended.result()  # why a model cannot be loaded
            await asyncio.sleep(0.1)

    def __serve_build_asgi_app__(self) -> Any:
        return create_app(self.service, self.hosts)

    async def check_health(self) -> None:
        """Ray replaces a replica where this fails, and asks every few seconds."""
        self.service.check_health()

    async def __del__(self) -> None:
        await asyncio.gather(*(model.stop() for model in self.service.models.values()))


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--min-replicas", type=int, default=1)
    parser.add_argument("--max-replicas", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each replica")
    parser.add_argument("--cpus", type=float, default=1, help="of each replica")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key", action="append", default=[])
    options = parser.parse_args()
    run, threads = options.run.resolve(), max(1, int(options.cpus))
    config = ServeConfig(run=run, host=options.host, api_key=tuple(options.api_key), threads=threads)
    scaling = {
        "min_replicas": options.min_replicas,
        "max_replicas": max(options.min_replicas, options.max_replicas),
    }
    replica = Replica.options(
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": options.gpus},
        autoscaling_config={**scaling, "target_ongoing_requests": REQUESTS_OF_A_REPLICA},
        max_ongoing_requests=1024,
        health_check_period_s=2,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
    )
    serve.start(http_options={"host": options.host, "port": options.port})
    serve.run(replica.bind(config), route_prefix="/")
    print(f"http://{options.host}:{options.port}/v1", flush=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()
    serve.shutdown()


if __name__ == "__main__":
    main()
