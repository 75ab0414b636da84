"""`chatsmith data download`: fetch the shards of a data set, or the benchmarks, before they are needed."""

from collections.abc import Collection
from pathlib import Path

from chatsmith.cli.config import DownloadConfig as Config
from chatsmith.cli.settings import expanded
from chatsmith.ingest import hub
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError, did_you_mean
from chatsmith.tasks.benchmark_files import default_folder, fetch, has_file, origins


def main(config: Config) -> None:
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
            folder = expanded(config.eval_data) if config.eval_data else default_folder()
            fetch_benchmarks(folder, reporter, config.mirror, [] if name == "benchmarks" else [name])
            reporter.line(f"{name}: in {folder}")


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
