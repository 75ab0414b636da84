"""What the server answers when it cannot do what was asked: OpenAI's error body, with the right status.

Every answer that is not a success has the body `{"error": {"message", "type", "param", "code"}}`. Messages are for
the person who sent the request: what is wrong, and what to do. They never hold a traceback or a path of this machine.
"""

from typing import Any


class ApiError(Exception):
    """An answer other than success. `retry_after` (seconds) becomes the header Retry-After."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """The JSON body, which is also what an error event in a stream carries."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """The headers that belong to this answer."""
        headers: dict[str, str] = {}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):
            # What is left of the request was not read, so the connection cannot be used again.
            headers["Connection"] = "close"
        return headers


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """The request says something that cannot be."""
    return ApiError(400, message, param=param, code=code)


def unsupported(param: str, what: str) -> ApiError:
    """The request asks for something of OpenAI's API that this server does not have."""
    return ApiError(400, f"{param}: {what}", param=param, code="unsupported_parameter")


def context_exceeded(length: int, context: int, param: str) -> ApiError:
    """The prompt leaves no room for a reply."""
    return ApiError(
        400,
        f"This model's context holds {context} tokens, the reply included, but the prompt has {length}. "
        "Shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def unknown_model(name: str, known: list[str]) -> ApiError:
    """There is no model of this name."""
    return ApiError(
        404,
        f"The model {name[:100]!r} does not exist. This server has: {', '.join(known)}.",
        param="model",
        code="model_not_found",
    )


def busy(message: str, code: str, retry_after: int) -> ApiError:
    """There is more work than may wait; to be tried again."""
    return ApiError(429, message, type="rate_limit_error", code=code, retry_after=retry_after)


def unavailable(message: str, code: str, retry_after: int) -> ApiError:
    """The server cannot take work now: loading, draining, restarting, or too slow to begin in time."""
    return ApiError(503, message, type="server_error", code=code, retry_after=retry_after)


def overdue(seconds: float) -> ApiError:
    """The reply was not finished within the deadline of a request."""
    return ApiError(
        504,
        f"The reply was not finished within {seconds:g} seconds. Ask for fewer tokens, or try later.",
        type="timeout_error",
        code="deadline_exceeded",
    )


def internal(
    message: str = "The server failed to answer this request.", code: str = "internal_error"
) -> ApiError:
    """A fault of ours."""
    return ApiError(500, message, type="server_error", code=code)
