"""Questions written by a model at an endpoint: what is kept of them, and what becomes of an endpoint that fails."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatsmith.adapt.passages import Passage
from chatsmith.adapt.questions import Question
from chatsmith.adapt.writer import KEY_VARIABLE, written_pairs
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError

pytest.importorskip("openai")

# Replies with what the passage holds after REPLY (in hexadecimals, so that the passage does not say it) and with the
# status that it names; notes each call in a file.
STUB = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Stub(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = body["messages"][-1]["content"]
        with open(sys.argv[1], "a") as calls:
            calls.write(json.dumps([self.path, self.headers["Authorization"], body["model"]]) + "\\n")
        status = said.partition("STATUS ")[2].partition(" ")[0] or "200"
        reply = bytes.fromhex(said.partition("REPLY ")[2]).decode()
        message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]}
        if status != "200":
            answer = {"error": {"message": "it is so", "code": reply, "type": "x", "param": None}}
        text = "<html>" if "HTML" in said else json.dumps(answer)
        self.send_response(int(status))
        self.send_header("Content-Type", "application/json" if "HTML" not in said else "text/html")
        self.end_headers()
        self.wfile.write(text.encode())
    def log_message(self, *_):
        pass
server = HTTPServer(("127.0.0.1", 0), Stub)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stub") / "calls"


@pytest.fixture(scope="module")
def url(calls: Path) -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", STUB, calls], stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdout is not None
        yield f"http://127.0.0.1:{stub.stdout.readline().strip()}/v1"
        stub.kill()


def passage(name: str, reply: str | list[dict[str, str]], status: int = 200) -> Passage:
    """A passage to which the stub replies so."""
    said = reply if isinstance(reply, str) else json.dumps({"pairs": reply})
    return Passage(name, "", f"The pump weighs three stones.\n\nSTATUS {status} REPLY {said.encode().hex()}")


def pair(question: str, answer: str) -> dict[str, str]:
    return {"question": question, "answer": answer}


def test_only_what_the_passage_says_is_kept_and_each_question_once(url, calls, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    monkeypatch.setenv("OPENAI_API_KEY", "not for others")
    good, weight = "How heavy is the pump?", "three stones"
    passages = [
        passage(
            "a", [pair(good, "three  stones"), pair("What does it weigh?", "nine stones"), pair("Now?", "")]
        ),
        passage(
            "b", [pair(good.upper(), weight), pair("Known?", weight), pair("Is it three stones?", weight)]
        ),
        passage("c", 'Certainly! {"pairs": [{"question": "What weighs?", "answer": "The pump"}]} Bye'),
        passage("d", "no JSON at all"),
        passage("e", '{"pairs": [{"question": 1}]}'),
        passage("f", "context_length_exceeded", 400),
    ]
    known, file = [Question("Known?", "yes", "z", "entry")], tmp_path / "written.json"
    found = written_pairs(passages, known, url, "m", file, Reporter())
    assert {(one.question.lower(), one.answer) for one in found} == {
        (good.lower(), weight),
        ("what weighs?", "The pump"),
    }
    assert {one.passage for one in found} <= {"a", "b", "c"} and all(one.form == "written" for one in found)
    assert "m wrote 7 questions about 6 passages; 2 are new" in capsys.readouterr().out
    asked = [json.loads(line) for line in calls.read_text().splitlines()]
    assert asked == [["/v1/chat/completions", "Bearer secret", "m"]] * 6
    again = written_pairs(passages, known, url, "m", file, Reporter(silent=True))
    assert again == found and len(calls.read_text().splitlines()) == 6  # nothing is asked twice


@pytest.mark.parametrize(
    ("reply", "status", "said"), [("", 401, "401"), ("", 404, "404"), ("HTML", 200, "no chat completion")]
)
def test_a_failing_endpoint_is_one_line_and_keeps_what_it_wrote(url, tmp_path, reply, status, said):
    file = tmp_path / "written.json"
    passages = [passage(f"{number}", [pair("How heavy?", "three stones")]) for number in range(9)]
    bad = passage("HTML" if reply else "bad", "", status)
    with pytest.raises(UserError, match=said) as raised:
        written_pairs([*passages, bad], [], url, "m", file, Reporter(silent=True))
    assert "\n" not in str(raised.value) and "the same command goes on" in str(raised.value)
    assert len(json.loads(file.read_bytes())) == 9
    assert len(written_pairs(passages, [], url, "m", file, Reporter(silent=True))) == 1


def test_no_endpoint_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("chatsmith.adapt.writer.RETRIES", 0)
    with pytest.raises(UserError, match="wrote no questions: Connection error"):
        written_pairs(
            [passage("a", "")], [], "http://127.0.0.1:9/v1", "m", tmp_path / "w.json", Reporter(silent=True)
        )
