"""How long a tokenizer trains at full size, and in how much memory: 2 billion characters, as nanochat's.

    OMP_NUM_THREADS=1 RAYON_NUM_THREADS=1 python bench/tokenizer.py [--characters 2e9] [--vocab-size 65536]

The text is made as it is read, so that what is measured is the training. Its words have a natural tail: the frequency
of rank r falls as 1/r up to rank 7,873 and as r^-1.77 beyond, which is English's (Gerlach and Altmann 2013, Phys. Rev.
X 3, 021006). So there is no last rare word: every document has some that were never seen. Documents are cut at 10,000
characters, as nanochat's are; their lengths are lognormal, a few of them very long.
"""

import argparse
import os
import resource
import time
from collections.abc import Iterator

import numpy as np

from chatsmith.text.tokenizer import train_tokenizer

BEND, TAIL = 7_873, 1.77
DOCUMENT_CHARACTERS = 10_000
_SYLLABLES = [first + vowel for first in "bcdfghjklmnpqrstvwxyz" for vowel in "aeiou"]
_KNOWN = 1 << 20  # words that are spelled once and kept


def main() -> None:
    """Print what was read, seconds, and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--characters", type=float, default=2e9)
    parser.add_argument("--vocab-size", type=int, default=65_536)
    arguments = parser.parse_args()
    before, started = _peak_megabytes(), time.perf_counter()
    read = ranks = 0.0
    seen = np.zeros(
        1 << 27, dtype=bool
    )  # by rank, so that different words can be counted; 128 MiB, not the trainer's

    def texts() -> Iterator[str]:
        nonlocal read, ranks
        for text, words in documents():
            ranks += len(words)
            seen[words[words < len(seen)]] = True
            read += len(text)
            yield text
            if read >= arguments.characters:
                return

    tokenizer = train_tokenizer(texts(), arguments.vocab_size)
    wall, cpu = time.perf_counter() - started, sum(os.times()[:2])
    print(f"{read / 1e6:,.0f} M characters, {ranks / 1e6:,.1f} M words, {seen.sum():,} of them different")
    print(f"{tokenizer.vocab_size:,} ids in {wall:,.0f} s, {cpu:,.0f} s of CPU with the making of the text")
    print(f"peak memory {_peak_megabytes():,.0f} MB, of which {before:,.0f} MB before the first text")
    sample = "".join(text for (text, _), _ in zip(documents(seed=2), range(200), strict=False))
    print(f"{len(sample) / len(tokenizer.encode(sample)):.2f} characters a token on other text")


def documents(seed: int = 1) -> Iterator[tuple[str, np.ndarray]]:
    """Documents without end, each with the ranks of its words."""
    rng = np.random.default_rng(seed)
    known = np.array([_spelled(rank) for rank in range(_KNOWN)], dtype=object)
    head = np.log(BEND) / (np.log(BEND) + 1 / (TAIL - 1))
    while True:
        lengths = np.minimum(rng.lognormal(6.2, 1.1, size=1_000).astype(int) + 20, 50_000)
        u = 1 - rng.random(lengths.sum())
        is_common = rng.random(len(u)) < head
        ranks = np.where(is_common, BEND ** (1 - u), BEND * u ** (-1 / (TAIL - 1)))
        ranks = np.minimum(ranks, 1e15).astype(np.int64)
        ends = rng.choice([" ", " ", " ", " ", " ", " ", " ", ", ", ". ", ".\n"], size=len(u))
        words = known[np.minimum(ranks, _KNOWN - 1)]
        rare = np.flatnonzero(ranks >= _KNOWN)
        words[rare] = [_spelled(rank) for rank in ranks[rare].tolist()]
        pieces = (words + ends.astype(object)).tolist()
        start = 0
        for length in lengths.tolist():
            yield "".join(pieces[start : start + length])[:DOCUMENT_CHARACTERS], ranks[start : start + length]
            start += length


def _spelled(rank: int) -> str:
    """A word for a rank, another for each; frequent words are short, and all of them as long as English's (a mean of
    about five letters)."""
    letters, rank = "", 64 * rank
    while rank or not letters:
        rank, rest = divmod(rank, len(_SYLLABLES))
        letters += _SYLLABLES[rest]
    return letters


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
