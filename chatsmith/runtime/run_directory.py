"""The run directory: one folder with everything that one recipe made, and the recipe itself.

    runs/kindergarten/
      recipe.toml  metrics.jsonl
      data/  tokenizer/  tokens/
      pretrain/ mid/ sft/ rl/ each with bundle/ and state/
      evals/                  each stage's folder also has settings.toml and done.json

It answers where things are, with which settings a stage ran (`settings.toml`), whether its outputs are still those of
today's settings (`done.json`), and who may write here (one process at a time). It makes folders, but never reads or
writes a stage's outputs. A recipe says which stages run, in which order, with which settings:

    name = "kindergarten"
    description = "…"
    stages = ["data", "tokenizer", "pretrain"]
    [pretrain]
    depth = 4
    [frozen.pretrain.tokens]        # measured once in this run, then kept; see FrozenNumbers
    value = 3276800
    given = "…"
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TextIO

import tomli_w

from chatsmith.runtime import atomic
from chatsmith.runtime.errors import UserError, did_you_mean

KEY_FORMAT = 1  # raised when the meaning of a key changes, so that old outputs are made anew
STAGE_FOLDERS = {"evaluate": "evals"}  # every other stage's folder has the stage's name
BUNDLE_STAGES = ("pretrain", "mid", "sft", "rl")  # in pipeline order: the last one there is the newest
BUNDLE_FILE = "config.json"  # every bundle has it
# Fields that say where or how loudly a stage works, never what comes out of it.
NEVER_IN_KEY = frozenset({"run", "json", "track", "device"})


class RunDirectory:
    """Paths, lock and record of finished stages of the run at `path`. Making this object touches no disk."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.data = self.path / "data"
        self.tokenizer = self.path / "tokenizer"
        self.tokens = self.path / "tokens"
        self.evals = self.path / "evals"

    def stage(self, name: str) -> Path:
        """The folder of stage `name`."""
        return self.path / STAGE_FOLDERS.get(name, name)

    def bundle(self, name: str) -> Path:
        """The folder of the model bundle that stage `name` makes."""
        return self.stage(name) / "bundle"

    def checkpoints(self, name: str) -> dict[int, Path]:
        """The bundles that stage `name` kept along the way, by step."""
        folders = (path for path in (self.stage(name) / "steps").glob("*") if path.name.isdigit())
        return {int(path.name): path for path in sorted(folders, key=lambda path: int(path.name))}

    def drop_checkpoints(self, name: str, key: str) -> None:
        """Remove the bundles that stage `name` kept along the way under another key."""
        for path in self.checkpoints(name).values():
            if json.loads((path / BUNDLE_FILE).read_bytes())["provenance"].get("settings") != key:
                shutil.rmtree(path, ignore_errors=True)

    def state(self, name: str) -> Path:
        """The folder of the training state that stage `name` keeps for resuming."""
        return self.stage(name) / "state"

    def newest_bundle(self) -> Path:
        """The bundle of the furthest stage of the pipeline. Raises UserError if the run has none."""
        if not self.path.is_dir():
            raise UserError(f"there is no run at {self.path}; `chatsmith run` makes one")
        for name in reversed(BUNDLE_STAGES):
            if self.bundle(name).is_dir():
                return self.bundle(name)
        raise UserError(
            f"{self.path} holds no model yet; train one with: chatsmith pretrain {shlex.quote(str(self.path))}"
        )

    def create(self) -> None:
        """Make the folder, or raise UserError if something else is there or it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(
                f"{self.path} cannot be a run directory: a file is in the way; choose another name"
            ) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run directory for this process, making it if need be.

        Raises UserError at once, naming the other process, while another one holds it. The system drops the
        lock of a process that dies, so a stale lock file never blocks anyone. A folder that was made for this
        and stayed empty is removed again. Not reentrant.
        """
        is_new = not self.path.exists()
        self.create()
        lock_path = self.path / ".lock"
        try:
            file = lock_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.path, error) from error
        with file:
            _acquire(file, self.path)
            try:
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                # Only the holder writes here, so what has another process's number is a dead one's.
                atomic.sweep(
                    self.path, *(path for depth in ("*/", "*/*/", "*/*/*/") for path in self.path.glob(depth))
                )
                yield
            finally:
                if is_new and list(self.path.iterdir()) == [lock_path]:
                    lock_path.unlink()
                    self.path.rmdir()
                # Unlocked by hand because a forked worker that is still alive shares the open file.
                fcntl.flock(file, fcntl.LOCK_UN)

    def is_done(self, stage: str, key: str) -> bool:
        """Whether `stage` finished with this very key, and the outputs it named are still those it made.

        Of a bundle only the description is looked at, which seals the rest: see `bundle.check_bundle`.
        """
        done = self.done(stage)
        if done is None or done["key"] not in all_keys(key):
            return False
        hashes = done.get("hashes", {})  # an older chatsmith kept none
        record = self.stage(stage) / "done.json"
        if not record.exists():  # it was lost, or a kill came before it
            atomic.write_text(record, json.dumps(done | {"sha256": _record_hash(done)}, indent=2) + "\n")
        for output in done.get("outputs", []):
            path, expected = self.path / output, hashes.get(output)
            copy = self.stage(stage) / path.name
            if expected and _hash(path) != expected == _hash(copy):
                atomic.write_bytes(path, copy.read_bytes())
            if not path.exists() or expected not in (None, _hash(path)):
                return False
        return True

    def mark_done(
        self,
        stage: str,
        key: str,
        facts: Mapping[str, Any],
        outputs: Sequence[Path] = (),
        config: Any = None,
    ) -> None:
        """Record that `stage` finished: `facts` are numbers for the results table (seconds, scores, counts).

        `outputs` are files or folders inside the run without which the stage counts as not done. `config` holds the
        settings it ran with, however it was started: they are written to `settings.toml`, as a section of a recipe. Of
        files outside the stage's folder a copy is kept in it: a lost table of results costs no training.
        """
        names = {str(output.relative_to(self.path)): output for output in outputs}
        record = {
            "key": key,
            "finished_at": time.time(),
            "facts": dict(facts),
            "outputs": list(names),
            "hashes": {name: _hash(output) for name, output in names.items()},
        }
        text = json.dumps(record | {"sha256": _record_hash(record)}, indent=2) + "\n"
        for output in outputs:
            if output.is_file() and self.stage(stage) not in output.parents:
                atomic.write_bytes(self.stage(stage) / output.name, output.read_bytes())
        if config is not None:
            # The record once more: without one, hours of training count as not done.
            kept = tomli_w.dumps({"key": key, "done": text, stage: settings_of(config)})
            # Paths may hold bytes that are no text.
            atomic.write_bytes(self.stage(stage) / "settings.toml", kept.encode("utf-8", "replace"))
        atomic.write_text(self.stage(stage) / "done.json", text)

    def done_facts(self, stage: str) -> dict[str, Any] | None:
        """The facts given to `mark_done`, or None if the stage has never finished."""
        done = self.done(stage)
        return done and done["facts"]

    def done(self, stage: str) -> dict[str, Any] | None:
        """The newest whole record of `done.json` and `settings.toml`: "key", "finished_at", "facts" and outputs.

        None without one: the stage simply runs again.
        """
        found = []
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads((self.stage(stage) / "done.json").read_text(encoding="utf-8")))
        with contextlib.suppress(OSError, ValueError, KeyError):
            kept = tomllib.loads((self.stage(stage) / "settings.toml").read_text(encoding="utf-8"))
            found.append(json.loads(kept["done"]))
        whole = [done for done in found if _is_whole(done)]
        return max(whole, key=lambda done: done["finished_at"], default=None)


