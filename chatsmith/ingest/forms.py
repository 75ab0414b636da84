"""Generated texts and conversations as files like anyone's: parquet and JSON lines, which `sources` reads.

What generates them is no matter of this module; it streams what it is given to disk, in order.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from chatsmith.text.chat import Conversation, conversation_to_json

_ROW_GROUP = 1_000


def write_documents(path: Path, texts: Iterable[str]) -> None:
    """Write one string column `text`, a row a document, to a parquet file."""
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="zstd") as writer:
        for group in _groups(texts):
            writer.write_table(pa.table({"text": group}))


def write_conversations(path: Path, conversations: Iterable[Conversation]) -> None:
    """Write one JSON object with `messages` a line."""
    with path.open("w", encoding="utf-8") as file:
        for conversation in conversations:
            file.write(json.dumps(conversation_to_json(conversation), ensure_ascii=False) + "\n")


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(texts)
    while group := list(islice(remaining, _ROW_GROUP)):
        yield group
