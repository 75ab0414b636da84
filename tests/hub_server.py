"""A server on this machine that speaks the Hugging Face hub's protocol, for the unmodified client (HF_ENDPOINT).

It has what uploads need: creating repositories, LFS objects that are there or are asked for, commits. And what
downloads need: repositories of models and datasets at commits, listings (`/api/…/tree`, in pages), HEAD and
GET of files with redirects of large ones to a second address, ranges, ETags, private and gated repositories. And what
goes wrong with real hubs, once or for ever: connections that break off, stall, are refused, too busy (429), out of
order (503), and files that change while they are fetched.
"""

import base64
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1 << 14
"""Files of at least this many bytes are LFS files: redirected, and known by their SHA-256."""


@dataclass
class Trouble:
    """What happens to the next `times` requests of a file's content."""

    kind: str
    """break: half of what is asked for comes. stall: nothing for a while, too. busy: 429. down: 503. damage: one byte
    is changed."""
    times: int = 1


@dataclass
class Repo:
    """A repository: the files of its one commit."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        """Changes with every file."""
        content = json.dumps({path: hashlib.sha1(data).hexdigest() for path, data in self.files.items()})
        return hashlib.sha1(content.encode()).hexdigest()


@dataclass
class Hub:
    """The server's state, which tests change; and what it was asked."""

    address: str = ""
    store: str = ""
    """The same server under another name: large files are kept elsewhere, where no token is sent."""
    repos: dict[str, Repo] = field(default_factory=dict)
    """By "datasets/OWNER/NAME" or "models/OWNER/NAME"."""
    history: dict[str, Repo] = field(default_factory=dict)
    """Every commit that was asked for, for commits do not change."""
    token: str = "hf_the_right_token"
    owner: str = "me"
    """Whose token that is; others' repositories cannot be written."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files that have been uploaded, by SHA-256, whether they are in a commit or not."""
    trouble: dict[str, Trouble] = field(default_factory=dict)
    """By a file's path, or "tree" or "info" for the listings."""
    stall_seconds: float = 3.0
    page: int = 1000
    """Entries in a page of a listing."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by "METHOD path"."""
    ranges: list[str] = field(default_factory=list)

    def dataset(self, name: str, files: dict[str, bytes], **more: bool) -> Repo:
        """Add a dataset."""
        repo = self.repos[f"datasets/{name}"] = Repo(files, **more)
        return repo

    def sent(self, path: str) -> int:
        """How often the content of the file was asked for."""
        return self.asked[f"GET {path}"]


class Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        self.hub.asked[f"POST {'/'.join(parts)}"] += 1
        lines = [json.loads(line) for line in self.body().splitlines()]
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.refuse(401, "")
            return
        match parts:
            case ["api", "validate-yaml"]:
                self.send_json({})
            case ["api", "repos", "create"]:
                owner, name = lines[0].get("organization") or self.hub.owner, lines[0]["name"]
                repo = Repo({".gitattributes": b""}, private=lines[0].get("visibility") == "private")
                if f"models/{owner}/{name}" in self.hub.repos:
                    self.send_json({"url": f"{self.hub.address}/{owner}/{name}"}, status=409)
                elif owner != self.hub.owner:
                    self.refuse(403, "")
                else:
                    self.hub.repos[f"models/{owner}/{name}"] = repo
                    self.send_json({"url": f"{self.hub.address}/{owner}/{name}"})
            case [*_, owner, _, "preupload" | "commit", _] | [
                owner,
                _,
                "info",
                "lfs",
                "objects",
                "batch",
            ] if owner != self.hub.owner:
                self.refuse(403, "")
            case ["api", *_, "preupload", _]:
                modes = {
                    one["path"]: "lfs" if one["size"] >= LARGE else "regular" for one in lines[0]["files"]
                }
                files = [
                    {"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()
                ]
                self.send_json({"files": files})
            case [*_, "info", "lfs", "objects", "batch"]:
                objects = lines[0]["objects"]
                for one in objects:
                    if one["oid"] not in self.hub.objects:
                        one["actions"] = {"upload": {"href": f"{self.hub.store}/lfs/{one['oid']}"}}
                self.send_json({"transfer": "basic", "objects": objects})
            case ["api", kind, owner, name, "commit", _]:
                repo = self.hub.repos[f"{kind}/{owner}/{name}"]
                for line in lines:
                    value = line["value"]
                    if line["key"] == "file":
                        repo.files[value["path"]] = base64.b64decode(value["content"])
                    elif line["key"] == "lfsFile":
                        repo.files[value["path"]] = self.hub.objects[value["oid"]]
                url = f"{self.hub.address}/{owner}/{name}/commit/{repo.commit}"
                self.send_json({"commitUrl": url, "commitOid": repo.commit})

    def do_PUT(self) -> None:
        data, oid = self.body(), self.path.rpartition("/")[2]
        self.hub.asked["PUT"] += 1
        if self.troubled("PUT") is None:
            assert sha256(data) == oid
            self.hub.objects[oid] = data
            self.start(200, {}, 0)

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) >= 4:
            kind, owner, name, action, revision = [*parts[1:5], "info"][:4] + [*parts[5:6], "main"][:1]
            self.listing(f"{kind}/{owner}/{name}", action, revision, parse_qs(url.query))
        elif parts[0] == "cdn":
            _, kind, owner, name, revision, *path = parts
            data = self.hub.history[revision].files["/".join(path)]
            self.content(data, "/".join(path), {"ETag": f'"{sha256(data)[:32]}"'})
        elif "resolve" in parts:
            at = parts.index("resolve")
            name = "/".join(parts[:at]) if parts[0] == "datasets" else "models/" + "/".join(parts[:at])
            self.file(name, parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self.refuse(404, "")

    def repo(self, name: str, revision: str) -> Repo | None:
        """The repository, if it may be read; else the refusal is sent."""
        repo, bearer = self.hub.repos.get(name), self.headers.get("Authorization")
        if repo is None or (repo.private and bearer != f"Bearer {self.hub.token}"):
            self.refuse(401, "RepoNotFound")
        elif repo.gated and bearer != f"Bearer {self.hub.token}":
            self.refuse(403, "GatedRepo")
        else:
            self.hub.history.setdefault(repo.commit, Repo(dict(repo.files)))
            if revision == "main":
                return repo
            if revision in self.hub.history:
                return self.hub.history[revision]
            self.refuse(404, "RevisionNotFound")
        return None

    def listing(self, name: str, action: str, revision: str, query: dict[str, list[str]]) -> None:
        if self.troubled("tree" if action == "tree" else "info") is not None:
            return
        repo = self.repo(name, revision)
        if repo is None:
            return
        if action != "tree":
            owner = name.split("/", 1)[1]
            self.send_json({"_id": "1", "id": owner, "sha": repo.commit, "private": repo.private})
            return
        entries = [self.entry(path, repo.files[path]) for path in sorted(repo.files)]
        folders = {str(folder) for path in repo.files for folder in PurePosixPath(path).parents} - {"."}
        entries += [
            {"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in sorted(folders)
        ]
        start = int(query.get("cursor", ["0"])[0])
        headers = {}
        if start + self.hub.page < len(entries):
            place = f"{self.hub.address}/api/{name}/tree/{revision}"
            more = f"{place}?recursive=true&expand=false&cursor={start + self.hub.page}"
            headers["Link"] = f'<{more}>; rel="next"'
        self.send_json(entries[start : start + self.hub.page], headers)

    def entry(self, path: str, data: bytes) -> dict:
        entry = {"type": "file", "oid": git_blob(data), "size": len(data), "path": path}
        if len(data) >= LARGE:
            pointer = (
                f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256(data)}\nsize {len(data)}\n"
            )
            lfs = {"oid": sha256(data), "size": len(data), "pointerSize": len(pointer)}
            entry |= {"oid": git_blob(pointer.encode()), "lfs": lfs}
        return entry

    def file(self, name: str, revision: str, path: str) -> None:
        repo = self.repo(name, revision)
        if repo is None:
            return
        commit = revision if revision in self.hub.history else repo.commit
        headers = {"X-Repo-Commit": commit}
        data = repo.files.get(path)
        if data is None:
            self.refuse(404, "EntryNotFound", headers)
        elif len(data) >= LARGE:
            headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
            headers["Location"] = f"{self.hub.store}/cdn/{name}/{commit}/{path}"
            self.start(302, headers, 0)
        else:
            self.content(data, path, {**headers, "ETag": f'"{git_blob(data)}"'})

    def content(self, data: bytes, path: str, headers: dict[str, str]) -> None:
        if self.command == "GET":
            self.hub.asked[f"GET {path}"] += 1
        trouble = self.troubled(path) if self.command == "GET" else None
        if trouble == "answered":
            return
        if trouble == "damage":
            data = bytes([data[0] ^ 1]) + data[1:]
        asked, start = self.headers.get("Range"), 0
        if self.headers.get("If-Range", headers.get("ETag")) != headers.get("ETag"):
            asked = None  # it is another file now
        if asked and self.command == "GET":
            self.hub.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").split("-")[0])
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        data = data[start:]
        self.start(206 if start else 200, {**headers, "Accept-Ranges": "bytes"}, len(data))
        if self.command == "HEAD":
            return
        if trouble in ("break", "stall"):
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            if trouble == "stall":
                time.sleep(self.hub.stall_seconds)
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(data)

    def troubled(self, path: str) -> str | None:
        """What is to go wrong now. "answered": it has been, by an error."""
        trouble = self.hub.trouble.get(path)
        if trouble is None or trouble.times <= 0:
            return None
        trouble.times -= 1
        if trouble.kind in ("busy", "down"):
            self.refuse(429 if trouble.kind == "busy" else 503, "", {"Retry-After": "0"})
            return "answered"
        return trouble.kind

    def send_json(self, content: object, headers: dict[str, str] | None = None, status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.start(status, {"Content-Type": "application/json", **(headers or {})}, len(data))
        self.wfile.write(data)

    def refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        more = {"X-Error-Code": code, "X-Error-Message": code} if code else {}
        self.start(status, {**(headers or {}), **more}, 0)

    def start(self, status: int, headers: dict[str, str], length: int) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    """Git's name of the content."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port, while the block runs."""
    hub = Hub()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    http.daemon_threads = True
    hub.address, hub.store = (f"http://{host}:{http.server_port}" for host in ("127.0.0.1", "localhost"))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        http.shutdown()
        http.server_close()
