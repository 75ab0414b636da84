"""`chatsmith data download`: fetch the shards of a data set, or the benchmarks, before they are needed."""

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
    for name in config.names:
        if name not in (*groups, "benchmarks") and not hub.is_source(name):
            known = (*groups, "benchmarks", "hub:OWNER/NAME")
            raise UserError(f"there is no {name!r}{did_you_mean(name, known)}; known are {', '.join(known)}")
    for name in config.names:
        if hub.is_source(name):
            _fetch_shards(name, reporter)
        else:
            _fetch_benchmarks(groups if name == "benchmarks" else [name], config, reporter)


def _fetch_shards(name: str, reporter: Reporter) -> None:
    found = hub.find_shards(name)
    files = list(dict.fromkeys((*found.validation, *found.files)))
    missing = [file for file in files if file.is_remote and not file.path.exists()]
    if missing:
        with reporter.progress(name, sum(file.bytes for file in missing), "bytes") as bar:
            hub.fetch(missing, bar.advance)
    size = sum(file.bytes for file in files)
    reporter.line(f"{name}: {len(files):,} files, {size / 1e6:,.1f} MB, in {files[0].path.parent}")


def _fetch_benchmarks(groups: list[str], config: Config, reporter: Reporter) -> None:
    folder = expanded(config.eval_data) if config.eval_data else default_folder()
    wanted = [origin for path, origin in origins().items() if path.split("/")[0] in groups]
    missing = [origin for origin in wanted if not has_file(folder, origin.path)]
    if missing:
        with reporter.progress(", ".join(groups), len(missing), "files") as bar:
            for origin in missing:
                if notice := fetch(origin, folder, mirror=config.mirror):
                    reporter.notice(notice)
                bar.advance(1)
    reporter.line(f"{', '.join(groups)}: {len(wanted):,} files in {folder}")
