"""`chatsmith data prepare`: find and read all data once, split it, and write `<run>/data/manifest.json`.

Later stages read only what the manifest names. The word `kindergarten` among the data stands for the built-in
world, whose texts and conversations are generated into `<run>/data`. Other files are read where they are, and never
copied or changed. Of a hub's shards (hub:OWNER/NAME) those for validation and the first one are fetched and looked at;
the others come while the next stages work.

`chatsmith data download` fetches the shards of a data set, or the benchmarks, before they are needed; `chatsmith data
cache` lists the tokens that runs share; `chatsmith data inspect` is in `inspect_data`.
"""

import fcntl
import json
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from chatsmith.cli.config import KINDERGARTEN, DownloadConfig, TokenCacheConfig
from chatsmith.cli.config import DataConfig as Config
from chatsmith.cli.inspect_data import show_manifest
from chatsmith.cli.settings import expanded
from chatsmith.data.dataset import DataManifest, SourceFile, load_manifest
from chatsmith.data.documents import SUPPORTED, read_documents
from chatsmith.data.tokens import ABOUT, PROGRESS
from chatsmith.ingest import forms, hub
from chatsmith.ingest.files import ANY_TYPE, find_files
from chatsmith.ingest.survey import Role, survey
from chatsmith.ingest.tokenizing import IN_USE
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.cache import shared_folder
from chatsmith.runtime.console import Bar, Reporter
from chatsmith.runtime.errors import UserError, did_you_mean
from chatsmith.runtime.run_directory import RunDirectory, stage_key
from chatsmith.tasks.benchmark_files import default_folder, fetch, has_file, origins
from chatsmith.worlds.kindergarten import GENERATOR_VERSION, Kindergarten

STAGE = "data"
USES = ("data", "validation", "conversations", "validation_conversations")
GENERATED = (
    "train.parquet",
    "validation.parquet",
    "conversations_train.jsonl",
    "conversations_validation.jsonl",
)
"""The kindergarten's files, in the order of USES."""

Item = TypeVar("Item")


def main(config: Config) -> None:
    """Write the manifest of `config.run`, unless it is already what this would write. Raises UserError for
    data that cannot be read, naming the file."""

    reporter = Reporter()
    run = RunDirectory(config.run)
    with run.lock():
        named = Named.of(config)
        named.check_outside(run)
        # Another generator's texts are other data; settings that came later count where they are not the default.
        inputs = {
            "files": named.listing(config),
            "generator": GENERATOR_VERSION if named.is_kindergarten else "",
        }
        for name in sorted(config.NOT_IN_KEY):
            if (value := getattr(config, name)) != getattr(Config, name):
                inputs[name] = str(value)
        key = stage_key(config, **inputs)
        if run.is_done(STAGE, key) and _is_intact(run):
            reporter.line(f"The data in {run.data} is up to date.")
            return
        reporter.stage("Data", ", ".join(str(path) for path in config.data[:3]))
        started = time.monotonic()
        with new_folder(run.data) as folder:
            _gather(config, named, folder, reporter).save(folder)
        manifest = load_manifest(run.data)
        show_manifest(manifest, reporter)
        facts = {"seconds": round(time.monotonic() - started, 2)}
        for name, split in (("documents", manifest.documents), ("conversations", manifest.conversations)):
            facts |= {name: split.train_items if split else 0}
            facts |= {f"validation_{name}": split.validation_items if split else 0}
        run.mark_done(STAGE, key, facts, [run.data / "manifest.json"], config)


