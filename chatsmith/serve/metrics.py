"""What Prometheus reads at /metrics, under vLLM's metric names with the prefix `chatsmith_`.

Dashboards made for vLLM work after replacing `vllm:` by `chatsmith_`. Times are in seconds. Nothing a client chooses
(keys, model names, fields) becomes a label without being known, so that no client can make metrics without end.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from chatsmith.engine.request import EngineStats
from chatsmith.serve.ipc import ModelInfo

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SHORT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_LONG = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Metrics:
    """Every metric of a server, in a registry of its own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"chatsmith_{name}", help, ("model_name", *labels), registry=registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"chatsmith_{name}", help, ("model_name", *labels), registry=registry)

        def histogram(name: str, help: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"chatsmith_{name}", help, ("model_name",), buckets=buckets, registry=registry)

        # from the engines
        self._running = gauge("num_requests_running", "Replies that hold a part of the key-value pool.")
        self._waiting = gauge("num_requests_waiting", "Replies that wait for a slot.")
        self._kv_usage = gauge("kv_cache_usage_perc", "Share of the key-value pool in use; 1 is all.")
        self._replicas = gauge("engine_replicas_ready", "Engines that take requests.")
        self._pool = gauge(
            "cache_config_info", "The key-value pool of each engine.", "num_gpu_blocks", "block_size"
        )
        self._prefix_queries = counter("prefix_cache_queries", "Prompt tokens looked up.")
        self._prefix_hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.")
        self._preemptions = counter("num_preemptions", "Replies that gave their slot back for a while.")
        self.crashes = counter("engine_crashes", "Engines that ended unasked.")
        # from the API server
        self._prompt_tokens = counter("prompt_tokens", "Prompt tokens of requests that began.")
        self._generation_tokens = counter("generation_tokens", "Tokens of replies.")
        self._success = counter("request_success", "Replies that ended, by reason.", "finished_reason")
        self.refused = counter("requests_refused", "Requests refused for lack of room.", "code")
        self.unknown_fields = counter("unknown_request_fields", "Fields the API does not know.")
        self._first_token = histogram("time_to_first_token_seconds", "From request to first token.", _SHORT)
        self._between = histogram("inter_token_latency_seconds", "Between two tokens of a reply.", _SHORT)
        self._of_tokens: dict[str, tuple[Counter, Histogram]] = {}
        self._end_to_end = histogram("e2e_request_latency_seconds", "From request to end.", _LONG)
        self._prompt_length = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._reply_length = histogram("request_generation_tokens", "Tokens of a reply.", _TOKENS)
        self.http = Counter(
            "chatsmith_http_requests",
            "HTTP requests, by path, method and status.",
            ("handler", "method", "status"),
            registry=registry,
        )

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)

    def model_ready(self, model: str, info: ModelInfo) -> None:
        """A model has been loaded. Its series exist from then on, at zero."""
        self._pool.labels(model, str(info.num_blocks), str(info.block_size)).set(1)
        for metric in (
            *(self._prefix_queries, self._prefix_hits, self._preemptions, self.crashes),
            *(self._prompt_tokens, self._generation_tokens, self.unknown_fields, self._first_token),
            *(self._between, self._end_to_end, self._prompt_length, self._reply_length),
        ):
            metric.labels(model)
        for reason in ("stop", "length", "tool_calls", "abort", "error"):
            self._success.labels(model, reason)

    def set_engines(self, model: str, ready: Sequence[EngineStats], num_blocks: int) -> None:
        """The state of a model's ready engines, each with a pool of `num_blocks`."""
        self._replicas.labels(model).set(len(ready))
        self._running.labels(model).set(sum(one.num_running for one in ready))
        self._waiting.labels(model).set(sum(one.num_waiting for one in ready))
        blocks = num_blocks * len(ready)
        used = blocks - sum(one.num_free_blocks for one in ready)
        self._kv_usage.labels(model).set(used / max(1, blocks))

    def engine_stepped(self, model: str, before: EngineStats, now: EngineStats) -> None:
        """One engine took a step."""
        self._prefix_queries.labels(model).inc(now.prefix_queries - before.prefix_queries)
        self._prefix_hits.labels(model).inc(now.prefix_hits - before.prefix_hits)
        self._preemptions.labels(model).inc(now.num_preemptions - before.num_preemptions)

    def reply_began(self, model: str, prompt_tokens: int, seconds: float) -> None:
        """A reply has its first token, this long after the request came."""
        self._prompt_tokens.labels(model).inc(prompt_tokens)
        self._prompt_length.labels(model).observe(prompt_tokens)
        self._first_token.labels(model).observe(seconds)

    def tokens_came(self, model: str, count: int, seconds: float | None) -> None:
        """A reply has `count` more tokens, this long after the ones before (None: the first)."""
        if model not in self._of_tokens:  # kept: to look them up takes as long as to count
            self._of_tokens[model] = self._generation_tokens.labels(model), self._between.labels(model)
        tokens, between = self._of_tokens[model]
        tokens.inc(count)
        if seconds is not None:
            between.observe(seconds)

    def reply_ended(self, model: str, reason: str, tokens: int, seconds: float) -> None:
        """A reply is over: finished, or `abort`ed because the client left."""
        self._success.labels(model, reason).inc()
        self._reply_length.labels(model).observe(tokens)
        self._end_to_end.labels(model).observe(seconds)
