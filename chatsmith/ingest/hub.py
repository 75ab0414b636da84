"""Files from the Hugging Face hub, and from plain addresses: resumed, verified by their hash, kept in a shared cache.

The hub is spoken to by `huggingface_hub` alone, so its environment variables hold: HF_ENDPOINT (another hub), HF_TOKEN,
HF_HOME and HF_HUB_CACHE (the cache, which all runs and other programs share), HF_HUB_OFFLINE. A repository is listed
first, at one commit: the listing has every file's hash before a byte of it has come, and what arrives is held against
it. A folder that holds copies of repositories can stand in for the hub.
"""

import glob
import hashlib
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import huggingface_hub  # loads what is used of it when it is used

from chatsmith.runtime.errors import UserError

Kind = Literal["dataset", "model"]

WORKERS = 8
"""Files that are downloaded at once, as huggingface_hub's own snapshots do."""

ATTEMPTS = 4
TIMEOUT_SECONDS = 30
"""For plain addresses; huggingface_hub has its own."""

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class HubFile:
    """One file of a repository."""

    path: str
    size: int
    sha256: str
    """Of the content, where the hub knows it (large files); else empty."""
    blob: str
    """Git's SHA-1 of the file as a blob: of the content of a small file, of the pointer to a large one."""

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` has this content."""
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(f"blob {self.size}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
        return digest.hexdigest() == (self.sha256 or self.blob)


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: str
    """OWNER/NAME."""
    kind: Kind
    commit: str
    """Empty where a folder stands in for the hub."""
    files: tuple[HubFile, ...]
    folder: Path | None = None
    """The copy that stands in for the hub."""


def list_repository(
    name: str, *, kind: Kind = "dataset", revision: str = "main", offline: Path | None = None
) -> Repository:
    """The files of the repository `name` (OWNER/NAME) as they are now, sorted by path, with sizes and hashes.

    `offline` is a folder of copies, OFFLINE/OWNER/NAME/FILES, to be read instead of the network. Raises UserError if
    there is no such repository, if it may not be read, or if the hub cannot be reached.
    """
    if offline is not None:
        folder = offline / name
        if not folder.is_dir():
            raise UserError(f"there is no copy of {name} in {offline}: {folder} is no folder")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = (HubFile(str(path.relative_to(folder)), path.stat().st_size, "", "") for path in paths)
        return Repository(name, kind, "", tuple(files), folder)
    with _explained(name, kind):
        api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        commit = api.repo_info(name, repo_type=kind, revision=revision).sha
        assert commit is not None
        tree = api.list_repo_tree(name, repo_type=kind, revision=commit, recursive=True)
        files = (
            HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
            for entry in tree
            if isinstance(entry, huggingface_hub.RepoFile)
        )
        return Repository(name, kind, commit, tuple(sorted(files, key=lambda file: file.path)))


def download(
    repository: Repository, paths: Sequence[str], *, cache: Path | None = None, workers: int = WORKERS
) -> Iterator[Path]:
    """Yield where these files of the repository are on this machine, in order, each as soon as it is there.

    They are fetched into `cache` (None: huggingface_hub's own), several at once; a connection that breaks off is
    resumed, and what is there already is not asked for again. Raises UserError for a file that is not in the listing,
    cannot be had, or does not have the listed hash; files that have arrived stay.
    """
    listed = {file.path: file for file in repository.files}
    for path in paths:
        if path not in listed:
            raise UserError(f"{repository.name} has no file {path}")
    if repository.folder is not None:
        yield from (repository.folder / path for path in paths)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(lambda path: _download_one(repository, listed[path], cache), paths)
    finally:
        pool.shutdown(cancel_futures=True)


def _download_one(repository: Repository, file: HubFile, cache: Path | None) -> Path:
    with _explained(repository.name, repository.kind):
        where = {"repo_type": repository.kind, "revision": repository.commit, "cache_dir": cache}
        known = huggingface_hub.try_to_load_from_cache(repository.name, file.path, **where)
        if isinstance(known, str):
            return Path(known)
        # The caller shows progress, and what stays wrong after some attempts is one line.
        huggingface_hub.utils.disable_progress_bars()
        huggingface_hub.utils.logging.set_verbosity_error()
        endpoint = os.environ.get("HF_ENDPOINT")
        path = Path(huggingface_hub.hf_hub_download(repository.name, file.path, **where, endpoint=endpoint))
        if not file.matches(path):
            # Both the content and the name by which the cache would find it again.
            path.resolve().unlink()
            path.unlink(missing_ok=True)
            raise UserError(
                f"{file.path} of {repository.name} is not what the hub lists: it was damaged on the way, or has "
                "changed meanwhile; it was not kept, try again"
            )
        return path


@contextmanager
def _explained(name: str, kind: Kind) -> Iterator[None]:
    """Turn whatever the network and the hub can do into one line."""
    try:
        yield
    except UserError:
        raise
    # Which exceptions come through depends on huggingface_hub's HTTP client, which changes with its versions.
    except Exception as error:
        errors = huggingface_hub.errors
        match error:
            case errors.GatedRepoError():
                reason = "its owner must grant access first, on its page; then set HF_TOKEN, or run `hf auth login`"
            case errors.RepositoryNotFoundError():
                reason = (
                    f"the hub has no such {kind}, or it is private: then set HF_TOKEN, or run `hf auth login`"
                )
            case errors.RevisionNotFoundError():
                reason = "it has no such revision"
            case errors.OfflineModeIsEnabled():
                reason = "it is not in the cache, and HF_HUB_OFFLINE is set"
            case OSError(errno=28):
                reason = "the disk is full"
            case _:
                if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
                    error = error.__cause__  # why the hub could not say
                reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name} cannot be fetched from the hub: {reason}") from error


def fetch_address(address: str, path: Path) -> None:
    """Download the file at a plain `address` to `path`, atomically.

    What a connection that broke off has left beside `path` is continued, if the server says by an ETag that it is
    still the same file. Raises UserError, after a few attempts, if it cannot be had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(2.0**attempt)
        try:
            _receive(address, path)
            return
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code == 416:  # what was begun is as long as the file, or longer
                for part in _begun(path):
                    part.unlink()
            elif error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, ValueError, HTTPException) as error:
            reason = str(getattr(error, "reason", error))
    raise UserError(f"{address} cannot be fetched: {reason}")


def _receive(address: str, path: Path) -> None:
    """One attempt, into a file beside `path` whose name holds the ETag."""
    headers = {}
    for part in _begun(path):
        etag = urllib.parse.unquote(part.name[len(path.name) + 2 : -len(".part")])
        headers = {"Range": f"bytes={part.stat().st_size}-", "If-Range": etag}
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        is_continued = response.status == 206
        for part in () if is_continued else _begun(path):
            part.unlink()
        etag = response.headers.get("ETag") or ""
        part = path.with_name(f".{path.name}.{urllib.parse.quote(etag, safe='')}.part")
        with part.open("ab") as file:
            before = file.tell()
            shutil.copyfileobj(response, file, _READ_BYTES)
            received = file.tell() - before
    if not etag or etag.startswith("W/"):
        part = part.replace(
            path.with_name(f".{path.name}.tmp")
        )  # which no later attempt takes for a beginning
    if received < int(response.headers.get("Content-Length", received)):
        raise ConnectionError("the connection broke off")
    part.replace(path)


def _begun(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{glob.escape(path.name)}.*.part"))