@dataclass
class Named:
    """The files and shards that the settings name, without the kindergarten's."""

    is_kindergarten: bool
    files: dict[str, list[Path]] = field(default_factory=lambda: {use: [] for use in USES})
    """By what they are for."""
    shards: dict[Path, SourceFile] = field(default_factory=dict)
    """Those of hubs, by where they are or will be."""
    listed: dict[Path, tuple[Role, SourceFile]] = field(default_factory=dict)
    """Those of `shards` that are not read before they are used, or are for validation."""
    notices: list[str] = field(default_factory=list)
    bytes: int = 0
    """Of the files, after `listing`."""

    @staticmethod
    def of(config: Config) -> "Named":
        """Asks the hubs for their listings. Raises UserError if one cannot be had."""
        named = Named(KINDERGARTEN in config.data)
        for use, paths in named.files.items():
            for path in getattr(config, use):
                if hub.is_source(path):
                    paths += named.find(path, use, bool(config.validation))
                elif path != KINDERGARTEN:
                    paths.append(expanded(path))
        return named

    def find(self, source: Path, use: str, has_validation: bool) -> list[Path]:
        """The places of a source's shards."""
        found = hub.find_shards(source)
        if found.repository.is_earlier:
            self.notices.append(f"{source}: the hub cannot be reached, so what it listed before is taken")
        files = list(found.files)
        is_remote = all(file.is_remote for file in files)
        if use == "data":
            pinned = () if has_validation else found.validation
            if not is_remote:  # a folder stands in for the hub
                self.files["validation"] += [file.path for file in pinned]
                return [file.path for file in files]
            files += [file for file in pinned if file not in files]
            if pinned or has_validation:
                self.listed |= {file.path: ("train", file) for file in found.files}
                self.listed |= {file.path: ("validation", file) for file in pinned}
        elif use == "validation" and is_remote:
            self.listed |= {file.path: ("validation", file) for file in files}
        self.shards |= {file.path: file for file in files}
        return [file.path for file in files]

    def check_outside(self, run: RunDirectory) -> None:
        """Refuse data inside the folder that this stage replaces."""
        for path in chain(*self.files.values()):
            if path.resolve().is_relative_to(run.data.resolve()):
                raise UserError(
                    f"{path} lies in {run.data}, which this command rebuilds; move it and name it again"
                )

    def listing(self, config: Config) -> str:
        """A hash of the names, sizes and times of the files named: what tells a changed folder quickly. Of shards, the
        hashes count, and for what they are."""

        def here(*uses: str) -> list[Path]:
            return [path for use in uses for path in self.files[use] if path not in self.shards]

        texts = find_files(here("data", "validation"), _types(config))
        chats = find_files(here("conversations", "validation_conversations"), forms.TYPES)
        files = [(file, file.stat()) for file in dict.fromkeys((*texts, *chats))]
        self.bytes = sum(status.st_size for _, status in files)
        lines = [f"{file} {status.st_size} {status.st_mtime_ns}" for file, status in files]
        for use, paths in self.files.items():
            for path in paths:
                if file := self.shards.get(path):
                    role = self.listed.get(path, ("read",))[0]
                    lines.append(f"{use} {role} {file.sha256 if file.is_remote else file.path} {file.bytes}")
        return sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _types(config: Config) -> tuple[str, ...]:
    return (*SUPPORTED, *ANY_TYPE) if config.as_text else SUPPORTED


def _gather(config: Config, named: Named, folder: Path, reporter: Reporter) -> DataManifest:

    first = next((path for path, (role, _) in named.listed.items() if role == "train"), None)
    wanted = [
        file
        for path, file in named.shards.items()
        if path == first or path not in named.listed or named.listed[path][0] == "validation"
    ]
    hub.fetch(wanted, reporter)
    if first is not None and next(read_documents([first], [], config.text_column), None) is None:
        raise UserError(f"{first} holds no documents")
    if named.is_kindergarten:
        _generate_kindergarten(config, folder, reporter)
        for paths, name in zip(named.files.values(), GENERATED, strict=True):
            paths.insert(0, folder / name)
    columns = dict(pair.split("=", 1) for pair in config.columns)
    own = (forms.column_map(columns),) if columns else ()
    with reporter.progress("reading", named.bytes or None, "bytes") as bar:
        manifest = survey(
            **named.files,
            source="kindergarten" if named.is_kindergarten else "files",
            chats=forms.ConversationFiles(folder / "conversations", (*own, *forms.FORMS)),
            held_out=config.held_out,
            text_column=config.text_column,
            types=_types(config),
            listed=named.listed,
            advance=bar.advance,
        )
    return replace(manifest, notices=(*named.notices, *manifest.notices))


def _generate_kindergarten(config: Config, folder: Path, reporter: Reporter) -> None:

    sizes = config.kindergarten_documents, config.kindergarten_conversations, config.kindergarten_validation
    task = Kindergarten(config.seed, *sizes)
    with reporter.progress("generating", sum(sizes) + sizes[-1], "texts") as bar:
        for split in ("train", "validation"):
            forms.write_documents(folder / f"{split}.parquet", _counted(task.documents(split), bar))
            forms.write_conversations(
                folder / f"conversations_{split}.jsonl", _counted(task.conversations(split), bar)
            )


