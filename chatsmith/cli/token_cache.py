"""`chatsmith data cache`: the tokens that runs share, what they were made of, and which may go."""

import fcntl
import json
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from chatsmith.cli.config import TokenCacheConfig as Config
from chatsmith.data.tokens import ABOUT, PROGRESS
from chatsmith.ingest.tokenizing import IN_USE
from chatsmith.runtime.cache import shared_folder
from chatsmith.runtime.console import Reporter
from chatsmith.runtime.errors import UserError


def main(config: Config) -> None:
    """List the parts, the last used first; with `prune_days`, remove those that were not used for so long. Raises
    UserError for that while a run uses any."""
    reporter = Reporter(json=config.json)
    place = shared_folder("tokens")
    parts = sorted(map(_described, place.glob("*/")), key=lambda part: part["days"])
    with ExitStack() as opened:
        if config.prune_days is not None and parts:
            lock = opened.enter_context((place / IN_USE).open("a"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"a run uses the tokens in {place}; wait until it has ended") from error
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
