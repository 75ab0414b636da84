"""A server of which a part is down still takes work and says so; and whose address the log shows behind a proxy."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatsmith.cli.serve import Config
from chatsmith.runtime.errors import UserError

CAT = {"prompt": "the cat", "max_tokens": 1}
Start = Callable[..., Any]


def kill(server: Any, place: int) -> None:
    """End the engine that was ready first, second, …, and again whenever it comes back, until the test is over."""
    os.kill(server.events("engine_ready")[place]["pid"], signal.SIGKILL)
    server.wait_for("engine_crashed")


def test_one_of_two_models_is_enough_to_be_ready(
    start_server: Start, bundle: Path, roomy_bundle: Path
) -> None:
    server = start_server("--model", f"a={bundle}", f"b={roomy_bundle}").wait_until_ready()
    [dead] = [place for place, line in enumerate(server.events("engine_ready")) if line["model"] == "a"]
    with server.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        kill(server, dead)
        assert client.post("/v1/completions", json={**CAT, "model": "b"}).status_code == 200
        refused = client.post("/v1/completions", json={**CAT, "model": "a"})
        answers = client.get("/ready"), client.get("/health")
        if refused.status_code == 503:  # or else the engine is back already
            assert refused.json()["error"]["code"] == "engine_restarting"
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[1].json()["status"] in ("degraded", "ok")
        server.wait_for("engine_ready", count=3)
        assert client.get("/health").json() == {"status": "ok"}


def test_one_of_two_replicas_is_enough_to_be_healthy(start_server: Start, bundle: Path) -> None:
    server = start_server(bundle, "--replicas", 2).wait_until_ready()
    with server.client() as client:
        kill(server, 0)
        assert [client.get(path).status_code for path in ("/ready", "/health")] == [200, 200]


def test_no_engine_at_all_is_neither(start_server: Start, bundle: Path) -> None:
    server = start_server("--model", f"a={bundle}", f"b={bundle}").wait_until_ready()
    for line in server.events("engine_ready"):
        os.kill(line["pid"], signal.SIGKILL)
    server.wait_for("engine_crashed", count=2)
    with server.client() as client:
        answers = client.get("/ready"), client.get("/health")
        codes = [answer.json().get("error", {}).get("code") for answer in answers]
        assert codes == ["engine_restarting", "engine_dead"]


def client_of(server: Any, forwarded: str) -> str:
    """The client in the log of a request with this X-Forwarded-For."""
    with server.client() as client:
        return server.line_of(client.get("/v1/models", headers={"X-Forwarded-For": forwarded}))["client"]


def test_a_proxy_on_this_machine_is_believed(server: Any) -> None:
    assert client_of(server, "1.2.3.4") == "1.2.3.4"
    assert client_of(server, "9.9.9.9, 1.2.3.4") == "1.2.3.4", "what a client writes itself stands before"


def test_only_the_named_proxies_are_believed(start_server: Start, bundle: Path) -> None:
    server = start_server(bundle, "--trusted-proxy", "10.0.0.0/8", "fd00::1").wait_until_ready()
    assert client_of(server, "1.2.3.4") == "127.0.0.1"


def test_proxies_among_themselves_are_passed_over(start_server: Start, bundle: Path) -> None:
    server = start_server(bundle, "--trusted-proxy", "10.0.0.0/8", "127.0.0.1").wait_until_ready()
    assert client_of(server, "1.2.3.4, 10.1.2.3") == "1.2.3.4"


@pytest.mark.parametrize("proxy", ["proxy.example", "10.0.0.0/99", "", "1.2.3"])
def test_what_is_no_address_is_one_line(proxy: str) -> None:
    with pytest.raises(UserError, match="no address and no network"):
        Config(trusted_proxy=(proxy,))
