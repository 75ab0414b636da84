"""`chatsmith data cache`: the tokens that runs share, what they were made of, and which may go."""

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatsmith.cli.config import TokenCacheConfig as Config
from chatsmith.data.tokens import ABOUT, IN_USE, PROGRESS
from chatsmith.runtime.cache import shared_folder
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError

DAY = 24 * 3600


def main(config: Config) -> None:
    """List the parts, the last used first; with `prune_days`, remove those that nobody uses."""
    reporter = Reporter(json=config.json)
    place = shared_folder("tokens")
    parts = sorted(map(_described, place.glob("*/")), key=lambda part: part["days"])
    if config.prune_days is not None:
        with _unused(place):
            for part in parts:
                if part["days"] >= config.prune_days:
                    shutil.rmtree(part["folder"])
                    part["state"] = "removed"
    if config.json:
        print(json.dumps({"folder": str(place), "parts": parts}))
        return
    rows = [
        [part["name"], f"{part['bytes'] / 1e6:,.1f} MB", f"{part['days']:.1f}", part["state"]]
        for part in parts
    ]
    reporter.table(f"Tokens in {place}", ["made of", "size", "days since use", "state"], rows)
    reporter.line(
        f"{sum(part['bytes'] for part in parts if part['state'] != 'removed') / 1e6:,.1f} MB in all."
    )


def _described(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_bytes())
        progress = json.loads((folder / PROGRESS).read_bytes())
        names = [Path(name).name for name in about["files"]]
        name = names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")
        state = "complete" if progress["complete"] else "begun"
        name = f"{name} ({about['split']})"
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        name, state = folder.name, "damaged"
    files = [path.stat() for path in folder.iterdir()]
    used = max((one.st_mtime for one in files), default=0.0)
    return {
        "folder": str(folder),
        "name": name,
        "bytes": sum(one.st_size for one in files),
        "days": max(0.0, (time.time() - used) / DAY),
        "state": state,
    }


@contextmanager
def _unused(place: Path) -> Iterator[None]:
    """Keep runs out while parts are removed. Raises UserError while one uses them."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / IN_USE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"a run uses the tokens in {place}; wait until it has ended") from error
        yield
