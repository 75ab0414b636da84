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


def test_one_of_two_models_is_enough_to_be_ready_and_none_is_not(
    start_server: Start, bundle: Path, roomy_bundle: Path
) -> None:
    server = start_server("--model", f"a={bundle}", f"b={roomy_bundle}").wait_until_ready()
    engines = {line["model"]: line["pid"] for line in server.events("engine_ready")}
    with server.client() as client:
        assert client.get("/health").json() == {"status": "ok"}
        os.kill(engines["a"], signal.SIGKILL)
        server.wait_for("engine_crashed")
        assert client.post("/v1/completions", json={**CAT, "model": "b"}).status_code == 200
        refused = client.post("/v1/completions", json={**CAT, "model": "a"})
        answers = client.get("/ready"), client.get("/health")
        if refused.status_code == 503:  # or else the engine is back already
            assert refused.json()["error"]["code"] == "engine_restarting"
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[1].json()["status"] in ("degraded", "ok")
        server.wait_for("engine_ready", count=3)
        assert client.get("/health").json() == {"status": "ok"}
        engines = {line["model"]: line["pid"] for line in server.events("engine_ready")}
        for engine in engines.values():
            os.kill(engine, signal.SIGKILL)
        server.wait_for("engine_crashed", count=3)
        answers = client.get("/ready"), client.get("/health")
        codes = [answer.json().get("error", {}).get("code") for answer in answers]
        assert codes == ["engine_restarting", "engine_dead"]


def test_a_proxy_on_this_machine_is_believed(server: Any) -> None:
    assert server.client_behind("1.2.3.4") == "1.2.3.4"
    assert server.client_behind("9.9.9.9, 1.2.3.4") == "1.2.3.4", "what a client writes itself stands before"


@pytest.mark.parametrize("proxy", ["proxy.example", "10.0.0.0/99", "", "1.2.3"])
def test_what_is_no_address_is_one_line(proxy: str) -> None:
    with pytest.raises(UserError, match="no address and no network"):
        Config(trusted_proxy=(proxy,))