@dataclass(frozen=True)
class FrozenNumbers:
    """What a stage measured (a token budget, from minutes), kept in the run's recipe.toml for the settings with `key`:
    it is measured again when they change, and never otherwise."""

    run: RunDirectory
    stage: str
    key: str = ""

    def get(self, name: str) -> int | None:
        """The number kept for these very settings, if any."""
        kept = self._recipe().frozen.get(self.stage, {}).get(name)
        return int(kept["value"]) if kept and kept["given"] in all_keys(self.key) else None

    def keep(self, name: str, value: int) -> None:
        """Write a number into the recipe."""
        recipe = self._recipe()
        section = recipe.frozen.get(self.stage, {}) | {name: {"value": value, "given": self.key}}
        write_recipe(self.run.recipe, replace(recipe, frozen=recipe.frozen | {self.stage: section}))

    def _recipe(self) -> "Recipe":
        path = self.run.recipe
        return read_recipe(path) if path.exists() else Recipe(name=self.run.path.name)


def _is_whole(done: Any) -> bool:
    if not (isinstance(done, dict) and {"key", "finished_at", "facts"} <= done.keys()):
        return False
    seal = done.pop("sha256", None)  # an older chatsmith wrote none
    return seal == _record_hash(done) or (seal is None and "hashes" not in done)


