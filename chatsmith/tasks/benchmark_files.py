"""The benchmarks' files: where they are, how they are read, where they come from, and fetching them.

    core/core.yaml  core/eval_meta_data.csv  core/eval_data/…  arc/  mmlu/  gsm8k/  humaneval/  words/  vocabularies/

The folder with this layout is given by the caller; `default_folder` names the cache where downloads go. Where each
file comes from, and how to know it, is in `benchmarks.toml` beside this file. Every task names its splits the same
way: `train`; `development`, to tune on; `test`, for the reported score and for nothing else. Development items are held
out of a benchmark's training or validation part, never out of its test part.
"""

import base64
import gzip
import hashlib
import io
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pyarrow.parquet

from chatsmith.data.dataset import file_sha256
from chatsmith.data.documents import JsonLines
from chatsmith.ingest import hub
from chatsmith.runtime.atomic import write_bytes
from chatsmith.runtime.cache import cache_folder, usual_cache
from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import byte_alphabet

TASKS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_name("tasks.toml").read_text(encoding="utf-8")
)
"""The tasks of the chat suite, by name."""

GITHUB = "https://raw.githubusercontent.com"


class MissingFileError(UserError):
    """A file of the benchmarks is not there."""


def default_folder() -> Path:
    """The cache: `chatsmith/eval` in $XDG_CACHE_HOME, or in ~/.cache."""
    return (usual_cache() or cache_folder()) / "chatsmith" / "eval"


def task_file(task: str, split: str) -> str:
    """The file of a split in the layout. Raises KeyError for one that the task does not have."""
    return TASKS[task]["files"][split]


def find_file(folder: Path, path: str) -> Path:
    """The file `path` of the layout. Raises MissingFileError if it is not there."""
    if not has_file(folder, path):
        raise MissingFileError(
            f"{folder / path} is not there: download the benchmarks, or name the folder that has them"
        )
    return _place(folder, path)


def has_file(folder: Path, path: str) -> bool:
    """Whether the file `path` of the layout is there."""
    return _place(folder, path).is_file()


def _place(folder: Path, path: str) -> Path:
    # A word list is no benchmark, so collections of data keep it beside the benchmarks' folder.
    is_beside = path.startswith("words/") and not (folder / path).is_file()
    return (folder.parent if is_beside else folder) / path


def is_held_out(text: str, one_in: int) -> bool:
    """Whether an item with this text belongs to the one in `one_in` that is kept from training, by a hash of the
    text: the answer is the same whatever file the item stands in, and wherever."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % one_in == 0


def read_items(folder: Path, path: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """All items of a file of JSON lines, each with at least these fields.

    Raises UserError if it is not there or has a line that cannot be used: a benchmark with a hole in it has no score.
    """
    place = find_file(folder, path)
    lines = JsonLines(place)
    items = []
    for number, item in lines:
        missing = [field for field in fields if field not in item]
        if missing:
            raise UserError(f"{place}, line {number}: there is no {', '.join(missing)}")
        items.append(item)
    if lines.broken_count:
        raise UserError(f"{place}: {lines.broken_count} of its lines cannot be read; fetch it again")
    return items


@dataclass(frozen=True)
class Origin:
    """Where one file of the layout comes from."""

    path: str
    """Its place in the benchmarks' folder."""
    source: str
    """`github:OWNER/REPOSITORY/REFERENCE/PATH`, `hub:OWNER/DATASET/PATH` or, for a model's, `hub-model:`."""
    sha256: str | None = None
    """Of the published file in our layout; None where it is not known."""
    remade_sha256: str | None = None
    """Of a remake, made where the published file was not at hand …"""
    remade_note: str = ""
    """… and what scores on it must be labelled with."""


@cache
def origins() -> dict[str, Origin]:
    """All files, by their paths."""
    table = tomllib.loads(Path(__file__).with_name("benchmarks.toml").read_text(encoding="utf-8"))
    return {path: Origin(path, **entry) for path, entry in table.items()}


