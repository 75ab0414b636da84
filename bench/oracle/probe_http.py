"""What the server answers: status, headers and body of some hundred requests, ids and times masked.

`chatsmith serve` on a tiny random model at a free loopback port, one request after the other over raw HTTP; then
another server with keys. Called as `probe_http.py RECIPE RESULT`, in an empty folder.
"""

import contextlib
import gzip
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import locations

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
CONTEXT = 1024
VOCAB = 100_000  # well beyond it
EXACT = ("--device", "cpu", "--dtype", "fp32", "--threads", "1", "--max-running", "8", "--kv-tokens", "8192")
KEY = "the-key-of-the-oracle"

Result = dict[str, Any]

MASKS = (
    (rb"(chatcmpl|cmpl|call|req)([-_])[0-9a-f]{8,}", rb"\1\2ID"),
    (rb"fp_[0-9a-f]+", rb"fp_ID"),  # a hash of the bundle's files
    (rb'"(created|started|loaded)":\s*[0-9.]+', rb'"\1":0'),
    (rb"127\.0\.0\.1:\d+", rb"127.0.0.1:PORT"),
)
UNSTABLE_HEADERS = {"date"}


def main() -> None:
    """Ask everything and write the answers."""
    locations.check_tree()
    text = "the cat sat on the mat; the dog sat on the cat. What is 1+1=2? hello äöü "
    tokenizer = locations.make_tokenizer([text * 3], 320)
    shape = {"vocab_size": tokenizer.vocab_size, "context_length": CONTEXT, "num_layers": 2, "num_heads": 2}
    locations.save_model(Path("tiny"), locations.make_model(**shape, head_dim=16, scale=0.4), tokenizer)
    result: Result = {}
    with server("tiny", *EXACT) as port:
        for name, (method, path, body, headers) in exchanges(tokenizer).items():
            result[name] = answer(port, method, path, body, headers)
        result["metrics"] = metrics(port)
    with server(
        "tiny", *EXACT, "--name", "named", "--api-key", f"me={KEY}", "--cors-origins", "https://a.org"
    ) as port:
        for name, (method, path, body, headers) in with_keys().items():
            result[name] = answer(port, method, path, body, headers)
    Path(sys.argv[2]).write_text(json.dumps(result, indent=1))


@contextlib.contextmanager
def server(*flags: str) -> Iterator[int]:
    """A server that is ready; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = Path(f"server-{port}.log")
    with log.open("wb") as said:
        command = [sys.executable, "-m", "chatsmith", "serve", *flags, "--port", str(port)]
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            wait_until_ready(process, port, log)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
    assert code == 0, f"the server ended with {code}: {log.read_text()[-3000:]}"


def wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Return once it takes work."""
    deadline = time.monotonic() + 600
    while True:
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            if ask(port, "GET", "/ready", None, {})[0] == 200:
                return
        time.sleep(0.1)


def ask(
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]
) -> tuple[int, Any, bytes]:
    """Status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.getheaders(), response.read()
    finally:
        connection.close()


def answer(port: int, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Result:
    """An answer as it is compared: masked, a line an entry, the openapi document as JSON."""
    status, found, content = ask(port, method, path, body, headers)
    shown = {
        name.lower(): masked(value.encode()) for name, value in found if name.lower() not in UNSTABLE_HEADERS
    }
    if path == "/openapi.json":
        shown.pop("content-length", None)
        return {"status": status, "headers": shown, "document": json.loads(content)}
    lines = masked(content).split("\n")
    if lines[0].startswith("data: "):
        # Several prompts are several jobs: which of them is a step ahead depends on when they arrive.
        lines = sorted(filter(None, lines), key=choice_of)
    return {"status": status, "headers": shown, "body": lines}


def choice_of(line: str) -> int:
    """The number of the choice that an event belongs to; the last events belong to none."""
    found = re.search(r'"index":(\d+)', line)
    return int(found[1]) if found else 1_000


def masked(content: bytes) -> str:
    """Without ids and times."""
    for pattern, name in MASKS:
        content = re.sub(pattern, name, content)
    return content.decode("utf-8", "backslashreplace")


def metrics(port: int) -> list[str]:
    """Names, labels and counts of the metrics, without times."""
    lines = ask(port, "GET", "/metrics", None, {})[2].decode().splitlines()
    # How often it was asked whether it is ready depends on how long it took to load.
    own = [line for line in lines if "chatsmith" in line and "/ready" not in line]
    return sorted(
        line.rpartition(" ")[0] if "seconds" in line or "_created" in line else line for line in own
    )


# ---- what is asked: name -> (method, path, body, headers) ----

Exchange = tuple[str, str, bytes | None, dict[str, str]]


def post(path: str, body: Any, **headers: str) -> Exchange:
    """JSON to be posted."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return "POST", path, content, {"Content-Type": "application/json", **headers}


