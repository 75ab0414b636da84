"""Disconnects, draining, crashes, loading: nobody is served in silence, and nothing is left behind."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatsmith.cli.main import main as command

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
LONG = {"messages": HELLO, "max_tokens": 2000, "ignore_eos": True}
"""Longer than any of these tests waits, with the roomy model."""

Start = Callable[..., Any]


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def was_ended(events: list[Any]) -> bool:
    """Did the stream end with a finish reason and [DONE], or with an error?"""
    if events[-1] == "[DONE]":
        return any(choice["finish_reason"] for chunk in events[:-1] for choice in chunk["choices"])
    return "error" in events[-1]


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_frees_everything_at_once(roomy_server: Any, stream: bool) -> None:
    aborted = roomy_server.metric("chatsmith_request_success_total", finished_reason="abort")
    body = json.dumps({**LONG, "stream": stream, "n": 3}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(roomy_server.address) as connection:
        connection.sendall(head.encode() + body)
        roomy_server.until(lambda: roomy_server.metric("chatsmith_num_requests_running") == 3)
        assert roomy_server.metric("chatsmith_kv_cache_usage_perc") > 0
    roomy_server.wait_until_idle()
    roomy_server.until(
        lambda: any(line.get("finish") == "abort,abort,abort" for line in roomy_server.events("request"))
    )
    assert roomy_server.events("request")[-1]["status"] == 499
    assert roomy_server.metric("chatsmith_request_success_total", finished_reason="abort") == aborted + 3


def test_leaving_the_queue_frees_the_place(roomy_server: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(roomy_server.chat_events, {**LONG, "max_tokens": 400}) for _ in range(4)]
        roomy_server.until(lambda: roomy_server.metric("chatsmith_num_requests_running") == 4)
        with roomy_server.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=LONG, timeout=httpx.Timeout(60, read=0.2))
        assert all(was_ended(one.result()) for one in running)
    roomy_server.wait_until_idle()


def test_health_answers_while_the_engine_is_busy(roomy_server: Any) -> None:
    """Engine and front share no interpreter; a hundred long prompts are tokenized meanwhile, too."""
    with ThreadPoolExecutor(12) as pool, roomy_server.client() as client:
        streams = [pool.submit(roomy_server.chat_events, {**LONG, "max_tokens": 300}) for _ in range(8)]
        too_long = {"messages": [{"role": "user", "content": "the cat sat on " * 20_000}]}
        refused = [
            pool.submit(httpx.post, roomy_server.url + CHAT, json=too_long, timeout=60) for _ in range(4)
        ]
        while not all(one.done() for one in (*streams, *refused)):
            assert client.get("/health").status_code == 200
        assert all(was_ended(one.result()) for one in streams)
        assert {one.result().json()["error"]["code"] for one in refused} == {"context_length_exceeded"}


def test_a_killed_engine_is_told_and_restarted(roomy_server: Any) -> None:
    server = roomy_server
    began = threading.Event()
    with ThreadPoolExecutor(2) as pool, server.client() as client:
        stream = pool.submit(server.chat_events, LONG, began)
        plain = pool.submit(client.post, CHAT, json=LONG)
        assert began.wait(120)
        server.until(lambda: server.metric("chatsmith_num_requests_running") == 2)
        first = server.worker
        os.kill(first, signal.SIGKILL)
        assert stream.result()[-1]["error"]["code"] == "engine_crashed"
        answer = plain.result()
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "engine_crashed"
        assert int(answer.headers["retry-after"]) >= 1
        red = client.get("/health")
        assert red.status_code == 503 and red.json()["error"]["code"] == "engine_dead"
        waiting = client.post(CHAT, json=LONG)
        assert waiting.status_code == 503 and waiting.json()["error"]["code"] == "engine_restarting"
        assert int(waiting.headers["retry-after"]) >= 1
        assert client.get("/ready").status_code == 503
        server.wait_for("engine_ready", count=2)
        assert server.worker != first
        assert client.get("/health").status_code == 200
        again = client.post(CHAT, json={**LONG, "max_tokens": 3})
        assert again.status_code == 200
    assert server.metric("chatsmith_engine_crashes_total") == 1
    server.wait_until_idle()


def test_draining_finishes_what_runs_and_refuses_what_is_new(start_server: Start, roomy_bundle: Path) -> None:
    """The soak in small: SIGTERM among a dozen streams, and not one of them ends in silence."""
    server = start_server(roomy_bundle, "--max-running", 6, "--drain-seconds", 60).wait_until_ready()
    began = threading.Event()
    with ThreadPoolExecutor(16) as pool, server.client() as client:
        wanted = [100 + 30 * number for number in range(12)]
        streams = [pool.submit(server.chat_events, {**LONG, "max_tokens": n}, began) for n in wanted]
        plain = pool.submit(client.post, CHAT, json={**LONG, "max_tokens": 300})
        assert began.wait(120)
        server.until(lambda: server.metric("chatsmith_num_requests_waiting") > 0)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        refused = client.post(CHAT, json=LONG)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "draining"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert client.get("/ready").status_code == 503
        assert client.get("/health").json() == {"status": "draining"}
        for stream in streams:
            events = stream.result()
            assert events[-1] == "[DONE]" and was_ended(events)
        assert plain.result().json()["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(120) == 0
    server.until(lambda: is_gone(server.worker))


def check_loading(url: str) -> None:
    """While it loads it says so."""
    with httpx.Client(base_url=url) as client:
        assert client.get("/health").json() == {"status": "loading"}
        for answer in (client.get("/ready"), client.post(CHAT, json=LONG), client.get("/v1/models")):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "loading"
            assert int(answer.headers["retry-after"]) >= 1


def test_what_is_not_finished_in_time_ends_with_an_error(start_server: Start, roomy_bundle: Path) -> None:
    server = start_server(roomy_bundle, "--drain-seconds", 0.3)
    check_loading(server.wait_for("listening")["url"])
    server.wait_until_ready()
    began = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        stream = pool.submit(server.chat_events, {**LONG, "n": 8}, began)
        plain = pool.submit(httpx.post, server.url + CHAT, json={**LONG, "n": 8}, timeout=60)
        assert began.wait(120)
        server.until(lambda: server.metric("chatsmith_num_requests_running") == 16)
        server.process.send_signal(signal.SIGTERM)
        assert stream.result()[-1]["error"]["code"] == "shutdown"
        answer = plain.result()
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "shutdown"
    assert server.process.wait(120) == 0


def test_one_of_two_replicas_is_enough_and_none_outlives_the_front(
    start_server: Start, roomy_bundle: Path
) -> None:
    server = start_server(roomy_bundle, "--replicas", 2, "--max-running", 2).wait_until_ready()
    workers = [line["pid"] for line in server.events("engine_ready")]
    with server.client() as client, ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(server.chat_events, {**LONG, "max_tokens": 400}) for _ in range(4)]
        # Two run on each: a request goes where fewest are open.
        server.until(lambda: server.metric("chatsmith_num_requests_running") == 4)
        assert server.metric("chatsmith_engine_replicas_ready") == 2
        os.kill(workers[0], signal.SIGKILL)
        ends = [stream.result()[-1] for stream in streams]
        assert sum(end == "[DONE]" for end in ends) == 2
        assert client.post(CHAT, json={**LONG, "max_tokens": 2}).status_code == 200
        assert [client.get(path).status_code for path in ("/ready", "/health")] == [200, 200]
    server.process.kill()
    server.until(lambda: is_gone(workers[1]))


def test_a_model_that_cannot_be_loaded_is_one_line(start_server: Start, tmp_path: Path) -> None:
    server = start_server(tmp_path / "none")
    assert server.process.wait(120) == 2
    assert server.stop() == 2
    assert "does not exist" in server.said.splitlines()[-1]
    assert "Traceback" not in server.said


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--model", "a"], "NAME=PATH"),
        (["--model", "a=x", "a=x"], "two models"),
        (["--model", "a b=x"], "cannot be the name"),
        (["x", "--api-key", "short"], "API key"),
        (["x", "--api-key-file", "no-such-file"], "cannot be read"),
        (["x", "--port", "70000"], "--port"),
        (["x", "--port", "0", "--host", "nowhere.invalid"], "cannot listen"),
        (["x", "--replicas", "0"], "--replicas"),
        (["x", "--queue-seconds", "nan"], "--queue-seconds"),
    ],
)
def test_what_cannot_be_set_is_one_line(
    argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["serve", *argv], {}) == 2
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_a_port_that_is_taken_is_one_line(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["serve", "x", "--port", str(server.address[1])], {}) == 2
    assert "--port" in capsys.readouterr().err
