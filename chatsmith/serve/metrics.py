"""What Prometheus reads at /metrics: the metrics of metrics.toml, under vLLM's names with the prefix `chatsmith_`.

Dashboards made for vLLM work after replacing `vllm:` by `chatsmith_`. Nothing a client chooses (keys, model names,
fields) becomes a label without being known, so that no client can make metrics without end.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from chatsmith.engine.request import EngineStats
from chatsmith.serve.ipc import ModelInfo

CONTENT_TYPE = CONTENT_TYPE_LATEST

_KINDS: dict[str, type[Any]] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
_OF_MODEL = ("model_name",)
_KNOWN = tomllib.loads(Path(__file__).with_name("metrics.toml").read_text(encoding="utf-8"))


class Metrics:
    """Every metric of a server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._metrics: dict[str, Any] = {}
        self._series: dict[tuple[str, ...], Any] = {}
        for name, entry in _KNOWN.items():
            more = {"buckets": entry["buckets"]} if "buckets" in entry else {}
            labels, make = entry.get("labels", _OF_MODEL), _KINDS[entry["kind"]]
            self._metrics[name] = make(
                f"chatsmith_{name}", entry["help"], labels, registry=self._registry, **more
            )

    def at(self, name: str, *labels: str) -> Any:
        """The series of the metric `name` with these labels, to `inc`, `set` or `observe`."""
        key = (name, *labels)
        if key not in self._series:  # kept: to look one up takes as long as to count
            self._series[key] = self._metrics[name].labels(*labels)
        return self._series[key]

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

    def model_ready(self, model: str, info: ModelInfo) -> None:
        """A model has been loaded. Its series exist from then on, at zero."""
        self.at("cache_config_info", model, str(info.num_blocks), str(info.block_size)).set(1)
        for name, entry in _KNOWN.items():
            if "labels" not in entry and entry["kind"] != "gauge":
                self.at(name, model)
        for reason in ("stop", "length", "tool_calls", "abort", "error"):
            self.at("request_success", model, reason)

    def set_engines(self, model: str, ready: Sequence[EngineStats], num_blocks: int) -> None:
        """The state of a model's ready engines, each with a pool of `num_blocks`."""
        self.at("engine_replicas_ready", model).set(len(ready))
        self.at("num_requests_running", model).set(sum(one.num_running for one in ready))
        self.at("num_requests_waiting", model).set(sum(one.num_waiting for one in ready))
        blocks = num_blocks * len(ready)
        used = blocks - sum(one.num_free_blocks for one in ready)
        self.at("kv_cache_usage_perc", model).set(used / max(1, blocks))

    def engine_stepped(self, model: str, before: EngineStats, now: EngineStats) -> None:
        """One engine took a step."""
        self.at("prefix_cache_queries", model).inc(now.prefix_queries - before.prefix_queries)
        self.at("prefix_cache_hits", model).inc(now.prefix_hits - before.prefix_hits)
        self.at("num_preemptions", model).inc(now.num_preemptions - before.num_preemptions)