def note_about(file: Path, path: str) -> str:
    """What to label scores with that were measured on `file`, which stands for `path` of the layout; often nothing."""
    origin = origins().get(path)
    if origin is None:
        return ""
    digest = file_sha256(file)
    if digest == origin.remade_sha256:
        return origin.remade_note
    if origin.sha256 and digest != origin.sha256:
        return "the file is not the published one; not comparable with published scores"
    return ""


def fetch(origin: Origin, folder: Path, *, mirror: str = "", github: str = GITHUB) -> str:
    """Put a file into `folder`. Returns what a person should know of it, e.g. that it is not the expected one.

    `mirror` is a server (or a folder of one) with our own layout, to be asked instead of the authors' places. Raises
    UserError for what cannot be had or is not what it should be.
    """
    host, _, place = origin.source.partition(":")
    if mirror:
        address = f"{mirror.rstrip('/')}/{origin.path}"
    else:
        address = f"{github.rstrip('/')}/{place}" if host == "github" else origin.source
    if mirror or host == "github":
        content = hub.fetch_address(address)
    else:
        owner, name, path = place.split("/", 2)
        repository = _repository(f"{owner}/{name}", "model" if host == "hub-model" else "dataset")
        (file,) = hub.download(repository, [path])
        content = file.read_bytes()
    if not mirror:
        content = _in_our_layout(origin, content)
    digest = hashlib.sha256(content).hexdigest()
    notice = ""
    if origin.sha256 and digest != origin.sha256:
        # What we convert ourselves may differ in a detail that nobody could foresee; it is used, and labelled.
        if mirror or not origin.source.endswith(".parquet"):
            raise UserError(f"{address} is not the file it was (SHA-256 {digest}); it was not kept")
        notice = f"{origin.path} is not the file that is known; its scores will say so"
    write_bytes(folder / origin.path, content)
    return notice


@cache
def _repository(name: str, kind: hub.Kind) -> hub.Repository:
    return hub.list_repository(name, kind=kind)


def _in_our_layout(origin: Origin, content: bytes) -> bytes:
    """Compressed files are unpacked, line ends made plain, the hub's tables become JSON lines."""
    try:
        if origin.source.endswith(".gz"):
            return gzip.decompress(content)
        if origin.source.endswith(".txt"):
            return content.replace(b"\r\n", b"\n")
        if origin.source.endswith(".parquet"):
            rows = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
            make = _arc_item if origin.path.startswith("arc/") else _mmlu_item
            lines = [json.dumps(make(row), ensure_ascii=False) for row in rows]
            return "".join(f"{line}\n" for line in lines).encode("utf-8")
        if origin.source.endswith("/tokenizer.json"):
            return _token_ranks(json.loads(content))
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"what came for {origin.path} cannot be read: {error}") from None
    return content


def _token_ranks(tokenizer: dict[str, Any]) -> bytes:
    """tiktoken's file of a byte-level BPE: the bytes of each token in base64, and its rank."""
    special = {token["content"] for token in tokenizer["added_tokens"]}
    ranks = {rank: token for token, rank in tokenizer["model"]["vocab"].items() if token not in special}
    byte_of = byte_alphabet()
    tokens = ((bytes(byte_of[one] for one in ranks[rank]), rank) for rank in sorted(ranks))
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for token, rank in tokens)


def _arc_item(row: dict[str, Any]) -> dict[str, Any]:
    labels = list(row["choices"]["label"])
    # Some exams number their choices; letters everywhere, as in most.
    letters = list(ascii_uppercase[: len(labels)])
    return {
        "id": row["id"],
        "question": row["question"],
        "choices": {"text": list(row["choices"]["text"]), "label": letters},
        "answerKey": letters[labels.index(row["answerKey"])],
    }


def _mmlu_item(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("subject", "question", "choices", "answer")}
