"""Proof that a refactoring changed nothing: the same probes with two checkouts of chatsmith, compared.

    python bench/oracle.py --old ../before --new . [--parts weights,resume,data,engine,http,cli] [--json]

Each part is a script in bench/oracle/ that runs in an empty folder, with the tree on PYTHONPATH and one thread, and
writes {check: value} as JSON. Values must be equal to the last digit. The old tree's values are kept in --cache, by
commit and by the probes' own content, so that later runs probe the new tree alone. Exit code 1: something differs;
2: a probe failed. Reviewed changes are passed over with --ignore 'weights:*/config.json'.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = ("weights", "resume", "data", "engine", "http", "cli")
PROBES = Path(__file__).resolve().parent / "oracle"
PYTHON = Path(sys.executable)
CACHE = Path(tempfile.gettempdir()) / "chatsmith-oracle"
SHOWN = 12  # differences of a part in the table

Result = dict[str, Any]


class ProbeFailed(Exception):
    """A probe ended without a result."""


def main() -> int:
    """Probe both trees, compare, print the table."""
    options = read_options()
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="oracle-") as scratch:
        for part in options.parts:
            started = time.monotonic()
            try:
                old = kept_result(part, options, Path(scratch))
                new = probe(part, options.new, options, Path(scratch))
                found = [one for one in differences(old, new) if not is_ignored(part, one, options.ignore)]
                entry = {"equal": not found, "checks": len(old | new), "differences": found}
            except ProbeFailed as failure:
                entry = {"equal": False, "checks": 0, "failed": str(failure), "differences": []}
            report[part] = {**entry, "seconds": round(time.monotonic() - started, 1)}
            if not options.json:
                show(part, report[part])
    if options.json:
        print(json.dumps(report, indent=1))
    if any("failed" in entry for entry in report.values()):
        return 2
    return 0 if all(entry["equal"] for entry in report.values()) else 1


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=tree, required=True, help="the checkout that is right")
    parser.add_argument("--new", type=tree, required=True, help="the checkout that is compared with it")
    parser.add_argument("--parts", type=parts, default=PARTS, help=f"of {','.join(PARTS)}; default all")
    parser.add_argument("--python", type=Path, default=PYTHON, help="the interpreter, the same for both")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the old tree's results are kept")
    parser.add_argument("--fresh", action="store_true", help="probe the old tree again")
    parser.add_argument(
        "--ignore", action="append", default=[], help="PART:CHECK pattern of differences passed over"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all differences")
    return parser.parse_args()


def tree(text: str) -> Path:
    """A checkout of chatsmith."""
    path = Path(text).resolve()
    if not (path / "chatsmith" / "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"{path} is no checkout of chatsmith")
    return path


def parts(text: str) -> list[str]:
    """Names of parts."""
    names = text.split(",")
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return names


# ---- probing ----


def kept_result(part: str, options: argparse.Namespace, scratch: Path) -> Result:
    """The old tree's result, from the cache where it is there."""
    key = state_of(part, options)
    file = options.cache / f"{part}-{key}.json"
    if key and file.is_file() and not options.fresh:
        return json.loads(file.read_text())
    result = probe(part, options.old, options, scratch)
    if key:
        options.cache.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(result))
        unfinished.replace(file)
    return result