def exchanges(tokenizer: Any) -> dict[str, Exchange]:
    """All that the server without keys is asked, in this order."""
    found = dict(plain_pages())
    for number, (path, body) in enumerate(right(tokenizer)):
        found[f"right {number} {path} {json.dumps(body)[:80]}"] = post(path, body)
    for number, (path, body) in enumerate(right(tokenizer)):
        if path in (CHAT, TEXT):
            streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
            found[f"stream {number} {path} {json.dumps(body)[:80]}"] = post(path, streamed)
    for number, (path, body) in enumerate(wrong()):
        found[f"wrong {number} {path} {json.dumps(body)[:80]}"] = post(path, body)
    for number, body in enumerate(RAW):
        found[f"raw {number} {body[:40]!r}"] = post(TEXT, body)
    found["gzip"] = post(TEXT, gzip.compress(json.dumps(CAT).encode()), **{"Content-Encoding": "gzip"})
    found["no json"] = ("POST", TEXT, b"prompt=a", {"Content-Type": "application/x-www-form-urlencoded"})
    found["too large"] = post(TEXT, b'{"prompt": "' + b"a" * (5 << 20) + b'"}')
    found["my id"] = post(TEXT, CAT, **{"X-Request-Id": "mine-1"})
    found["no id"] = post(TEXT, CAT, **{"X-Request-Id": "spaces are none"})
    return found


def plain_pages() -> Iterator[tuple[str, Exchange]]:
    """Pages and paths without a body. The chat page itself depends on what was built."""
    paths = ("/health", "/ready", "/v1/models", "/v1/models/tiny", "/v1/models/none", "/openapi.json")
    for path in (*paths, "/tokenizer_info", "/v1/nothing", "/docs", CHAT):
        yield f"GET {path}", ("GET", path, None, {})
    for method, path in (("DELETE", TEXT), ("OPTIONS", CHAT), ("HEAD", "/health"), ("PUT", "/v1/models")):
        yield f"{method} {path}", (method, path, None, {})


def with_keys() -> dict[str, Exchange]:
    """What the server with keys is asked."""
    right_key, wrong_key = {"Authorization": f"Bearer {KEY}"}, {"Authorization": "Bearer nonsense"}
    origin = {"Origin": "https://a.org", "Access-Control-Request-Method": "POST"}
    return {
        "keys: none": post(TEXT, CAT),
        "keys: wrong": post(TEXT, CAT, **wrong_key),
        "keys: no bearer": post(TEXT, CAT, Authorization=KEY),
        "keys: right": post(TEXT, {**CAT, "model": "named"}, **right_key),
        "keys: another model": post(TEXT, {**CAT, "model": "other"}, **right_key),
        "keys: models": ("GET", "/v1/models", None, right_key),
        "keys: models without": ("GET", "/v1/models", None, {}),
        "keys: health without": ("GET", "/health", None, {}),
        "keys: metrics without": ("GET", "/metrics", None, {}),
        "origin: allowed": ("OPTIONS", CHAT, None, origin),
        "origin: another": ("OPTIONS", CHAT, None, {**origin, "Origin": "https://b.org"}),
        "origin: answer": post(TEXT, CAT, Origin="https://a.org", **right_key),
    }


def user(content: Any = "hello", **more: Any) -> Result:
    return {"role": "user", "content": content, **more}


def assistant(content: Any = "hi", **more: Any) -> Result:
    return {"role": "assistant", "content": content, **more}


def chat(*messages: Any, **changes: Any) -> Result:
    return {"messages": list(messages) or [user()], "max_tokens": 12, "seed": 3, **changes}


def text(prompt: Any = "the cat", **changes: Any) -> Result:
    return {"prompt": prompt, "max_tokens": 12, "seed": 3, **changes}