def _record_hash(done: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(done, sort_keys=True).encode("utf-8")).hexdigest()


def _hash(output: Path) -> str | None:
    """SHA-256 of a file, or of what describes a bundle; None of other folders."""
    path = output / BUNDLE_FILE if output.is_dir() else output
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def resolve_bundle(path: Path) -> Path:
    """The bundle meant by `path`: a bundle itself, the one in a stage's folder, a run's newest, or with RUN/STAGE@N the
    one that the stage kept after step N.

    Raises UserError that lists what was looked for.
    """
    stage, at, step = path.name.partition("@")
    if at and not path.exists():
        kept = RunDirectory(path.parent).checkpoints(stage)
        if step.isdigit() and int(step) in kept:
            return kept[int(step)]
        there = f"there are {', '.join(map(str, kept))}" if kept else "`--keep-every N` keeps some"
        raise UserError(f"{path.parent} has no checkpoint {path.name}; {there}")
    if (path / BUNDLE_FILE).is_file():
        return path
    if (path / "bundle").is_dir():
        return path / "bundle"
    if not path.exists():
        raise UserError(f"{path} does not exist; give the folder of a run (runs/NAME) or of a bundle")
    if not path.is_dir():
        raise UserError(f"{path} is a file; give the folder of a run (runs/NAME) or of a bundle")
    if path.name in BUNDLE_STAGES and RunDirectory(path.parent).recipe.is_file():
        raise UserError(f"{path} holds no model; train it with: {command_for(path / 'bundle')}")
    try:
        return RunDirectory(path).newest_bundle()
    except UserError as error:
        stages = ", ".join(f"{stage}/bundle" for stage in reversed(BUNDLE_STAGES))
        raise UserError(
            f"{path} holds no model: neither {BUNDLE_FILE} nor one of bundle, {stages} is there; "
            f"give another folder, or train a model with `chatsmith pretrain {shlex.quote(str(path))}`"
        ) from error


def command_for(bundle: Path) -> str:
    """The command that makes this bundle of a run again; empty where it is not in a run."""
    stage = bundle.parent
    is_in_run = bundle.name == "bundle" and stage.name in BUNDLE_STAGES
    return f"chatsmith {stage.name} {shlex.quote(str(stage.parent))}" if is_in_run else ""


def run_of(bundle: Path) -> tuple[RunDirectory, str] | None:
    """The run that a bundle is in, and what it is called there (sft, pretrain@2000); None for one that stands alone."""
    stage = bundle.parent
    if bundle.name == "bundle" and stage.name in BUNDLE_STAGES:
        return RunDirectory(stage.parent), stage.name
    if stage.name == "steps" and stage.parent.name in BUNDLE_STAGES:
        return RunDirectory(stage.parents[1]), f"{stage.parent.name}@{bundle.name}"
    return None


# ---- settings and recipes ----


class StageKey(str):
    """A key, and those of stages that differ in how they compute alone, and so make the same."""

    others: tuple[str, ...] = ()


def all_keys(key: str) -> tuple[str, ...]:
    """The key, and the others that stand for the same."""
    return (key, *getattr(key, "others", ()))


