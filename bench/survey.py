"""How fast `data prepare` reads: one process, several, and against what must be done at least.

    python bench/survey.py [--shards 48] [--megabytes 50]

Shards of web-like text are written into a temporary folder: 2.4 GB of it by default, so that the start of a process
(0.4 s) is little beside its work; three rounds then take about two minutes of CPU, and less than three minutes on two
idle cores. The floor is pyarrow's read of the column, the hash of each text and the hash of each file's bytes, alone,
in one process. Rounds are interleaved, and the best of each counts: wall time, and the CPU time of all processes, which
says on a busy machine what the wall time cannot.
"""

import argparse
import hashlib
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatsmith.data.dataset import DataManifest
from chatsmith.ingest.survey import survey


def main() -> None:
    """Print seconds and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=48)
    parser.add_argument("--megabytes", type=int, default=50, help="of text in a shard")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = _texts(arguments.megabytes * 1_000_000)
        for number in range(arguments.shards):
            table = pa.table({"text": [f"{number} {text}" for text in texts]})
            path = folder / f"shard_{number:05d}.parquet"
            pq.write_table(table, path, compression="zstd", row_group_size=1_000)
        ways: dict[str, Callable[[], object]] = {
            "the floor": lambda: _floor(folder),
            "one process": lambda: survey([folder], processes=1),
            "two processes": lambda: survey([folder], processes=2),
        }
        wall, used = dict.fromkeys(ways, float("inf")), dict.fromkeys(ways, float("inf"))
        found: dict[str, object] = {}
        for _ in range(arguments.rounds):
            for way, work in ways.items():
                started, cpu = time.perf_counter(), _cpu_seconds()
                found[way] = work()
                wall[way] = min(wall[way], time.perf_counter() - started)
                used[way] = min(used[way], _cpu_seconds() - cpu)
    one, two = found["one process"], found["two processes"]
    assert isinstance(one, DataManifest) and isinstance(two, DataManifest)
    assert one == two, "the number of processes changes nothing"
    for way in ways:
        print(f"{way:14} {wall[way]:6.2f} s, {used[way]:6.2f} s of CPU in all processes")
    print(f"one process / the floor (CPU): {used['one process'] / used['the floor']:.2f}")
    print(f"two processes / one (CPU):     {used['two processes'] / used['one process']:.2f}")
    print(f"one process / two (wall):      {wall['one process'] / wall['two processes']:.2f}")


def _cpu_seconds() -> float:
    """Of this process and of those that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _texts(characters: int) -> list[str]:
    """Documents of 500 to 8,000 characters, of words with a natural tail."""
    choose = random.Random(1)
    words = ["".join(choose.choices("etaoinshrdlu", k=choose.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    texts: list[str] = []
    written = 0
    while written < characters:
        texts.append(" ".join(choose.choices(words, weights, k=choose.randint(80, 1_300))))
        written += len(texts[-1])
    return texts


def _floor(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256").hexdigest()
        for text in pq.read_table(path, columns=["text"], use_threads=False)["text"].to_pylist():
            hashlib.blake2b(text.encode(), digest_size=8).digest()


if __name__ == "__main__":
    main()