def _counted(items: Iterator[Item], bar: Bar) -> Iterator[Item]:
    for item in items:
        yield item
        bar.advance()


def _is_intact(run: RunDirectory) -> bool:
    with suppress(UserError):
        load_manifest(run.data)
        return True
    return False


def download(config: DownloadConfig) -> None:
    """Fetch all that is named and not there yet. Raises UserError for a name that is not known, and what cannot be
    had."""
    reporter = Reporter()
    groups = sorted({path.split("/")[0] for path in origins()})
    known = (*groups, "benchmarks", "hub:OWNER/NAME")
    if not config.names:
        raise UserError(f"name what to download: {', '.join(known)}")
    for name in config.names:
        if name not in known[:-1] and not hub.is_source(name):
            raise UserError(f"there is no {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}")
    for name in config.names:
        if hub.is_source(name):
            found = hub.find_shards(name)
            files = list(dict.fromkeys((*found.validation, *found.files)))
            hub.fetch(files, reporter)
            size = sum(file.bytes for file in files)
            reporter.line(f"{name}: {len(files):,} files, {size / 1e6:,.1f} MB, in {files[0].path.parent}")
        else:
            folder = eval_folder(config.eval_data)
            fetch_benchmarks(folder, reporter, config.mirror, [] if name == "benchmarks" else [name])
            reporter.line(f"{name}: in {folder}")


def eval_folder(given: Path | None) -> Path:
    """Where the benchmarks' files are, or will be: the folder given, or the cache of downloads."""
    return expanded(given) if given else default_folder()


def fetch_benchmarks(
    folder: Path, reporter: Reporter, mirror: str = "", groups: Collection[str] = ()
) -> None:
    """Fetch the benchmarks' files that are missing in `folder`: of these groups, e.g. arc, or of all but the
    vocabularies, which no evaluation needs."""
    groups = groups or {path.split("/")[0] for path in origins()} - {"vocabularies"}
    missing = [
        origin
        for path, origin in origins().items()
        if not has_file(folder, path) and path.split("/")[0] in groups
    ]
    if not missing:
        return
    with reporter.progress("benchmarks", len(missing), "files") as bar:
        for origin in missing:
            try:
                notice = fetch(origin, folder, mirror=mirror)
            except UserError as error:
                raise UserError(
                    f"{error}; try again, name a copy with --mirror, or put the files in place by hand "
                    "(docs/evaluation.md has the layout)"
                ) from None
            if notice:
                reporter.notice(notice)
            bar.advance(1)


def cache(config: TokenCacheConfig) -> None:
    """List the parts, the last used first; with `prune_days`, remove those that were not used for so long. Raises
    UserError for that while a run uses any."""
    reporter = Reporter(json=config.json)
    place = shared_folder("tokens")
    parts = sorted(map(_described, place.glob("*/")), key=lambda part: part["days"])
    if config.prune_days is not None and parts:
        with (place / IN_USE).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"a run uses the tokens in {place}; wait until it has ended") from error
            for part in parts:
                if part["days"] >= config.prune_days:
                    shutil.rmtree(part["folder"])
                    part["state"] = "removed"
    reporter.result({"folder": str(place), "parts": parts})
    rows = [
        [part["name"], f"{part['bytes'] / 1e6:,.1f} MB", f"{part['days']:.1f}", part["state"]]
        for part in parts
    ]
    reporter.table(f"Tokens in {place}", ["made of", "size", "days since use", "state"], rows)
    size = sum(part["bytes"] for part in parts if part["state"] != "removed")
    reporter.line(f"{size / 1e6:,.1f} MB in all.")


def _described(folder: Path) -> dict[str, Any]:
    files = [path.stat() for path in folder.iterdir()]
    used = max((one.st_mtime for one in files), default=0.0)
    try:
        about, progress = (json.loads((folder / name).read_bytes()) for name in (ABOUT, PROGRESS))
        first, *others = about["files"]
        name = Path(first).name + (f" and {len(others):,} more" if others else "") + f" ({about['split']})"
        state = "complete" if progress["complete"] else "begun"
    except (OSError, ValueError, KeyError, TypeError):
        name, state = folder.name, "damaged"
    return {
        "folder": str(folder),
        "name": name,
        "bytes": sum(one.st_size for one in files),
        "days": max(0.0, (time.time() - used) / (24 * 3600)),
        "state": state,
    }