CAT = {"prompt": "the cat", "max_tokens": 1, "seed": 1}
FUNCTION = {"name": "weather", "description": "Tell the weather.", "parameters": {"type": "object"}}
FUNCTION["parameters"] |= {
    "properties": {"city": {"enum": ["cat", "dog"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "cat"}'}}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
}
SCHEMA |= {"additionalProperties": False}


def right(tokenizer: Any) -> list[tuple[str, Result]]:
    """Requests that are answered."""
    special = tokenizer.special
    call = [special("<|python_start|>"), *tokenizer.encode("37+58")]
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    return [
        (CHAT, chat()),
        (CHAT, chat(temperature=0)),
        (CHAT, chat(n=3, temperature=0.8, top_p=0.9, top_k=30, min_p=0.01)),
        (CHAT, chat(logprobs=True, top_logprobs=3, temperature=0)),
        (CHAT, chat(logprobs=True, n=2)),
        (CHAT, chat({"role": "system", "content": "the cat"}, user(), assistant(), user("äöü 😀"))),
        (
            CHAT,
            chat({"role": "developer", "content": "x"}, {"role": "system", "content": "y"}, user(), user()),
        ),
        (CHAT, chat(user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]))),
        (CHAT, chat(user("<|assistant_end|><|bos|>"), user=None, stop=None, tools=None)),
        (CHAT, chat(stop=["e", "at"], max_tokens=60)),
        (CHAT, chat(max_completion_tokens=5, max_tokens=None)),
        (CHAT, chat(ignore_eos=True, min_tokens=8, return_token_ids=True)),
        (CHAT, chat(frequency_penalty=0.5, presence_penalty=-0.5, repetition_penalty=1.3)),
        (CHAT, chat(logit_bias={"5": -100, "6": 100})),
        (CHAT, chat(stop_token_ids=[6], logit_bias={"6": 100}, min_tokens=3)),
        (CHAT, chat(tools=[TOOL], tool_choice="required", max_tokens=80)),
        (
            CHAT,
            chat(
                tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=80
            ),
        ),
        (CHAT, chat(tools=[TOOL])),
        (CHAT, chat(tools=[TOOL], tool_choice="none")),
        (
            CHAT,
            chat(
                user(),
                assistant(None, tool_calls=[CALL]),
                {"role": "tool", "content": "warm", "tool_call_id": "call_1"},
            ),
        ),
        (CHAT, chat(response_format=schema, max_tokens=60)),
        (CHAT, chat(response_format=schema, max_tokens=60, n=2, temperature=1.5, logprobs=True)),
        (CHAT, chat(response_format={"type": "json_object"}, max_tokens=20)),
        (CHAT, chat(response_format={"type": "text"}, tool_choice="none", tools=[])),
        (
            CHAT,
            chat(assistant_prefix_ids=call, logit_bias={str(special("<|python_end|>")): 100}, max_tokens=8),
        ),
        (CHAT, chat(user(), assistant("the cat"), continue_final_message=True)),
        (CHAT, chat(max_tokens=10**9, temperature=0, ignore_eos=True)),
        (CHAT, chat(nonsense=1, store=False, metadata={}, modalities=["text"], service_tier="auto")),
        (TEXT, text()),
        (TEXT, text(["the cat", "the dog"], n=2)),
        (TEXT, text([[1, 2, 3], [4, 5]], logprobs=1)),
        (TEXT, text([5, 6, 7], temperature=0)),
        (TEXT, text(echo=True)),
        (TEXT, text(echo=True, logprobs=2, max_tokens=4)),
        (TEXT, text(echo=True, logprobs=0, max_tokens=0)),
        (TEXT, text([1] * (CONTEXT + 1), echo=True, max_tokens=0)),
        (TEXT, text(logprobs=5, temperature=0)),
        (TEXT, text(stop="e", max_tokens=40)),
        (TEXT, text(best_of=1, suffix="", user="me")),
        (TEXT, text(response_format=schema, max_tokens=40)),
        (TEXT, text("the cat sat on the mat; the dog sat on the cat. " * 2, temperature=0)),
        (TEXT, text("the cat sat on the mat; the dog sat on the cat. " * 2, temperature=0)),
        ("/tokenize", {"prompt": "<|bos|>hello äöü 😀<|assistant_end|>", "add_special_tokens": False}),
        ("/tokenize", {"prompt": ""}),
        ("/tokenize", {"messages": [user(), assistant(), user("the cat")]}),
        ("/tokenize", {"messages": [user()], "add_generation_prompt": False}),
        ("/detokenize", {"tokens": [5, 6, 7, 300]}),
        ("/detokenize", {"tokens": []}),
    ]


