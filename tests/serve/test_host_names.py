"""The Host header of a server without keys: a name that belongs to it, or nothing (DNS rebinding gets round CORS)."""

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatsmith.serve.auth import HostNames

EVIL = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evil@localhost",
]


def status_of(server: Any, *hosts: str, method: str = "GET", path: str = "/v1/models") -> tuple[int, str]:
    """The status and the body of an answer to a request with these Host headers, whatever they hold."""
    connection = http.client.HTTPConnection(*server.address, timeout=120)
    connection.putrequest(method, path, skip_host=True)
    for host in hosts:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.parametrize("host", EVIL)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/chat/completions", "/", "/openapi.json", "/metrics", "/no"]
)
def test_a_name_that_is_not_the_servers_is_refused_everywhere(server: Any, host: str, path: str) -> None:
    status, body = status_of(server, host, path=path)
    assert status == 403 and '"code":"host_not_allowed"' in body and "--allowed-host" in body


def test_one_strange_name_of_two_is_enough(server: Any) -> None:
    port = server.address[1]
    assert status_of(server, f"127.0.0.1:{port}", "evil.example")[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost:{port}", "127.0.0.1", "[::1]:{port}"])
def test_the_servers_own_names_are_answered(server: Any, host: str) -> None:
    assert status_of(server, host.format(port=server.address[1]))[0] == 200


def test_a_program_that_names_no_host_is_answered(server: Any) -> None:
    assert status_of(server)[0] == 200


def test_names_may_be_added_and_only_the_named_proxies_are_believed(
    start_server: Callable[..., Any], bundle: Path
) -> None:
    names = ("--allowed-host", "chat.example", "other.example")
    server = start_server(bundle, *names, "--trusted-proxy", "10.0.0.0/8", "fd00::1").wait_until_ready()
    assert status_of(server, "chat.example")[0] == status_of(server, "other.example:80")[0] == 200
    assert status_of(server, "evil.example")[0] == 403
    server.until(lambda: any(line.get("error") == "host_not_allowed" for line in server.events("request")))
    assert server.client_behind("1.2.3.4", Host="chat.example") == "127.0.0.1"


@pytest.mark.parametrize(
    ("bound", "more", "yes", "no"),
    [
        ("127.0.0.1", (), ["127.0.0.1", "localhost.", "[::1]"], ["10.0.0.5", "evil.example", "", "[", "a b"]),
        ("::1", (), ["[::1]:80", "localhost"], ["[::2]", "evil.example"]),
        ("192.168.1.5", (), ["192.168.1.5:8000", "localhost"], ["192.168.1.6", "evil.example"]),
        ("my-machine", (), ["my-machine", "MY-MACHINE:80"], ["their-machine"]),
        # Whoever listens everywhere cannot know all its addresses; a name that is rebound is never an address.
        ("0.0.0.0", (), ["10.0.0.5:80", "[fd00::1]", "localhost"], ["evil.example", "10.0.0.5.evil.example"]),
        ("::", (), ["10.0.0.5:80"], ["evil.example"]),
        ("127.0.0.1", ("Chat.Example",), ["chat.example:443"], ["www.chat.example"]),
        ("127.0.0.1", ("*",), ["evil.example"], []),
    ],
)
def test_which_names_belong_to_an_address(
    bound: str, more: tuple[str, ...], yes: list[str], no: list[str]
) -> None:
    names = HostNames(bound, more)
    assert [host for host in (*yes, *no) if names.allow(host)] == yes
