"""What all requests share: the models, the keys, the metrics, and whether the server still takes work."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chatsmith.serve.errors import ApiError, unavailable, unknown_model
from chatsmith.serve.keys import Keys
from chatsmith.serve.metrics import Metrics
from chatsmith.serve.served_model import ServedModel

TOOLS = ("calculator",)
"""Tools that the server runs itself when the model calls them."""


@dataclass(frozen=True)
class HttpLimits:
    """How much of the server one request may take before it is understood."""

    max_body_bytes: int = 4 * 2**20
    read_seconds: float = 30.0
    """A request must have arrived whole within so long."""


class Service:
    """The state of a server."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        keys: Keys,
        metrics: Metrics,
        limits: HttpLimits,
        *,
        logs_prompts: bool = False,
    ) -> None:
        assert models
        self.models = {model.name: model for model in models}
        self.keys = keys
        self.metrics = metrics
        self.limits = limits
        self.logs_prompts = logs_prompts
        self._drained_by: float | None = None

    @property
    def status(self) -> Literal["ok", "loading", "draining"]:
        """Whether new work is taken. A model whose engines died once it was loaded does not count as loading."""
        if self._drained_by is not None:
            return "draining"
        return "ok" if all(model.is_loaded for model in self.models.values()) else "loading"

    @property
    def num_open(self) -> int:
        """Generating requests under way."""
        return sum(len(model.open) for model in self.models.values())

    def model(self, name: str | None) -> ServedModel:
        """The model of this name; without one, the first. Raises ApiError: 404, and 503 while draining."""
        self.check_open()
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise unknown_model(name, list(self.models))
        return self.models[name]

    def check_open(self) -> None:
        """Raise ApiError (503) while draining."""
        if self._drained_by is not None:
            left = max(1, min(60, round(self._drained_by - time.monotonic())))
            raise unavailable("The server is shutting down and takes no new work.", "draining", left)

    def check_health(self) -> None:
        """Raise ApiError (503) if an engine is dead."""
        for model in self.models.values():
            if not model.is_healthy:
                raise unavailable(
                    f"An engine of {model.name} died and is being restarted.",
                    "engine_dead",
                    model.retry_after,
                )

    def check_ready(self) -> None:
        """Raise ApiError (503) unless every model takes work."""
        self.check_open()
        for model in self.models.values():
            model.check_ready()

    def drain(self, seconds: float) -> None:
        """Take no new work from now on."""
        self._drained_by = time.monotonic() + seconds

    def abort(self, make_error: Callable[[], ApiError]) -> None:
        """End all requests under way with an error, each with its own."""
        for model in self.models.values():
            for generation in list(model.open):
                generation.abort(make_error())

    def cards(self) -> list[dict[str, Any]]:
        """The models as /v1/models lists them. Raises ApiError (503) while one is being loaded."""
        return [card(model) for model in self.models.values()]


def card(model: ServedModel) -> dict[str, Any]:
    """One model as /v1/models shows it. Raises ApiError (503) while it is being loaded."""
    loaded = model.loaded
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "chatsmith",
        "chatsmith": {
            "context_length": loaded.info.context_length,
            "vocab_size": loaded.info.vocab_size,
            "num_parameters": loaded.info.num_parameters,
            "defaults": asdict(loaded.defaults),
            "tools": list(TOOLS),
        },
    }
