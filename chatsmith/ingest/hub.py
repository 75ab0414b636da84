"""Files from the Hugging Face hub, and from plain addresses: resumed, verified by their hash, kept in a shared cache.

The hub is spoken to by `huggingface_hub` alone, so its environment variables hold: HF_ENDPOINT (another hub), HF_TOKEN,
HF_HOME and HF_HUB_CACHE (the cache, which all runs and other programs share), HF_HUB_OFFLINE. A repository is listed
first, at one commit: the listing has every file's hash before a byte of it has come, and what arrives is held against
it. A folder that holds copies of repositories can stand in for the hub (HF_ENDPOINT=file:///FOLDER); where the hub
cannot be reached, its last listing serves, so that nothing that is here waits for it.

Data is named hub:OWNER/NAME, and more precisely hub:OWNER/NAME@REVISION/FOLDER[0:240]: shards 0 to 239 of the sorted
data files in a folder. The last shard of a listing without validation files is for validation, whatever the range, so
that more shards to train on change nothing else.
"""

import fcntl
import hashlib
import json
import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import huggingface_hub  # loads what is used of it when it is used

from chatsmith.data.dataset import HUB, DataManifest, SourceFile, SplitName
from chatsmith.data.documents import JSON_LINES, SUPPORTED, file_type
from chatsmith.data.tokens import TokenCache
from chatsmith.ingest.survey import role_by_name
from chatsmith.ingest.tokenizing import IN_USE, open_token_cache, unfinished_files
from chatsmith.runtime import atomic
from chatsmith.runtime.cache import shared_folder
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer

Kind = Literal["dataset", "model"]

WORKERS = 8
"""Files that are downloaded at once, as huggingface_hub's own snapshots do."""

ATTEMPTS = 4
TIMEOUT_SECONDS = 30
"""For plain addresses; huggingface_hub has its own."""

_READ_BYTES = 1 << 20
_SOURCE = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?((?:/[^/\[\]]+)*)/?(?:\[(-?\d*)(:?)(-?\d*)\])?")
_CHARACTERS_PER_BYTE = 2.5
"""In compressed shards of web text: 100 MB for 250 million characters (nanochat's climbmix and fineweb-edu shards)."""


class UnreachableError(UserError):
    """The hub does not answer, or not now."""


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
    is_earlier: bool = False
    """Whether the hub could not be reached, so that this is what it listed before."""


def list_repository(name: str, *, kind: Kind = "dataset", revision: str = "main") -> Repository:
    """The files of the repository `name` (OWNER/NAME) as they are now, sorted by path, with sizes and hashes.

    A folder that stands in for the hub has them as OWNER/NAME/FILES. Raises UserError if there is no such repository,
    if it may not be read, or if the hub cannot be reached and was not before.
    """
    endpoint = os.environ.get("HF_ENDPOINT") or ""
    if endpoint.startswith("file://"):
        offline = Path(endpoint.removeprefix("file://"))
        folder = offline / name
        if not folder.is_dir():
            raise UserError(f"there is no copy of {name} in {offline}: {folder} is no folder")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = (HubFile(str(path.relative_to(folder)), path.stat().st_size, "", "") for path in paths)
        return Repository(name, kind, "", tuple(files), folder)
    kept = (
        shared_folder("listings") / f"{kind}--{name.replace('/', '--')}--{revision.replace('/', '--')}.json"
    )
    try:
        repository = _ask_for_listing(name, kind, revision)
    except UnreachableError:
        if not kept.is_file():
            raise
        value = json.loads(kept.read_bytes())
        files = tuple(HubFile(**file) for file in value["files"])
        return Repository(name, kind, value["commit"], files, is_earlier=True)
    listing = {"commit": repository.commit, "files": [asdict(file) for file in repository.files]}
    atomic.write_text(kept, json.dumps(listing))
    return repository


def _ask_for_listing(name: str, kind: Kind, revision: str) -> Repository:
    with _explained(name, kind):
        api = huggingface_hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        commit = api.repo_info(name, repo_type=kind, revision=revision).sha
        assert commit is not None
        tree = api.list_repo_tree(name, repo_type=kind, revision=commit, recursive=True)
        files = (
            HubFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else "", entry.blob_id)
            for entry in tree
            if isinstance(entry, huggingface_hub.hf_api.RepoFile)
        )
        return Repository(name, kind, commit, tuple(sorted(files, key=lambda file: file.path)))


