"""Chunks of a stream as bytes. What all chunks of a stream have in common is encoded once."""

import json
from typing import Any

from chatsmith.serve.requests import StreamOptions
from chatsmith.serve.usage import Usage


class ChunkWriter:
    """Writes the chunks of one stream."""

    def __init__(
        self,
        id: str,
        object: str,
        created: int,
        model: str,
        fingerprint: str,
        options: StreamOptions | None,
        usage: Usage,
    ) -> None:
        self._fields = {
            "id": id,
            "object": object,
            "created": created,
            "model": model,
            "system_fingerprint": f"fp_{fingerprint[:12]}",
        }
        self._head = b"data: " + _json(self._fields)[:-1] + b',"choices":['
        self._usage = usage
        self._with_usage = bool(options and options.include_usage)
        self._in_every_chunk = bool(options and options.continuous_usage_stats)
        self._usual_tail = b',"usage":null}\n\n' if self._with_usage else b"}\n\n"

    def fields(self, object: str) -> dict[str, Any]:
        """The common fields, for an answer that is no stream."""
        return {**self._fields, "object": object}

    def chunk(self, choice: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        """The event of one choice; `more` are further fields of the chunk."""
        return self._head + _json(choice) + b"]" + self._tail(more)

    def end(self) -> bytes:
        """The last chunk, with the token counts, if it is asked for."""
        if not self._with_usage:
            return b""
        return self._head + b'],"usage":' + _json(self._usage.to_json()) + b"}\n\n"

    def _tail(self, more: dict[str, Any] | None) -> bytes:
        if more is None and not self._in_every_chunk:
            return self._usual_tail
        fields = dict(more or {})
        if self._in_every_chunk:
            fields["usage"] = self._usage.to_json()
        elif self._with_usage:
            fields["usage"] = None
        return b"," + _json(fields)[1:] + b"\n\n" if fields else b"}\n\n"


# json.dumps would make a new encoder for every chunk.
_encoder = json.JSONEncoder(separators=(",", ":"))


def _json(value: Any) -> bytes:
    return _encoder.encode(value).encode()
