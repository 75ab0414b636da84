"""/openapi.json: what each endpoint takes and answers.

The framework describes the answers from their schemas; the requests are described here, since this server reads bodies
itself (see `json_body` and `validation`) and the framework does not know of it.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from chatsmith.serve.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from chatsmith.serve.responses import ErrorResponse

_REASONS = {
    400: "The request is wrong: `param` names the field, `code` the mistake.",
    401: "The API key is missing or unknown.",
    404: "There is no such model.",
    408: "The request did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "There is no room now; come back after `Retry-After` seconds.",
    500: "A fault of the server.",
    503: "Loading, draining, restarting, or too busy to begin in time; come back after `Retry-After` seconds.",
    504: "The reply was not finished within the deadline.",
}
_BODY = (400, 401, 404, 408, 413, 415, 500, 503)
_RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The answers other than success, for a route."""
    return {
        status: {
            "model": ErrorResponse,
            "description": _REASONS[status],
            **({"headers": _RETRY} if status in (429, 503) else {}),
        }
        for status in statuses
    }


def generation_errors() -> dict[int | str, dict[str, Any]]:
    """Those of the endpoints that generate."""
    return errors(*sorted((*_BODY, 429, 504)))


def body_errors() -> dict[int | str, dict[str, Any]]:
    """Those of other endpoints with a body."""
    return errors(*_BODY)


def streamed(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Success, as one JSON object or as server-sent events."""
    events = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: {"model": model, "description": "The reply.", "content": events}}


def takes(request: type[BaseModel]) -> dict[str, Any]:
    """The body of a route, by reference to the schema that `describe` adds."""
    schema = {"$ref": f"#/components/schemas/{request.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(
        title="chatsmith",
        version=app.version,
        description="An OpenAI-compatible API, and what goes beyond it.",
        routes=app.routes,
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for request in (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest):
        schema = request.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {f"{name}": one for name, one in schema.pop("$defs", {}).items() if name not in schemas}
        schemas[request.__name__] = schema
    return document
