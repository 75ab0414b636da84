"""Fetching the benchmarks: each file from where its authors keep it, checked, into the folder the tasks read.

Parquet files of the hub become JSON lines, compressed files are unpacked. A file whose SHA-256 is known is only kept if
it has it; one that the hub describes by a hash of its own is checked against that. Files that are there stay. It uses
Python's own HTTP client: a few dozen files of some megabytes need no more.
"""

import gzip
import hashlib
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from email.message import Message
from pathlib import Path
from typing import IO, Any

from chatsmith.runtime.atomic import write_bytes
from chatsmith.runtime.errors import UserError
from chatsmith.tasks.benchmark_files import has_file
from chatsmith.tasks.benchmark_origins import Origin, origins

HOSTS = {"github": "https://raw.githubusercontent.com", "hub": "https://huggingface.co"}
ATTEMPTS = 4
TIMEOUT_SECONDS = 30

_LETTERS = "ABCDEFGHIJ"


def missing_files(folder: Path, paths: Iterable[str] | None = None) -> list[Origin]:
    """The files (None: of all benchmarks) that are not in `folder`."""
    known = origins()
    return [known[path] for path in (known if paths is None else paths) if not has_file(folder, path)]


def fetch(
    wanted: Iterable[Origin],
    folder: Path,
    *,
    mirror: str = "",
    hosts: Mapping[str, str] = HOSTS,
    pause: Callable[[float], None] = time.sleep,
    on_fetched: Callable[[Origin], None] = lambda _: None,
) -> list[str]:
    """Put these files into `folder`. Returns lines a person should know of, e.g. that a file is not the expected one.

    `mirror` is a server (or a folder of one) with our own layout, to be asked instead of `hosts`; the environment's
    HF_ENDPOINT is asked instead of the hub. Raises UserError, after a few attempts, for what cannot be had or is not
    what it should be; files fetched until then stay.
    """
    if os.environ.get("HF_ENDPOINT"):
        hosts = {**hosts, "hub": os.environ["HF_ENDPOINT"]}
    notices = []
    for origin in wanted:
        address = f"{mirror.rstrip('/')}/{origin.path}" if mirror else _address(origin, hosts)
        content = _download(address, pause)
        if not mirror:
            content = _converted(origin, content)
        digest = hashlib.sha256(content).hexdigest()
        if origin.sha256 and digest != origin.sha256:
            # What we convert ourselves may differ in a detail that nobody could foresee; it is used, and labelled.
            if mirror or not address.endswith(".parquet"):
                raise UserError(f"{address} is not the file it was (SHA-256 {digest}); it was not kept")
            notices.append(f"{origin.path} is not the file that is known; its scores will say so")
        write_bytes(folder / origin.path, content)
        on_fetched(origin)
    return notices


def _address(origin: Origin, hosts: Mapping[str, str]) -> str:
    host, _, place = origin.source.partition(":")
    base = hosts[host].rstrip("/")
    if host == "github":
        return f"{base}/{place}"
    owner, dataset, path = place.split("/", 2)
    return f"{base}/datasets/{owner}/{dataset}/resolve/main/{path}"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the hash of a large file that the hub tells on the way."""

    def __init__(self) -> None:
        self.sha256 = ""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        self.sha256 = (headers.get("X-Linked-Etag") or "").strip('"')
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # pyright: ignore[reportArgumentType]


def _download(address: str, pause: Callable[[float], None]) -> bytes:
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            pause(2.0**attempt)
        redirects = _Redirects()
        try:
            with urllib.request.build_opener(redirects).open(address, timeout=TIMEOUT_SECONDS) as response:
                content: bytes = response.read()
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code != 429:
                break
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "reason", error))
        else:
            if len(redirects.sha256) != 64 or hashlib.sha256(content).hexdigest() == redirects.sha256:
                return content
            reason = "it arrived damaged"
    raise UserError(
        f"{address} cannot be fetched: {reason}; try again, name a copy with --mirror, "
        "or put the files in place by hand (docs/evaluation.md has the layout)"
    )


def _converted(origin: Origin, content: bytes) -> bytes:
    """The content in our layout."""
    try:
        if origin.source.endswith(".gz"):
            return gzip.decompress(content)
        if origin.source.endswith(".txt"):
            return content.replace(b"\r\n", b"\n")
        if origin.source.endswith(".parquet"):
            import pyarrow.parquet

            rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
            make = _arc_item if origin.path.startswith("arc/") else _mmlu_item
            lines = [json.dumps(make(row), ensure_ascii=False) for row in rows]
            return "".join(f"{line}\n" for line in lines).encode("utf-8")
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"what came for {origin.path} cannot be read: {error}") from None
    return content


def _arc_item(row: dict[str, Any]) -> dict[str, Any]:
    labels = list(row["choices"]["label"])
    # Some exams number their choices; letters everywhere, as in most.
    letters = list(_LETTERS[: len(labels)])
    return {
        "id": row["id"],
        "question": row["question"],
        "choices": {"text": list(row["choices"]["text"]), "label": letters},
        "answerKey": letters[labels.index(row["answerKey"])],
    }


def _mmlu_item(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("subject", "question", "choices", "answer")}