def download(repository: Repository, paths: Sequence[str], *, cache: Path | None = None) -> Iterator[Path]:
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
    downloads = Downloads([(repository, listed[path], cache) for path in paths])
    try:
        yield from downloads
    finally:
        downloads.stop()


class Downloads:
    """Files on their way: fetched in their order, several at once, by threads that nobody waits for at the end."""

    def __init__(self, wanted: Sequence[tuple[Repository, HubFile, Path | None]]) -> None:
        self._results: list[Future[Path]] = [Future() for _ in wanted]
        self._left = iter(list(zip(wanted, self._results, strict=True)))
        self._is_stopped = False
        for _ in range(min(WORKERS, len(wanted))):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while not self._is_stopped and (following := next(self._left, None)):
            wanted, result = following
            try:
                result.set_result(_download_one(*wanted))
            except UserError as error:
                self._is_stopped = True
                result.set_exception(error)

    def __iter__(self) -> Iterator[Path]:
        """The places of the files, in order, each once it is there. Raises UserError for one that cannot be had."""
        return (result.result() for result in self._results)

    def check(self) -> None:
        """Raise UserError if a file could not be had."""
        for result in self._results:
            if result.done():
                result.result()

    def stop(self) -> None:
        """Begin no other file."""
        self._is_stopped = True


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


# ---- data by name ----


@dataclass(frozen=True)
class Shards:
    """What a name like hub:OWNER/NAME[0:240] stands for."""

    repository: Repository
    files: tuple[SourceFile, ...]
    """Those that are named, in order, without those for validation."""
    validation: tuple[SourceFile, ...]
    """Those called validation; else the last one of the listing, if there are several."""


def is_source(path: Path | str) -> bool:
    """Whether this names data on a hub."""
    return str(path).startswith(HUB)


def find_shards(source: Path | str) -> Shards:
    """The shards that `source` names, by their listing: sizes and hashes, and where each is once it has come.

    Data files are the .parquet files; where there are none, JSON lines; else .txt. Raises UserError as
    `list_repository` does, for a name that cannot be read, and for one that stands for no file.
    """
    named = _SOURCE.fullmatch(str(source))
    if not named:
        raise UserError(
            f"{source} is no name of data on a hub; write hub:OWNER/NAME or hub:OWNER/NAME[0:240]"
        )
    name, revision, folder, first, colon, end = named.groups()
    repository = list_repository(name, revision=revision or "main")
    under = folder.strip("/")
    inside = [one for one in repository.files if f"{one.path}/".startswith(f"{under}/" if under else "")]
    for types in ((".parquet",), JSON_LINES, tuple(kind for kind in SUPPORTED if kind.startswith(".txt"))):
        if files := [file for file in inside if file_type(Path(file.path), types)]:
            break
    roles = [role_by_name(Path(file.path), Path(), SUPPORTED) for file in files]
    validation = [file for file, role in zip(files, roles, strict=True) if role == "validation"]
    shards = [file for file, role in zip(files, roles, strict=True) if role == "train"]
    if not validation and len(shards) > 1:
        validation = shards[-1:]
    start, stop = int(first or 0), int(end) if end else None
    if first and not colon:
        stop = start + 1 or None  # [-1] is the last one
    chosen = shards[start:stop]
    if not chosen:
        raise UserError(f"{source} names no data: there are {len(shards):,} shards of text in {name}{folder}")
    train = [file for file in chosen if file not in validation] or chosen
    return Shards(
        repository, *(tuple(_described(repository, file) for file in part) for part in (train, validation))
    )


def _described(repository: Repository, file: HubFile) -> SourceFile:
    """What the listing says of a shard. The place is that of huggingface_hub's cache."""
    if repository.folder is not None:
        path, origin = repository.folder / file.path, ""
    else:
        origin = f"{HUB}{repository.name}@{repository.commit}/{file.path}"
        path = Path(huggingface_hub.constants.HF_HUB_CACHE, _cache_place(repository, file.path))
    packed = file.path.endswith((".parquet", ".gz", ".zst"))
    characters = round(file.size * (_CHARACTERS_PER_BYTE if packed else 1))
    return SourceFile(path, file.size, 0, file.sha256 or f"git-{file.blob}", 0, characters, origin=origin)


def _cache_place(repository: Repository, path: str) -> str:
    return f"{repository.kind}s--{repository.name.replace('/', '--')}/snapshots/{repository.commit}/{path}"


