"""An even sample of a corpus: text from everywhere in it, in order, the same every time."""

from collections.abc import Iterable, Iterator

# Long enough that the cuts, which can split a word, do not matter; short enough that a sample of 1% of a few
# long books still has text from all over them.
CHUNK_CHARACTERS = 4096


def sample_evenly(texts: Iterable[str], share: float) -> Iterator[str]:
    """Chunks of the texts that make up about `share` (0 to 1) of their characters, evenly spread.

    A share of 1 or more gives everything. The sample exceeds its share by at most one chunk.
    """
    seen = taken = 0
    for text in texts:
        for start in range(0, len(text), CHUNK_CHARACTERS):
            chunk = text[start : start + CHUNK_CHARACTERS]
            seen += len(chunk)
            if taken < share * seen:
                taken += len(chunk)
                yield chunk
