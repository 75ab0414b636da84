"""Sources by name: one text names documents or conversations, wherever they come from.

    documents, conversations     the run's own data, from `data prepare`
    smoltalk                     HuggingFaceTB/smol-smoltalk: general chat
    mmlu                         the auxiliary training questions of MMLU, with lettered choices
    arc_easy, arc_challenge      the training questions of ARC
    gsm8k                        school problems in words, solved with calls of the calculator
    spelling, counting           words split into letters, letters counted one after the other
    identity:FILE.toml           who the model is, from a persona file (tasks/identity.py); identity alone: chatsmith's
    hub:OWNER/NAME[first:end]    a data set of the hub, or the files of a range of its shards
    PATH                         files or folders of documents, or of conversations in any form

A fingerprint is known before anything is read or downloaded, where the hub's listing or a file's hash gives it.
"""

import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from chatsmith.data.dataset import DataManifest, SplitName, file_sha256
from chatsmith.data.documents import SUPPORTED, parquet_rows
from chatsmith.ingest import hub
from chatsmith.ingest.files import find_files
from chatsmith.ingest.forms import TYPES, ConversationFiles, read_files
from chatsmith.ingest.survey import survey
from chatsmith.runtime.errors import UserError
from chatsmith.tasks import benchmark_files, gsm8k, multiple_choice, spelling
from chatsmith.tasks.benchmark_files import task_file
from chatsmith.tasks.identity import VERSION as IDENTITY_VERSION
from chatsmith.tasks.identity import identity_conversations, read_persona
from chatsmith.text.chat import Conversation

VERSION = 1
"""Raised when the conversations of a named source are made differently."""

PERSONA = Path(__file__).with_name("persona.toml")
"""Who a model is that nobody has written a persona file for."""

HUBS = {"smoltalk": "HuggingFaceTB/smol-smoltalk", "mmlu": "cais/mmlu"}
"""Where the named sources that a hub has are."""

Read = Callable[[SplitName], Iterator[Conversation]]
Notice = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """Documents, or conversations: one of `manifest` and `read` is not None."""

    fingerprint: str
    """Changes with what it gives."""
    about: str = ""
    """Its size, license and authors, for people."""
    manifest: Callable[[], DataManifest] | None = None
    """Reads the documents through, and describes them."""
    read: Read | None = None
    """The conversations of a split; "validation" has none where nothing is set apart for it."""


@dataclass(frozen=True)
class Surroundings:
    """What sources need besides their names."""

    run_data: Callable[[], DataManifest]
    """The run's own data. May raise UserError."""
    benchmarks: Path
    """The folder of the benchmarks, into which what is missing is downloaded."""
    excluded_words: Collection[str]
    """What an exam asks for and spelling may not teach."""
    notice: Notice


def open_source(name: str, around: Surroundings) -> Source:
    """Find a source. Downloads listings and small files; what is large comes when it is read.

    Raises UserError for a name that means nothing, and for what is missing or cannot be had.
    """
    kind, colon, rest = name.partition(":")
    if name in ("documents", "conversations"):
        return _of_the_run(name, around.run_data())
    if kind == "identity":
        path = Path(rest).expanduser() if colon else PERSONA
        persona = read_persona(path)
        fingerprint = f"identity {IDENTITY_VERSION} {file_sha256(path)}"
        return Source(fingerprint, f"made from {path}", read=partial(identity_conversations, persona))
    if kind == "hub" and colon:
        return _hub_source(rest, around.notice)
    if name in _NAMED:
        return _NAMED[name](around)
    files = find_files([open_path(name)], tuple(dict.fromkeys((*TYPES, *SUPPORTED))))
    fingerprint = " ".join(map(file_sha256, files))
    if not _holds_conversations(files[0]):
        return Source(fingerprint, manifest=lambda: survey(files))
    return conversation_source(
        lambda split: files if split == "train" else (), fingerprint, "", around.notice
    )