def stage_key(config: Any, **inputs: str) -> StageKey:
    """The identity of a stage's outputs: sha256 over its settings and the keys of what it is made from.

    Fields in NEVER_IN_KEY, and those that the class names in a `NOT_IN_KEY` class variable, do not count. A field that
    was renamed counts under its first name (`metadata={"former": (…)}`), and one that was added later
    (`metadata={"new": True}`) not while it has its default, so that what is done stays done. Switches in `HOW` count in
    the text of the key, as ever, but the keys of either position stand for the same.
    """
    switches = {name: getattr(config, name) for name in getattr(config, "HOW", ())}
    key = StageKey(_hash_of(config, inputs, {}))
    key.others = tuple(_hash_of(config, inputs, {name: not value}) for name, value in switches.items())
    return key


def _hash_of(config: Any, inputs: Mapping[str, str], switches: Mapping[str, bool]) -> str:
    skipped = NEVER_IN_KEY | frozenset(getattr(config, "NOT_IN_KEY", ()))
    values = {
        one.metadata.get("former", (one.name,))[0]: switches.get(one.name, getattr(config, one.name))
        for one in fields(config)
        if one.name not in skipped
        and not (one.metadata.get("new") and getattr(config, one.name) == one.default)
    }
    content = {"format": KEY_FORMAT, "config": values, "inputs": inputs}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode("utf-8")).hexdigest()


def settings_of(config: Any) -> dict[str, Any]:
    """All settings of a dataclass that are not None, as people write them, in the types TOML has."""
    values = ((public_name(one.name), getattr(config, one.name)) for one in fields(config))
    return {name: _as_toml(value) for name, value in values if value is not None}


def public_name(name: str) -> str:
    """What people write for the field `name`: `from_` is only Python's spelling of `from`."""
    return name.removesuffix("_")


def _as_toml(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_toml(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Recipe:
    """The content of a recipe file."""

    name: str = ""
    description: str = ""
    stages: tuple[str, ...] = ()
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings by section; a section has the name of its stage."""
    frozen: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    """Measured values by section and name: {"value": …, "given": the key it was measured for}."""

    def to_toml(self) -> str:
        """The text of the recipe file."""
        content: dict[str, Any] = {
            "name": self.name,
            "description": self.description,
            "stages": list(self.stages),
        }
        content |= {name: section for name, section in self.sections.items() if section}
        if self.frozen:
            content["frozen"] = self.frozen
        return tomli_w.dumps(content)


def read_recipe(path: Path) -> Recipe:
    """The recipe in the file at `path`. Raises UserError if it is missing, no TOML or of another shape."""
    content = atomic.read_toml(path, "recipe")
    if not content:
        raise UserError(
            f"the recipe {path} is empty; delete it, and name the recipe again: chatsmith run RECIPE --run RUN"
        )
    name, description = content.pop("name", path.stem), content.pop("description", "")
    stages, frozen = content.pop("stages", []), content.pop("frozen", {})
    if not (isinstance(name, str) and isinstance(description, str)):
        raise UserError(f"the recipe {path}: name and description must be texts in quotes")
    if not isinstance(stages, list) or not all(isinstance(stage, str) for stage in stages):
        raise UserError(f'the recipe {path}: stages must be a list of names, like ["tokenizer", "pretrain"]')
    for key, section in content.items():
        if not isinstance(section, dict):
            hint = did_you_mean(key, ("name", "description", "stages"))
            raise UserError(f"the recipe {path}: unknown key {key!r}{hint}; settings belong in a [section]")
    return Recipe(name, description, tuple(stages), content, frozen)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write `recipe` to `path`, atomically."""
    atomic.write_text(path, recipe.to_toml())


def _acquire(file: TextIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().strip()
        process = f"process {owner}" if owner else "another process"
        raise UserError(
            f"{path} is in use by {process}; wait for it, stop it, or choose another run directory"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path} is on a file system without locks ({error.strerror}); choose another place"
        ) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    if error.errno in atomic.FULL:
        return UserError(
            f"the disk is full: the run directory {path} cannot be made; free space and repeat the command"
        )
    return UserError(
        f"the run directory {path} cannot be written ({error.strerror}); choose another, or fix permissions"
    )
