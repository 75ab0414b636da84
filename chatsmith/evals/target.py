"""What is measured: a bundle and the run it belongs to, or a checkpoint of transformers; and where its results go."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatsmith.bundle import bundle_fingerprint, resolve_bundle
from chatsmith.data.dataset import FILE_NAME, DataManifest, file_sha256, load_manifest
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import BUNDLE_STAGES, RunDirectory

SplitName = Literal["exam", "development"]

_RESULT_FILE = re.compile(r"(.+?)-(?:base|core|chat|exam)(?:-development)?(?:-\d+)?\.json$")


@dataclass(frozen=True)
class Target:
    """A model to be measured."""

    path: Path
    """The bundle, or the checkpoint's folder."""
    fingerprint: str
    """What is in it, as a hash."""
    run: RunDirectory | None = None
    manifest: DataManifest | None = None
    """What the run learns from; None where the run has no data of its own, or they cannot be used."""
    is_transformers: bool = False

    @property
    def stage(self) -> str:
        """What the results are called by: in a run the stage that made the bundle, else the folder's own name."""
        return self.path.parent.name if self.run else self.path.name


@dataclass(frozen=True)
class ResultPlaces:
    """Where the results of one target go, and what they are called. Parts of a suite never take the place of all."""

    folder: Path
    stage: str
    split: SplitName = "exam"
    max_examples: int | None = None
    model: str = ""
    """The fingerprint of the model that stands there now; empty: unknown."""

    def suite(self, suite: str) -> Path:
        """The file of a suite."""
        return self.folder / f"{self._name(suite)}.json"

    def task(self, suite: str, task: str) -> Path:
        """The file of one task of a suite."""
        return self.folder / self._name(suite) / f"{task}.json"

    def _name(self, suite: str) -> str:
        split = "-development" if suite != "base" and self.split == "development" else ""
        part = f"-{self.max_examples}" if self.max_examples else ""
        return f"{self.stage}-{suite}{split}{part}"


def find_target(path: Path, reporter: Reporter, *, needs_data: bool) -> Target:
    """The bundle that is meant by `path`, and its run. Raises UserError if there is none, or, with `needs_data`, if
    the run's data have changed or cannot be read. A run that never had data is none of that: its manifest is None."""
    bundle = resolve_bundle(path)
    run = RunDirectory(bundle.parent.parent)
    if bundle.name != "bundle" or bundle.parent.name not in BUNDLE_STAGES:
        return Target(bundle, bundle_fingerprint(bundle))
    manifest = None
    if (run.data / FILE_NAME).is_file():
        try:
            manifest = load_manifest(run.data)
        except UserError as error:
            if needs_data:
                raise UserError(
                    f"{error}, or name a suite that does without: --suite exam, core or chat"
                ) from None
            reporter.notice(f"The run's data cannot be used: {error}")
    return Target(bundle, bundle_fingerprint(bundle), run, manifest)


def transformers_target(path: Path) -> Target:
    """A checkpoint of the transformers library, recognised by its files."""
    if not path.is_dir():
        raise UserError(f"{path} is no folder with a transformers checkpoint")
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".json", ".safetensors", ".txt", ".model"):
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return Target(path.resolve(), digest.hexdigest(), is_transformers=True)


def find_results(path: Path, split: SplitName, max_examples: int | None) -> ResultPlaces:
    """Where the results of a run, of a bundle in a run, or of a folder or file made by --results are. Raises UserError
    if there are none, or those of several models."""
    run = path.parents[1] if path.name == "bundle" else path
    if (run / "evals").is_dir():
        bundle = resolve_bundle(path)
        return ResultPlaces(
            run / "evals", bundle.parent.name, split, max_examples, bundle_fingerprint(bundle)
        )
    files = [path] if path.is_file() else list(path.glob("*.json"))
    models = {match[1] for file in files if (match := _RESULT_FILE.match(file.name))}
    if len(models) == 1:
        return ResultPlaces(path.parent if path.is_file() else path, models.pop(), split, max_examples)
    if models:
        raise UserError(
            f"{path} holds results of {', '.join(sorted(models))}: name a file of the one that is meant"
        )
    raise UserError(
        f"{path} holds no results: give a run that was evaluated, or what `chatsmith evaluate --results` has written"
    )
