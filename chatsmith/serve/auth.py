"""Who may use the server: API keys, and the host names that a server without keys answers to.

A key is given as `NAME=KEY`, or alone; in a file, one a line, where `#` begins a comment. Only hashes are kept, and
all of them are compared every time, in constant time, so that how long a refusal takes tells nothing.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from pathlib import Path

from chatsmith.runtime.errors import UserError
from chatsmith.runtime.text_files import read_text
from chatsmith.serve.errors import known

ANONYMOUS = "anonymous"
"""The name of everyone, where no keys are asked for."""

MIN_LENGTH = 8
_HOST = re.compile(r"(\[(?P<address>[0-9a-fA-F:.]+)\]|(?P<name>[^\s@:/\[\]]+))(:[0-9]*)?")
_NAMED = re.compile(r"([A-Za-z0-9_.-]{1,64})=(.*[^=\s].*)")


class Keys:
    """The keys of a server; without any, everyone may come in."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        """Raises UserError for an entry that is no key. Entries are `NAME=KEY` or `KEY`."""
        self._digests: dict[str, bytes] = {}
        for number, entry in enumerate(entries, start=1):
            named = _NAMED.fullmatch(entry.strip())
            name, key = (named[1], named[2].strip()) if named else (f"key-{number}", entry.strip())
            if len(key) < MIN_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
                raise UserError(
                    f"API key {number} is not usable: it needs {MIN_LENGTH} characters or more, all of them printable "
                    "ASCII, no spaces"
                )
            if name in self._digests:
                raise UserError(f"two API keys are called {name}; give each its own name")
            self._digests[name] = _digest(key)

    @property
    def are_required(self) -> bool:
        """Does it take a key to come in?"""
        return bool(self._digests)

    def name_of(self, authorization: str | None) -> str:
        """The name of the key in an Authorization header. Raises ApiError (401)."""
        if not self._digests:
            return ANONYMOUS
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise known("no_api_key")
        digest = _digest(given.strip())
        found = [name for name, one in self._digests.items() if hmac.compare_digest(digest, one)]
        if not found:
            raise known("invalid_api_key")
        return found[0]


class HostNames:
    """The names that a server answers to, in the Host header.

    A web page can let a name of its own point to this machine (DNS rebinding), and then read a server without keys as
    if it were the page's own. Its requests carry that name, so names that do not belong to the server are refused.
    """

    def __init__(self, bound: str, more: Iterable[str] = ()) -> None:
        """`bound` is the address or name that the server listens at; `*` among `more` allows every name."""
        more = {name.lower() for name in more}
        self._names = {"localhost", "127.0.0.1", "::1", bound.lower(), *more}
        self._allows_all = "*" in more
        # Who listens at every address does not know them all. A name that is rebound is never an address.
        self._allows_addresses = bound in ("", "0.0.0.0", "::")

    def allow(self, host: str) -> bool:
        """May a request with this Host header be answered?"""
        found = _HOST.fullmatch(host)
        if self._allows_all or found is None:
            return self._allows_all
        name = (found["address"] or found["name"]).lower().removesuffix(".")
        return name in self._names or (self._allows_addresses and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def read_keys(path: Path) -> list[str]:
    """The entries of a key file. Raises UserError."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the key file {path} cannot be read ({error}); check path and permissions"
        ) from error
    entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not entries:
        raise UserError(f"the key file {path} holds no key; write one a line, NAME=KEY")
    return entries


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