def check_source(name: str) -> None:
    """Ask whether a source is there, without reading it: a file, a folder, or the listing of a hub. Raises UserError if
    not. What a benchmark's authors serve is taken for there."""
    kind, _, rest = name.partition(":")
    if kind == "hub" or name in HUBS:
        match = _RANGE.fullmatch(rest or HUBS.get(name, ""))
        hub.list_repository(match[1] if match else rest)
    elif kind == "identity":
        read_persona(Path(rest).expanduser() if rest else PERSONA)
    elif name not in ("documents", "conversations", *_NAMED):
        open_path(name)


def open_path(name: str) -> Path:
    """A file or folder of documents or conversations. Raises UserError if there is none."""
    path = Path(name).expanduser()
    if not path.exists():
        known = ", ".join(("documents", "conversations", *_NAMED, "identity:FILE.toml", "hub:OWNER/NAME"))
        raise UserError(f"there is no source {name}: it is no file or folder, and none of {known}")
    return path


def _of_the_run(name: str, data: DataManifest) -> Source:
    if name == "documents":
        return Source(data.documents.fingerprint, manifest=lambda: data)
    if data.conversations is None:
        raise UserError(
            "the run has no conversations: give some to `data prepare`, or leave them out of the mixture"
        )
    return Source(data.conversations.fingerprint, read=data.read_conversations)


def conversation_source(
    files: Callable[[SplitName], Iterable[Path]], fingerprint: str, about: str, notice: Notice
) -> Source:
    """Files of conversations of any form; `files` gives those of a split, each when it has been downloaded."""

    def read(split: SplitName) -> Iterator[Conversation]:
        notices: list[str] = []
        yield from read_files(files(split), notices)
        for line in notices:
            notice(line)

    return Source(fingerprint, about, read=read)


# ---- the hub ----

_holds_conversations = ConversationFiles().holds_conversations
_RANGE = re.compile(r"([\w.-]+/[\w.-]+)(?:\[(\d*):(\d*)\])?")


def _hub_source(name: str, notice: Notice) -> Source:
    match = _RANGE.fullmatch(name)
    if not match:
        raise UserError(
            f"hub:{name} is no data set; write hub:OWNER/NAME, or hub:OWNER/NAME[0:8] for eight shards"
        )
    repository = hub.list_repository(match[1])
    shards = _data_files(repository, "")[slice(*(int(end) if end else None for end in match.groups()[1:]))]
    if not shards:
        raise UserError(f"hub:{name} has no files of a known type in that range ({', '.join(TYPES)})")
    first = next(hub.download(repository, [shards[0].path]))
    about = f"{_sizes(shards)} from {match[1]}; its page on the hub has the license"
    if not _holds_conversations(first):
        fetched = partial(_downloaded, repository, shards)
        return Source(_listed(shards), about, manifest=lambda: survey(list(fetched())))
    return _from_repository(repository, {"train": shards, "validation": []}, about, notice)


def _from_repository(
    repository: hub.Repository,
    files: dict[SplitName, list[hub.HubFile]],
    about: str,
    notice: Notice,
) -> Source:
    """The conversations in these files, of which the first are read while later ones still come."""
    fingerprint = _listed([*files["train"], *files["validation"]])
    return conversation_source(
        lambda split: _downloaded(repository, files[split]), fingerprint, about, notice
    )


def _data_files(repository: hub.Repository, word: str) -> list[hub.HubFile]:
    """The data files with `word` in their name; if it is empty, those not set apart for measuring."""
    found = [
        file for file in repository.files if file.path.endswith((*TYPES, ".txt")) and file.path[0] != "."
    ]
    if word:
        return [file for file in found if re.search(rf"\b{word}\b", file.path)]
    return [file for file in found if not re.search(r"\b(?:test|validation|valid|val)\b", file.path)]


def _downloaded(repository: hub.Repository, files: Sequence[hub.HubFile]) -> Iterator[Path]:
    return hub.download(repository, [file.path for file in files])


def _listed(files: Sequence[hub.HubFile]) -> str:
    return " ".join(file.sha256 or file.blob for file in files)


def _sizes(files: Sequence[hub.HubFile]) -> str:
    return f"{len(files):,} files, {sum(file.size for file in files) / 1e6:,.0f} MB"


