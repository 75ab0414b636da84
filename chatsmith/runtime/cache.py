"""Where downloads and compiled code are kept between commands, on machines of every kind.

Containers run as users without a name, a home, or one that can be written; and /tmp may refuse to execute what is
compiled there. Then a temporary folder serves, with one notice, until the process ends.
"""

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from chatsmith.runtime.rank import is_main

OTHER_PLACES = (Path("/var/tmp"), Path("/dev/shm"))
"""For a temporary folder where the usual one executes nothing."""


def usual_cache() -> Path | None:
    """$XDG_CACHE_HOME, or ~/.cache; None where nobody knows where home is. Whether it can be written is not asked."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except RuntimeError:
        return None


@functools.cache
def cache_folder() -> Path:
    """The usual cache, or a temporary folder where nothing can be written or executed there."""
    usual = usual_cache()
    try:
        if usual is not None:
            usual.mkdir(parents=True, exist_ok=True)
            if os.access(usual, os.W_OK | os.X_OK) and may_execute(usual):
                return usual
    except OSError:
        pass  # a home that is not there, or cannot be written
    places = [place for place in (Path(tempfile.gettempdir()), *OTHER_PLACES) if os.access(place, os.W_OK)]
    place = next(filter(may_execute, places), None)
    folder = Path(tempfile.mkdtemp(prefix="chatsmith-", dir=place))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if usual is None or not usual.is_dir():
        os.environ["XDG_CACHE_HOME"] = str(folder)  # for the processes that this one starts
    if is_main():
        sys.stderr.write(
            f"chatsmith: {usual or 'the home folder'} cannot hold a cache (XDG_CACHE_HOME names another place); until "
            f"the end of this command, a temporary folder serves: {folder}\n"
        )
    return folder


def shared_folder(name: str) -> Path:
    """The folder `name` for what runs share: in $CHATSMITH_CACHE, or in `chatsmith` in the cache."""
    named = os.environ.get("CHATSMITH_CACHE")
    return (Path(named) if named else (usual_cache() or cache_folder()) / "chatsmith") / name


def prepare_compiling() -> None:
    """Let torch keep compiled code elsewhere than in /tmp, where nothing may be executed there."""
    if not may_execute(Path(tempfile.gettempdir())):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "torchinductor"))


def may_execute(folder: Path) -> bool:
    """Whether the file system of `folder` lets files be executed."""
    return not os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
