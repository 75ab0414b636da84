"""`chatsmith report`: what a run is made of, what it cost, and how good it is: `report.md` and `report.html`.

It only reads the run, finished or not, and takes no lock. With two runs it writes `comparison.md` and
`comparison.html` into the first.
"""

from pathlib import Path

from chatsmith.cli.config import ReportConfig as Config
from chatsmith.report.gather import gather
from chatsmith.report.render import Page, comparison, report
from chatsmith.runtime import atomic
from chatsmith.runtime.console import Reporter


def main(config: Config) -> None:
    """Write the report. Raises UserError if there is no run, or it cannot be written."""
    reporter = Reporter(json=config.json)
    found = gather(config.folder, config.price_per_hour)
    if config.other is None:
        page, name = report(found), "report"
    else:
        other = gather(config.other, config.price_per_hour)
        page, name, found = comparison(found, other), "comparison", {"a": found, "b": other}
    written = _write(page, config.folder, name)
    reporter.line(f"Written: {written[0]}, {written[1]}")
    reporter.result(found)


def write_report(run: Path, reporter: Reporter) -> None:
    """The report at the end of a command that has other things to do: what keeps it from being written is a notice."""
    try:
        written = _write(report(gather(run)), run, "report")
        reporter.line(f"Report: {written[1]}")
    except Exception as error:  # whatever it is, it must not take the place of how the run itself ended
        reporter.notice(f"there is no report: {type(error).__name__}: {error}")


def _write(page: Page, folder: Path, name: str) -> tuple[Path, Path]:
    """Write both files, unless they already say the same."""
    files = folder / f"{name}.md", folder / f"{name}.html"
    for path, text in zip(files, (page.markdown(), page.html()), strict=True):
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            atomic.write_text(path, text)
    return files
