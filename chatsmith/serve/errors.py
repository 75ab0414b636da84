"""Answers other than success: OpenAI's error body, `{"error": {"message", "type", "param", "code"}}`, and its status;
below /api/ Ollama's, `{"error": message}`.

Messages are for the person who sent the request: what is wrong, and what to do. They never hold a traceback or a path
of this machine.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import HTTPException

CLIENT_CLOSED = 499
"""nginx's status, in the log alone, for a request whose client left before it had the whole answer."""

_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "timeout_error"}
_KNOWN = tomllib.loads(Path(__file__).with_name("errors.toml").read_text(encoding="utf-8"))


class ApiError(HTTPException):
    """An answer other than success. `retry_after` (seconds) becomes the header Retry-After."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.type = _TYPES.get(status, "invalid_request_error")
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"
        if status in (408, 413):
            # The rest of the request was not read, so the connection cannot be used again.
            self.headers["Connection"] = "close"

    def body(self, path: str = "") -> dict[str, Any]:
        """The JSON body, which is also what an error event in a stream carries; `path` says whose clients read it."""
        if path.startswith("/api/"):  # Ollama's
            return {"error": self.message}
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def rename(self, names: Mapping[str, str]) -> "ApiError":
        """The same error with the engine's parameter name replaced by the request's."""
        ours, self.param = self.param, names.get(self.param or "", self.param)
        if self.param and self.message.startswith(f"{ours} "):
            self.message = self.param + self.message.removeprefix(ours or "")
        return self


class ClientGone(ApiError):
    """The client closed its connection before it had the whole answer."""

    def __init__(self) -> None:
        super().__init__(CLIENT_CLOSED, "The client closed the connection.")


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: the request contradicts the API or itself."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, reason: str) -> ApiError:
    """400: a part of OpenAI's API that this server does not have."""
    return ApiError(400, f"{param}: {reason}", param=param, code="unsupported_parameter")


def known(code: str, *, param: str | None = None, retry_after: int | None = None, **words: Any) -> ApiError:
    """The answer of this name in errors.toml, with `words` in its message."""
    one = _KNOWN[code]
    message = one["message"].format(**words)
    return ApiError(one["status"], message, param=param, code=one.get("code", code), retry_after=retry_after)
