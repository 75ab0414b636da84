"""The web chat under load: how soon it can be used, and how smooth typing is while a long reply streams in.

    python bench/web_chat/run.py [--tokens 5000] [--rate 100] [--seconds 10] [--trace trace.json]

serves the built page (make web) from this process, together with a stand-in for the model that streams Markdown at an
exact rate, with log-probabilities and alternatives as the real server sends them. A conversation of so many tokens is
imported first; then someone types while a reply comes in. Prints one JSON object:

- `first_load_bytes`: what a first visit transfers, compressed; `interactive_ms`: until the field can be typed into.
- `keystroke_ms`: from each key to the frame that shows it (the browser's Event Timing; it counts in steps of 8 ms).
- `long_tasks`: how often, and for how long, the page was busy for more than 50 ms at a stretch.
- `trace`, with `--trace FILE` only: from what Chromium recorded while typing went on, the frames it drew, how busy the
  page's thread was, and its longest task. The file opens in Chromium's performance panel. Recording slows it down.

It measures the page, not the model.
"""

import argparse
import gzip
import json
import mimetypes
import shutil
import statistics
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[2] / "chatsmith" / "serve" / "static"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:"
)
CONTEXT = 1 << 20
TEXT = (
    "## Section\n\nThe quick *brown* fox jumps over the **lazy** dog, again and again, since it is `measured`.\n\n"
    "| n | square |\n|--:|--:|\n| 1 | 1 |\n| 2 | 4 |\n\n"
    "```python\ndef square(n: int) -> int:\n    return n * n\n```\n\n- one\n- two\n- three\n\nSo $n^2$ it is.\n\n"
)
TYPED = "typing goes on while the reply comes in and it should feel as if nothing else happened at all "


def pieces() -> list[str]:
    """The text as tokens: runs of a few characters."""
    return [TEXT[start : start + 4] for start in range(0, len(TEXT), 4)]


def token(text: str, id: int) -> dict[str, Any]:
    """An entry of log-probabilities, as large as the server's."""
    choice = {"token": text, "bytes": list(text.encode()), "logprob": -0.7, "id": id}
    return {
        **choice,
        "top_logprobs": [{**choice, "id": id + other, "logprob": -1.0 - other} for other in range(8)],
    }