def _smoltalk(around: Surroundings) -> Source:
    """As nanochat uses it: the train files to learn from, the test files for validation."""
    name = HUBS["smoltalk"]
    repository = hub.list_repository(name)
    train, test = (_data_files(repository, word) for word in ("train", "test"))
    if not train:
        raise UserError(f"{name} has no train files any more; name other conversations")
    about = f"{_sizes(train)} from {name}, Apache-2.0"
    return _from_repository(repository, {"train": train, "validation": test}, about, around.notice)


def _mmlu(around: Surroundings) -> Source:
    """The questions of other benchmarks that come with MMLU to train on, in a shuffled order."""
    repository = hub.list_repository(HUBS["mmlu"])
    files = _data_files(repository, "auxiliary_train")
    if not files:
        raise UserError("cais/mmlu has no auxiliary_train any more; leave mmlu out of the mixture")
    _present(task_file("mmlu", "development"), around.benchmarks)

    def read(split: SplitName) -> Iterator[Conversation]:
        if split == "validation":
            questions = multiple_choice.mmlu_questions("development", around.benchmarks)
        else:
            questions = [
                question
                for path in _downloaded(repository, files)
                # The published file has one column, `train`, which holds the question's own.
                for question in multiple_choice.mmlu_items(
                    (row["train"] for _, row in parquet_rows(path, ["train"])), "train", path.name
                )
            ]
            random.Random(VERSION).shuffle(questions)
        return (question.solved for question in questions)

    about = f"{_sizes(files)} from cais/mmlu (auxiliary_train: ARC, OpenBookQA, RACE and MCTest), MIT"
    return Source(f"mmlu {VERSION} {_listed(files)}", about, read=read)


# ---- benchmarks' own training parts ----


def _present(path: str, folder: Path) -> Path:
    """A file of the benchmarks' layout, downloaded if need be."""
    if not benchmark_files.has_file(folder, path):
        benchmark_files.fetch(benchmark_files.origins()[path], folder)
    return benchmark_files.find_file(folder, path)


def _of_benchmarks(
    kind: str,
    files: Sequence[str],
    about: str,
    make: Callable[..., Iterable[Conversation]],
    around: Surroundings,
) -> Source:
    """Conversations that `make` makes of a part of the benchmarks in a folder; `kind` has its version."""
    hashes = [file_sha256(_present(path, around.benchmarks)) for path in files]

    def read(split: SplitName) -> Iterator[Conversation]:
        yield from make("train" if split == "train" else "development", folder=around.benchmarks)

    return Source(" ".join([kind, *hashes]), about, read=read)


def _arc(level: multiple_choice.Level) -> Callable[[Surroundings], Source]:
    files = [task_file(f"arc_{level}", split) for split in ("train", "development")]
    about = f"the {level} training questions of ARC, CC BY-SA 4.0"
    return partial(_of_benchmarks, f"arc {VERSION}", files, about, partial(_solved, level))


def _solved(level: multiple_choice.Level, split: str, folder: Path) -> Iterator[Conversation]:
    return (one.solved for one in multiple_choice.arc_questions(level, split, folder))


def _letters(section: str, around: Surroundings) -> Source:
    excluded = around.excluded_words
    make = partial(spelling.spelling_conversations, section, excluded=excluded)
    kind = f"{section} {spelling.CONVERSATIONS_VERSION} {sorted(excluded)}"
    about = "made from a list of English words (dwyl/english-words, public domain)"
    return _of_benchmarks(kind, [task_file("spelling", "train")], about, make, around)


_NAMED: dict[str, Callable[[Surroundings], Source]] = {
    "smoltalk": _smoltalk,
    "mmlu": _mmlu,
    "arc_easy": _arc("easy"),
    "arc_challenge": _arc("challenge"),
    "gsm8k": partial(
        _of_benchmarks,
        f"gsm8k {VERSION}",
        [task_file("gsm8k", "train")],
        "7,000 problems of GSM8K, MIT",
        gsm8k.gsm8k_conversations,
    ),
    "spelling": partial(_letters, "spelling"),
    "counting": partial(_letters, "counting"),
}
