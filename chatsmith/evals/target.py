"""What is measured: a bundle and the run it belongs to, or a checkpoint of transformers; and where its results go."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatsmith.checkpoint import bundle_fingerprint, resolve_bundle
from chatsmith.data.manifest import DataManifest, file_sha256, load_manifest
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.logs import Reporter
from chatsmith.runtime.run_directory import BUNDLE_STAGES, RunDirectory

SplitName = Literal["exam", "development"]


@dataclass(frozen=True)
class Target:
    """A model to be measured."""

    path: Path
    """The bundle, or the checkpoint's folder."""
    fingerprint: str
    """What is in it, as a hash."""
    run: RunDirectory | None = None
    manifest: DataManifest | None = None
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
    the run's data cannot be used."""
    bundle = resolve_bundle(path)
    run = RunDirectory(bundle.parent.parent)
    if bundle.name != "bundle" or bundle.parent.name not in BUNDLE_STAGES:
        return Target(bundle, bundle_fingerprint(bundle))
    manifest = None
    try:
        manifest = load_manifest(run.data)
    except UserError as error:
        if needs_data:
            raise
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
    """Where the results of a run, of a bundle in a run, or of a folder given with --results are. Raises UserError if
    there are none."""
    if (path / "evals").is_dir():
        return ResultPlaces(path / "evals", resolve_bundle(path).parent.name, split, max_examples)
    if path.name == "bundle" and (path.parents[1] / "evals").is_dir():
        return ResultPlaces(path.parents[1] / "evals", path.parent.name, split, max_examples)
    stages = {file.name.rsplit("-core")[0].rsplit("-chat")[0] for file in path.glob("*.json")}
    if len(stages) == 1:
        return ResultPlaces(path, stages.pop(), split, max_examples)
    raise UserError(
        f"{path} holds no results of one model: give a run that was evaluated, or a folder that "
        "`chatsmith evaluate --results` has written"
    )