def state_of(part: str, options: argparse.Namespace) -> str:
    """A hash of all that the old tree's result depends on; empty if the tree has changes that no commit holds."""
    git = ["git", "-C", str(options.old)]
    if subprocess.run(
        [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
    ).stdout.strip():
        return ""
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    libraries = subprocess.run(
        [options.python, "-c", "import torch, sys; print(torch.__version__, sys.version)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    sources = [(PROBES / name).read_text() for name in (f"probe_{part}.py", "site/sitecustomize.py")]
    if "import locations" in sources[0] or "from locations" in sources[0]:
        # Where things are in the new tree is not part of what the old one gives; how they are made is.
        sources.append((PROBES / "locations.py").read_text().partition("def find(")[2])
    if "import probe_weights" in sources[0]:
        sources.append((PROBES / "probe_weights.py").read_text())
    return hashlib.sha256("\0".join([commit, libraries, platform.node(), *sources]).encode()).hexdigest()[:16]


def probe(part: str, tree: Path, options: argparse.Namespace, scratch: Path) -> Result:
    """Run a part's script with a tree."""
    if not options.json:
        print(f"  {part}: probing {tree} ...", file=sys.stderr, flush=True)
    work, out = scratch / "work", scratch / "result.json"
    shutil.rmtree(work, ignore_errors=True)
    out.unlink(missing_ok=True)
    work.mkdir()
    # The old tree's recipe for both: what is asked must not change with what answers.
    command = [str(options.python), str(PROBES / f"probe_{part}.py"), recipe_of(options), str(out)]
    done = subprocess.run(
        command, cwd=work, env=environment(tree, options.old, scratch), capture_output=True, text=True
    )
    if done.returncode or not out.is_file():
        raise ProbeFailed(f"{tree}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-6000:]}")
    return json.loads(out.read_text())


def recipe_of(options: argparse.Namespace) -> str:
    """The tiny recipe."""
    return str(options.old / "tests" / "recipes" / "tiny.toml")


def environment(tree: Path, old: Path, scratch: Path) -> dict[str, str]:
    """For a probe and all that it starts: this tree, one thread, no colours, nothing of the caller's."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "CC") if name in os.environ}
    return (
        {
            **kept,
            "PYTHONPATH": f"{tree}{os.pathsep}{PROBES / 'site'}",
            "ORACLE_TREE": str(tree),
            "ORACLE_OLD": str(old),  # for `resume`, where it begins and the tree goes on
            "PYTHONDONTWRITEBYTECODE": "1",
            "XDG_CACHE_HOME": str(scratch / f"cache-{hashlib.sha256(str(tree).encode()).hexdigest()[:8]}"),
            "HF_HUB_OFFLINE": "1",
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }
        | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    )


# ---- comparing ----


def differences(old: Result, new: Result) -> list[dict[str, Any]]:
    """For each check that is not equal: the first place where it is not, and both values there."""
    found = []
    for check in {**old, **new}:
        places = list(unequal(old.get(check, "(missing)"), new.get(check, "(missing)"), ""))
        if places:
            place, before, after = places[0]
            found.append({"check": check, "at": place, "old": before, "new": after, "places": len(places)})
    return found


def unequal(old: Any, new: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Every place where two JSON values differ. NaN equals NaN."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in {**old, **new}:
            yield from unequal(old.get(name, "(missing)"), new.get(name, "(missing)"), f"{place}.{name}")
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{place}.length", len(old), len(new)
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from unequal(before, after, f"{place}[{index}]")
    elif type(old) is not type(new) or (old != new and not (old != old and new != new)):
        yield place, old, new


def is_ignored(part: str, difference: dict[str, Any], patterns: list[str]) -> bool:
    """Is it one of the reviewed ones?"""
    return any(fnmatch.fnmatchcase(f"{part}:{difference['check']}", pattern) for pattern in patterns)


def show(part: str, entry: dict[str, Any]) -> None:
    """A part's rows of the table."""
    found = entry["differences"]
    if "failed" in entry:
        print(f"{part:<8}  FAILED  {entry['failed']}")
        return
    detail = f"{entry['checks']} checks, {entry['seconds']:.0f} s" + (
        f", {len(found)} differ" if found else ""
    )
    print(f"{part:<8}  {'equal' if entry['equal'] else 'DIFFERS'}  {detail}")
    for one in found[:SHOWN]:
        print(f"          {one['check']} at {one['at'] or 'itself'} ({one['places']} places)")
        print(f"            old {shortened(one['old'], one['new'])}")
        print(f"            new {shortened(one['new'], one['old'])}")
    if len(found) > SHOWN:
        print(f"          ... and {len(found) - SHOWN} more; --json shows all")


def shortened(value: Any, other: Any) -> str:
    """A value, from shortly before where it begins to differ from the other."""
    text, reference = json.dumps(value, ensure_ascii=False), json.dumps(other, ensure_ascii=False)
    same = num_alike(text, reference)
    start = max(0, same - 40)
    return ("…" if start else "") + text[start : start + 160] + ("…" if len(text) > start + 160 else "")


def num_alike(text: str, reference: str) -> int:
    """With how many equal characters two texts begin."""
    pairs = zip(text, reference, strict=False)
    return next(
        (index for index, (one, other) in enumerate(pairs) if one != other), min(len(text), len(reference))
    )


if __name__ == "__main__":
    sys.exit(main())
