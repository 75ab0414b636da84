"""/metrics counts what happened, under vLLM's names with our prefix."""

from typing import Any

import httpx

# vLLM 0.33's names, `vllm:` replaced.
NAMES = [
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "num_preemptions_total",
    "prompt_tokens_total",
    "generation_tokens_total",
    "request_success_total",
    "time_to_first_token_seconds_count",
    "inter_token_latency_seconds_count",
    "e2e_request_latency_seconds_count",
    "request_prompt_tokens_count",
    "request_generation_tokens_count",
    "cache_config_info",
]


def test_metrics_have_the_names_dashboards_know(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    missing = [name for name in NAMES if f"\nchatsmith_{name}{{" not in text]
    assert missing == []
    assert 'model_name="tiny"' in text
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")


def test_metrics_count(server: Any, client: httpx.Client) -> None:
    names = [
        "chatsmith_prompt_tokens_total",
        "chatsmith_generation_tokens_total",
        "chatsmith_time_to_first_token_seconds_count",
        "chatsmith_inter_token_latency_seconds_count",
        "chatsmith_e2e_request_latency_seconds_count",
        "chatsmith_prefix_cache_queries_total",
    ]
    before = [server.metric(name) for name in names]
    finished = server.metric("chatsmith_request_success_total", finished_reason="length")
    body = {"prompt": [7] * 20, "max_tokens": 5, "ignore_eos": True, "n": 2}
    assert client.post("/v1/completions", json=body).status_code == 200
    grown = [server.metric(name) - old for name, old in zip(names, before, strict=True)]
    # Both replies are to one prompt, which is looked up once.
    assert grown == [40, 10, 2, 8, 2, 20]
    assert server.metric("chatsmith_request_success_total", finished_reason="length") == finished + 2
    assert server.metric("chatsmith_http_requests_total", handler="/v1/completions", status="200") >= 1


def test_what_clients_choose_makes_no_new_series(server: Any, client: httpx.Client) -> None:
    for path in ("/v1/aaa", "/v1/bbb", "/%F0%9F%98%80"):
        client.get(path)
    text = client.get("/metrics").text
    assert "aaa" not in text and 'handler="unmatched"' in text