def wrong() -> list[tuple[str, Any]]:
    """Requests that are refused."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}
    nonsense = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}
    texts: list[Result] = [
        *({"temperature": "nan"}, {"max_tokens": True}, {"max_tokens": 5.0}, {"stream": 1}, {"model": 5}),
        *({"seed": 2**63}, {"max_tokens": 0}, {"logprobs": 21}, {"logprobs": -1}, {"stop": 5}, {"n": "2"}),
        *({"prompt": ""}, {"prompt": []}, {"prompt": [[]]}, {"prompt": ["a", 1]}, {"prompt": None}),
        *({"prompt": [VOCAB]}, {"prompt": [-1]}, {"prompt": [1] * CONTEXT}, {"prompt": "cat " * 5000}),
        *({"suffix": "the end"}, {"best_of": 2}, {"model": "other"}, {"prompt": [1] * 500, "n": 120}),
        {"prompt": [1] * CONTEXT, "stream": True},
    ]
    chats: list[Result] = [
        *({"temperature": -0.1}, {"temperature": 2.1}, {"top_p": 0}, {"frequency_penalty": 2.1}, {"n": 0}),
        *({"n": 129}, {"repetition_penalty": 0}, {"min_p": 2}, {"top_k": -2}, {"max_completion_tokens": 0}),
        *(
            {"max_completion_tokens": 7, "max_tokens": 5},
            {"top_logprobs": 2},
            {"logprobs": 3},
            {"stop": [""]},
        ),
        *({"logprobs": True, "top_logprobs": 21}, {"stop": ["a"] * 33}, {"logit_bias": {"1": 101}}),
        *({"logit_bias": {"one": 1}}, {"logit_bias": {str(VOCAB): 1}}, {"stop_token_ids": [VOCAB]}),
        *({"assistant_prefix_ids": [-1]}, {"messages": []}, {"messages": "hello"}, {"messages": ["hello"]}),
        *({"continue_final_message": True}, {"stream_options": {"include_usage": True}}),
        *(
            {"tools": [TOOL, TOOL]},
            {"tools": [tool]},
            {"tool_choice": "required"},
            {"functions": [{"name": "f"}]},
        ),
        *(
            {"tools": [TOOL], "tool_choice": "sometimes"},
            {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
        ),
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        *({"response_format": {"type": "xml"}}, {"response_format": "json"}, {"response_format": nonsense}),
        *(
            {"response_format": {"type": "json_schema"}},
            {"response_format": {"type": "json_object"}, "min_tokens": 2},
        ),
        *({"reasoning_effort": "high"}, {"audio": {"voice": "x"}}, {"store": True}, {"service_tier": "flex"}),
    ]
    said: list[list[Any]] = [
        [{"role": "king", "content": "hello"}],
        [{"content": "hello"}],
        [user(None)],
        [user([{"type": "image_url", "image_url": {"url": "x"}}])],
        [user(name="Ann")],
        [assistant(), user()],
        [user(), {"role": "system", "content": "x"}, user()],
        [user(), assistant()],
        [{"role": "system", "content": "x"}],
        [user(), {"role": "tool", "content": "x"}],
        [user(), {"role": "tool", "content": "x", "tool_call_id": "y"}],
        [user(), assistant(tool_calls=[CALL]), user()],
        [user("x" * 5000)],
        [user(), assistant(chatsmith={"parts": [{"kind": "output", "text": "x"}]}), user()],
    ]
    return [
        *((TEXT, {**CAT, **change}) for change in texts),
        *((CHAT, {"messages": [user()], "max_tokens": 1, **change}) for change in chats),
        *((CHAT, {"messages": messages, "max_tokens": 1}) for messages in said),
        *((CHAT, {}), (TEXT, {}), ("/tokenize", {}), ("/tokenize", {"prompt": "a", "messages": [user()]})),
        *(("/detokenize", {"tokens": [VOCAB]}), ("/detokenize", {"tokens": "a"})),
    ]


RAW = [
    *(b"", b"   ", b"{", b"[]", b"null", b'"text"', b'{"prompt": "\xff"}', b'\xef\xbb\xbf{"prompt": "a"}'),
    *(
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": 1e400}',
        b'{"prompt": "\\ud800"}',
    ),
    *(b'{"prompt": "a", "prompt": "b"}', b'{"prompt": "a", "seed": 1' + b"0" * 5000 + b"}"),
    b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


if __name__ == "__main__":
    main()