def start_downloads(files: Iterable[SourceFile]) -> Downloads:
    """Begin to fetch those of these shards that are not here, to where they are expected."""
    wanted = []
    for file in files:
        if file.is_remote and not file.path.exists():
            name, _, rest = file.origin.removeprefix(HUB).partition("@")
            commit, _, path = rest.partition("/")
            repository = Repository(name, "dataset", commit, ())
            sha256, blob = ("", file.sha256[4:]) if file.sha256.startswith("git-") else (file.sha256, "")
            cache = Path(str(file.path).removesuffix(_cache_place(repository, path)))
            wanted.append((repository, HubFile(path, file.bytes, sha256, blob), cache))
    return Downloads(wanted)


def fetch(files: Iterable[SourceFile], reporter: Reporter) -> None:
    """Wait until these shards are here, with progress. Raises UserError."""
    missing = [file for file in files if file.is_remote and not file.path.exists()]
    if not missing:
        return
    downloads = start_downloads(missing)
    with reporter.progress("downloading", sum(file.bytes for file in missing), "bytes") as bar:
        try:
            for file, path in zip(missing, downloads, strict=True):
                assert path == file.path, "huggingface_hub keeps files where it always has"
                bar.advance(file.bytes)
        finally:
            downloads.stop()


def open_tokens(
    folder: Path,
    manifest: DataManifest,
    tokenizer: Tokenizer,
    split: SplitName,
    *,
    build: bool = True,
    disk_wait: float = 0.0,
) -> TokenCache:
    """`open_token_cache`, shared by runs, and with the shards coming that its worker waits for.

    The first process of every other machine builds too: where machines share the folder, their workers take turns.
    """
    build, shared = build or is_first_here(), shared_folder("tokens")
    cache = open_token_cache(
        folder, manifest, tokenizer, split, build=build, shared=shared, disk_wait=disk_wait
    )
    use_shared_tokens(cache.opened)
    if build and not cache.is_complete:
        files = unfinished_files(cache, manifest, split)
        downloads = start_downloads((*manifest.documents.validation, *files))
        cache.opened.callback(downloads.stop)
        cache.check = downloads.check
    return cache


def use_shared_tokens(opened: ExitStack) -> Path:
    """The folder of the tokens that runs share. Until `opened` is closed none are removed: `data cache` asks first."""
    shared = shared_folder("tokens")
    shared.mkdir(parents=True, exist_ok=True)
    fcntl.flock(opened.enter_context((shared / IN_USE).open("a")), fcntl.LOCK_SH)
    return shared


def is_first_here() -> bool:
    """Whether this is the first process of its machine, which may have a cache of its own."""
    return os.environ.get("LOCAL_RANK") == "0"


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
            case OSError(errno=28):
                reason = "the disk is full; what has come is kept: free space and repeat the command"
            case _:
                reason = _unreachable(error)
                raise UnreachableError(f"{name} cannot be fetched from the hub: {reason}") from error
        raise UserError(f"{name} cannot be fetched from the hub: {reason}") from error


def _unreachable(error: Exception) -> str:
    if isinstance(error, huggingface_hub.errors.OfflineModeIsEnabled):
        return "it is not in the cache, and HF_HUB_OFFLINE is set"
    if isinstance(error, huggingface_hub.errors.LocalEntryNotFoundError) and isinstance(
        error.__cause__, Exception
    ):
        return _unreachable(error.__cause__)  # why the hub could not say
    return " ".join(str(error).split())[:200] or type(error).__name__


def fetch_address(address: str) -> bytes:
    """The file at a plain `address`. Raises UserError, after a few attempts, if it cannot be had.

    Where a connection broke off the next one continues, if the server says by an ETag that it is still the same file.
    """
    content, etag, reason = bytearray(), "", ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(2.0**attempt)
        headers = {"Range": f"bytes={len(content)}-", "If-Range": etag} if content and etag[:1] == '"' else {}
        request = urllib.request.Request(address, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                if response.status != 206:
                    content.clear()
                etag = response.headers["ETag"] or ""
                missing = int(response.headers["Content-Length"] or 0)
                while piece := response.read(_READ_BYTES):
                    content += piece
                    missing -= len(piece)
            if missing <= 0:
                return bytes(content)
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            reason = f"the server says {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                break
        except (OSError, ValueError, HTTPException) as error:
            reason = str(getattr(error, "reason", error))
    raise UserError(f"{address} cannot be fetched: {reason}")
