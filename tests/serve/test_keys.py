"""Who may come in: keys by name, other origins, other machines, and what the log says of all that."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatsmith.cli.serve import Config, named_models
from chatsmith.runtime.errors import UserError
from chatsmith.serve.auth import ANONYMOUS, Keys, read_keys
from chatsmith.serve.errors import ApiError

KEY = "test-key-of-the-tests"
CAT = {"prompt": "the cat", "max_tokens": 1}


def test_names_and_keys_are_told_apart() -> None:
    keys = Keys(["alice=sk-alice-1", "sk-plain-key", "c29tZS1rZXk=", "bob=with=equals="])
    assert keys.name_of("Bearer sk-alice-1") == "alice"
    assert keys.name_of("bearer sk-plain-key") == "key-2"
    assert keys.name_of("Bearer c29tZS1rZXk=") == "key-3"
    assert keys.name_of("Bearer with=equals=") == "bob"
    for wrong in (
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic sk-alice-1",
        "sk-alice-1",
        "Bearer alice",
        "Bearer ä\udcff",
    ):
        with pytest.raises(ApiError) as caught:
            keys.name_of(wrong)
        assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert Keys().name_of(None) == ANONYMOUS


@pytest.mark.parametrize(
    "entries", [["short"], [""], ["a=with space here"], ["a=12345678", "a=87654321"], ["schlüssel-lang"]]
)
def test_keys_that_cannot_be_are_refused(entries: list[str]) -> None:
    with pytest.raises(UserError):
        Keys(entries)


def test_a_key_file_has_comments(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# who\nalice=sk-alice-1\n\n  sk-plain-key  \n")
    assert read_keys(file) == ["alice=sk-alice-1", "sk-plain-key"]
    file.write_text("# nobody\n")
    with pytest.raises(UserError, match="no key"):
        read_keys(file)


@pytest.fixture(scope="module")
def guarded(
    start_server: Callable[..., Any],
    roomy_bundle: Path,
    bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A server as others would reach it, with two models."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"alice={KEY}\n")
    flags = (
        *("--api-key-file", file, "--api-key", "bob=another-key-of-the-tests", "--max-per-key", 1),
        *("--cors-origins", "https://page.example", "--log-prompts", "--host", "0.0.0.0"),
        *("--trusted-proxy", "10.0.0.0/8", "127.0.0.1"),
    )
    server = start_server(roomy_bundle, "--name", "large", "--model", f"team/small={bundle}", *flags)
    return server.wait_until_ready()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


GUARDED = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/large"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/tokenizer_info"),
    ("GET", "/model_card"),
    ("GET", "/metrics"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("headers", [{}, bearer("wrong-key-of-nobody"), {"Authorization": KEY}])
def test_without_a_key_nobody_comes_in(guarded: Any, method: str, path: str, headers: dict[str, str]) -> None:
    answer = httpx.request(method, guarded.url + path, headers=headers)
    assert answer.status_code == 401
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/openapi.json"])
def test_what_needs_no_key(guarded: Any, path: str) -> None:
    assert httpx.get(guarded.url + path).status_code == 200


def test_the_log_knows_the_name_and_never_the_key(guarded: Any) -> None:
    answer = httpx.post(f"{guarded.url}/v1/completions", json={**CAT, "user": "u-1"}, headers=bearer(KEY))
    assert answer.status_code == 200
    line = guarded.line_of(answer)
    assert (line["key"], line["user"], line["model"], line["status"]) == ("alice", "u-1", "large", 200)
    assert line["request_id"] == answer.headers["x-request-id"]
    assert {"prompt_tokens", "completion_tokens", "ttft", "seconds", "finish"} <= line.keys()
    assert line["prompt"].endswith("the cat") and "reply" in line, "asked for by --log-prompts"
    assert KEY not in str(guarded.log) + guarded.said


def test_a_key_is_enough_whatever_the_host_is_called(guarded: Any) -> None:
    """A page that rebinds a name knows no key."""
    headers = {"Host": "any.example", **bearer(KEY)}
    assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200


def test_proxies_among_themselves_are_passed_over(guarded: Any) -> None:
    assert guarded.client_behind("1.2.3.4, 10.1.2.3", **bearer(KEY)) == "1.2.3.4"


def test_prompts_are_not_logged_unless_asked(server: Any) -> None:
    secret = "the dog sat on the mat"
    answer = httpx.post(f"{server.url}/v1/completions", json={"prompt": secret, "max_tokens": 1})
    assert server.line_of(answer) and secret not in str(server.log)


def test_other_machines_are_warned_of(guarded: Any, server: Any) -> None:
    assert "Warning" in guarded.said
    assert "Warning" not in server.said


def test_a_page_of_a_named_origin_may_use_it_and_no_other(guarded: Any, server: Any) -> None:
    ask = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    good = httpx.options(f"{guarded.url}/v1/completions", headers={"Origin": "https://page.example", **ask})
    assert good.status_code == 200, "OpenAI's client in a page sends headers of its own"
    assert good.headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-credentials" not in good.headers
    bad = httpx.options(f"{guarded.url}/v1/completions", headers={"Origin": "https://evil.example", **ask})
    assert "access-control-allow-origin" not in bad.headers
    closed = httpx.options(f"{server.url}/v1/completions", headers={"Origin": "https://page.example", **ask})
    assert closed.status_code == 405 and "access-control-allow-origin" not in closed.headers


def test_a_key_has_its_share_and_no_more(guarded: Any) -> None:
    body = {"prompt": "the cat", "max_tokens": 2000, "ignore_eos": True, "n": 8, "stream": True}
    with httpx.stream("POST", f"{guarded.url}/v1/completions", json=body, headers=bearer(KEY)) as stream:
        lines = stream.iter_lines()  # kept, or the connection would be closed with it
        next(lines)
        second = httpx.post(f"{guarded.url}/v1/completions", json=CAT, headers=bearer(KEY))
        other = httpx.post(
            f"{guarded.url}/v1/completions", json=CAT, headers=bearer("another-key-of-the-tests")
        )
    assert second.status_code == 429
    assert second.json()["error"]["code"] == "too_many_requests_per_key"
    assert 1 <= int(second.headers["retry-after"]) <= 60
    assert other.status_code == 200


def test_each_model_answers_under_its_name(guarded: Any) -> None:
    """Names may hold a slash, as those of others do."""

    def ask(**body: Any) -> Any:
        return httpx.post(f"{guarded.url}/v1/completions", json={**CAT, **body}, headers=bearer(KEY)).json()

    listed = httpx.get(f"{guarded.url}/v1/models", headers=bearer(KEY)).json()["data"]
    contexts = {card["id"]: card["chatsmith"]["context_length"] for card in listed}
    assert contexts == {"large": 2048, "team/small": 256}
    one = httpx.get(f"{guarded.url}/v1/models/team/small", headers=bearer(KEY)).json()
    assert one == listed[1]
    assert ask()["model"] == "large"
    assert ask(model="team/small")["model"] == "team/small"
    long = [1] * 300
    assert ask(model="team/small", prompt=long)["error"]["code"] == "context_length_exceeded"
    assert ask(model="large", prompt=long)["model"] == "large"
    info = httpx.get(f"{guarded.url}/tokenizer_info?model=team/small", headers=bearer(KEY)).json()
    assert info["model_max_length"] == 256


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({}, ["kindergarten"]),
        ({"run": Path("runs/mine")}, ["mine"]),
        ({"run": Path("runs/mine/sft/bundle")}, ["mine-sft"]),
        ({"run": Path("runs/mine/bundle")}, ["mine"]),
        ({"model": ("a=x", "b=y")}, ["a", "b"]),
        ({"model": ("a=x",), "run": Path("runs/mine")}, ["mine", "a"]),
        ({"model": ("a=x",), "name": "b"}, ["b", "a"]),
    ],
)
def test_models_have_the_names_of_their_folders_or_their_own(
    config: dict[str, Any], names: list[str]
) -> None:
    assert list(named_models(Config(**config))[0]) == names
