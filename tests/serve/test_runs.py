"""The training page's data: behind the same keys and Host check as the API; who is told of what; not for a bundle."""

import asyncio
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from chatsmith.cli.serve import Config, make_service, open_page
from chatsmith.report.watch import WatchedRuns
from chatsmith.runtime.console import Reporter
from chatsmith.serve.app import create_app
from chatsmith.serve.auth import HostNames, Keys
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.models import Service
from chatsmith.serve.runs import STOPPED_LOOKS, Runs, send

KEY = "test-key-of-the-tests"
DATA = ("/runs/list", "/runs/data?run=mine", "/runs/report?run=mine")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "recipe.toml").write_text('name = "mine"\nstages = ["pretrain"]\n')
    (folder / "metrics.jsonl").write_text(
        '{"stage": "pretrain", "step": 3, "time": 5, "loss": 2.5, "seconds": 9}\n'
    )
    (folder / "report.html").write_text("<!doctype html><p>report")
    (tmp_path / "secret").mkdir()
    return folder


def client_of(run: Path, *keys: str, notify: str = "") -> TestClient:
    runs = Runs(WatchedRuns([run]), {}, notify)
    service = Service({}, Keys(keys), Metrics(), 1024, 5.0, runs=runs)
    return TestClient(create_app(service, HostNames("127.0.0.1")), base_url="http://localhost")


def test_a_run_is_listed_and_read(run: Path) -> None:
    client = client_of(run)
    assert [one["name"] for one in client.get("/runs/list").json()["runs"]] == ["mine"]
    found = client.get("/runs/data", params={"run": "mine"}).json()
    assert found["rows"][0]["loss"] == 2.5 and found["state"]["step"] == 3 and found["models"] == {}
    again = client.get(
        "/runs/data", params={"run": "mine", "since": found["cursor"], "version": found["version"]}
    )
    assert again.json()["rows"] == [] and again.json()["details"] is None
    assert "report" in client.get("/runs/report?run=mine").text


@pytest.mark.parametrize("path", DATA)
def test_it_takes_the_key_and_the_right_host(run: Path, path: str) -> None:
    client = client_of(run, KEY)
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"Authorization": "Bearer wrong-key"}).status_code == 401
    assert client.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    evil = client_of(run).get(path, headers={"Host": "evil.example"})
    assert evil.status_code == 403 and evil.json()["error"]["code"] == "host_not_allowed"


def test_page_and_report_have_the_policy(run: Path) -> None:
    client = client_of(run)
    for path in ("/runs", "/runs/report?run=mine"):
        assert "script-src 'self'" in client.get(path).headers["content-security-policy"]
    away = client.get("/", follow_redirects=False)
    assert away.status_code == 307 and away.headers["location"] == "runs"


@pytest.mark.parametrize("name", ["no", "../secret", "secret", "/etc", "mine/../mine", "%2e%2e", ""])
def test_no_other_run_and_no_other_file(run: Path, name: str) -> None:
    for path in ("/runs/data", "/runs/report"):
        assert client_of(run).get(path, params={"run": name}).status_code == 404


def test_without_a_model_the_rest_of_the_api_says_so(run: Path) -> None:
    client = client_of(run)
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/v1/models").json()["data"] == []
    answer = client.post("/v1/completions", json={"prompt": "a"})
    assert answer.status_code == 404 and "has: none" in answer.json()["error"]["message"]


def test_serve_shows_a_run_and_no_bundle(tiny_run: Path) -> None:
    def service(path: Path) -> Service:
        async def make() -> Service:
            return make_service(Config(run=path), Keys())

        return asyncio.run(make())

    assert service(tiny_run).runs is not None
    alone = service(tiny_run / "sft" / "bundle")
    assert alone.runs is None
    app = create_app(alone, HostNames("127.0.0.1"))
    assert {
        TestClient(app, base_url="http://localhost").get(path).status_code for path in ("/runs", *DATA)
    } == {404}


# ---- telling ----


def events_of(runs: Runs) -> list[tuple[str, str]]:
    return [(event["event"], event["text"]) for event in runs._events()]


def test_who_is_told_of_what(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [True]
    monkeypatch.setattr("chatsmith.report.watch.is_locked", lambda path: held[0])
    monkeypatch.setattr("chatsmith.report.watch.LEAST_FREE", 0)
    runs = Runs(WatchedRuns([run]), {})
    (run / "metrics.jsonl").write_text(
        '{"stage": "pretrain", "step": 3, "time": 5, "loss": 2.5, "seconds": 9}\n'
    )
    first = events_of(runs)
    assert [what for what, _ in first] == ["alarm"] and "No step for" in first[0][1]
    assert events_of(runs) == []
    held[0] = False
    looks = [events_of(runs) for _ in range(STOPPED_LOOKS + 3)]
    assert [len(look) for look in looks] == [0] * (STOPPED_LOOKS - 1) + [1] + [0] * 3
    assert looks[STOPPED_LOOKS - 1][0][0] == "failed" and "pretrain, step 3" in looks[STOPPED_LOOKS - 1][0][1]
    held[0] = True
    events_of(runs)
    (run / "pretrain").mkdir()
    done = {"key": "k", "finished_at": 10.0, "facts": {"seconds": 9.0}}
    (run / "pretrain" / "done.json").write_text(json.dumps(done))
    held[0] = False
    assert events_of(runs) == [("ended", "mine: done")]
    assert events_of(runs) == []


def test_a_command_is_told(tmp_path: Path) -> None:
    event = {"event": "ended", "run": "mine", "text": "mine: done; $(touch evil)"}
    send(f'cd {tmp_path}; cat > said; echo "$RUN_EVENT $RUN_NAME" >> said', event)
    assert (tmp_path / "said").read_text() == "mine: done; $(touch evil)\nended mine\n"
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


def test_an_address_is_told() -> None:
    bodies: list[dict] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        send(f"http://127.0.0.1:{server.server_port}/hook", {"event": "alarm", "run": "a", "text": "b"})
    assert bodies == [{"event": "alarm", "run": "a", "text": "b"}]


def test_a_run_opens_its_page_if_it_is_to(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    opened: list[str] = []
    ending: list[Callable[[], None]] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("atexit.register", ending.append)
    open_page(run, Reporter())
    assert opened == ["http://127.0.0.1:8001/runs"] and opened[0] in capsys.readouterr().out
    ending[0]()