class Handler(BaseHTTPRequestHandler):
    """The page, and a model that says TEXT over and over at `rate` tokens a second for `seconds`."""

    rate = 100.0
    seconds = 10.0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            facts = {"context_length": CONTEXT, "vocab_size": 2048, "num_parameters": 6_000_000, "tools": []}
            defaults = {"temperature": 1, "top_p": 1, "top_k": 0, "min_p": 0, "max_tokens": None}
            self._send(
                json.dumps({"data": [{"id": "model", "chatsmith": {**facts, "defaults": defaults}}]}).encode()
            )
            return
        file = STATIC / (self.path.lstrip("/") or "index.html")
        if not file.is_file():
            self.send_error(404)
            return
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._send(gzip.compress(file.read_bytes()), kind, "gzip")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        texts, start = pieces(), time.monotonic()
        for number in range(int(self.rate * self.seconds)):
            time.sleep(max(0.0, start + number / self.rate - time.monotonic()))
            text = texts[number % len(texts)]
            usage = {"prompt_tokens": 5_000, "completion_tokens": number + 1}
            choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [token(text, number)]}}
            self._event(
                {"choices": [{**choice, "token_ids": [number], "finish_reason": None}], "usage": usage}
            )
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: stdout is for the result."""

    def _event(self, content: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(content).encode() + b"\n\n")
        self.wfile.flush()

    def _send(self, body: bytes, kind: str = "application/json", encoding: str = "identity") -> None:
        self.send_response(200)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Encoding", encoding),
            ("Content-Length", len(body)),
        ):
            self.send_header(name, str(value))
        self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(body)


def conversation(num_tokens: int) -> str:
    """An export of a conversation that long, with its tokens, in replies of 500."""
    messages: list[dict[str, Any]] = []
    texts = pieces()
    for turn in range(max(1, num_tokens // 500)):
        said = [texts[number % len(texts)] for number in range(500)]
        tokens = [
            {"ids": [number], "text": text, "logprob": -0.7, "origin": "sampled"}
            | {"alternatives": [{"id": other, "text": text, "logprob": -1.0} for other in range(8)]}
            for number, text in enumerate(said)
        ]
        parent = messages[-1]["id"] if messages else None
        question = {
            "role": "user",
            "id": f"q{turn}",
            "parent": parent,
            "createdAt": 2 * turn,
            "text": "Go on.",
        }
        reply = {"role": "assistant", "id": f"r{turn}", "parent": f"q{turn}", "createdAt": 2 * turn + 1}
        parts = [{"kind": "text", "text": "".join(said)}]
        messages += [question, {**reply, "parts": parts, "tokens": tokens, "state": "done", "model": "model"}]
    whole = {"conversation": {"title": "Long", "settings": {}, "chosen": {}}, "messages": messages}
    return json.dumps({"format": "chatsmith-conversations", "version": 1, "conversations": [whole]})


def measure(page: Any, address: str, num_tokens: int, seconds: float) -> dict[str, Any]:
    """Visit, import, ask, and type until the reply is over."""
    loaded: list[int] = []
    page.on("response", lambda response: loaded.append(int(response.headers.get("content-length", 0))))
    started = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.locator("#message:focus").wait_for()
    interactive = 1000 * (time.perf_counter() - started)
    first_load = sum(loaded)
    page.evaluate("""() => {
        window.keys = []; window.tasks = [];
        const watch = (type, into, more) => new PerformanceObserver((list) => into.push(
          ...list.getEntries().filter((entry) => type !== "event" || entry.name === "keydown").map((e) => e.duration)
        )).observe({ type, ...more });
        watch("event", keys, { durationThreshold: 16 });
        watch("longtask", tasks, {});
    }""")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "long.json"
        file.write_text(conversation(num_tokens))
        page.get_by_role("button", name="All conversations").click()
        with page.expect_file_chooser() as chooser:
            page.get_by_role("menuitem", name="Import from files").click()
        chooser.value.set_files(file)
        page.locator(".reply").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1500)
    page.evaluate("keys.length = tasks.length = 0")
    field = page.locator("#message")
    field.fill("Go on.")
    field.press("Enter")
    page.evaluate("performance.mark('typing-begins')")
    until, typed = time.monotonic() + seconds, 0
    while time.monotonic() < until - 0.5:
        page.keyboard.press(TYPED[typed % len(TYPED)] if TYPED[typed % len(TYPED)] != " " else "Space")
        typed += 1
        page.wait_for_timeout(60)
    page.evaluate("performance.mark('typing-ends')")
    page.wait_for_timeout(500)
    slow, tasks = page.evaluate("[keys, tasks]")
    # Event Timing reports only what took 16 ms or more.
    keys = sorted([*slow, *[8] * max(0, typed - len(slow))])
    return {
        "first_load_bytes": first_load,
        "interactive_ms": round(interactive),
        "tokens_before": num_tokens,
        "keystrokes": typed,
        "keystroke_ms": {
            "median": statistics.median(keys),
            "p95": keys[int(0.95 * (len(keys) - 1))],
            "worst": keys[-1],
        },
        "long_tasks": {
            "count": len(tasks),
            "total_ms": round(sum(tasks)),
            "worst_ms": round(max(tasks, default=0)),
        },
    }


def summary(trace: Path) -> dict[str, Any]:
    """Of the time between the two marks that `measure` sets: frames, and work of the thread that the page runs on."""
    events = json.loads(trace.read_text())["traceEvents"]
    (begin,) = (event for event in events if event["name"] == "typing-begins")
    (end,) = (event for event in events if event["name"] == "typing-ends")
    inside = [
        event for event in events if begin["ts"] <= event["ts"] <= end["ts"] and event["pid"] == begin["pid"]
    ]
    own = [event for event in inside if event["tid"] == begin["tid"] and event["ph"] == "X"]
    tasks = [event["dur"] / 1000 for event in own if event["name"] == "RunTask"]
    seconds = (end["ts"] - begin["ts"]) / 1e6
    return {
        "seconds": round(seconds, 1),
        "frames_per_second": round(sum(event["name"] == "DrawFrame" for event in inside) / seconds, 1),
        "busy_percent": round(sum(tasks) / seconds / 10, 1),
        "longest_task_ms": round(max(tasks), 1),
        "tasks_over_16_ms": sum(task > 16 for task in tasks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=5_000, help="length of the conversation before")
    parser.add_argument("--rate", type=float, default=100.0, help="tokens a second of the reply")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the reply takes")
    parser.add_argument("--trace", type=Path, help="keep Chromium's trace in this file")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    Handler.rate, Handler.seconds = arguments.rate, arguments.seconds
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        system = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=None if own.is_file() else system)
        page = browser.new_page(service_workers="block")
        if arguments.trace:
            browser.start_tracing(page=page, path=arguments.trace)
        address = f"http://127.0.0.1:{server.server_port}/"
        result = measure(page, address, arguments.tokens, arguments.seconds)
        if arguments.trace:
            browser.stop_tracing()
            result["trace"] = summary(arguments.trace)
        browser.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
