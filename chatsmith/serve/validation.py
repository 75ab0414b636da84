"""From a JSON object to a checked request: strict types, and errors that name the parameter at fault.

Nothing is converted: `true`, `"5"` and `5.0` are no whole numbers. `null` means the same as leaving a field out, as in
OpenAI's schema. Fields that the schema does not know are let through and remembered, so that they can be counted.
"""

import re
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from chatsmith.serve.errors import ApiError, invalid

MAX_REASONS = 4
"""A field that may have several types is refused for as many reasons; more than this many explain nothing."""


class StrictModel(BaseModel):
    """The base of everything that a client sends."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def read(cls, obj: dict[str, Any]) -> Self:
        """The request that `obj` holds. Raises ApiError (400) with the parameter."""
        try:
            return cls.model_validate(obj)
        except ValidationError as error:
            raise _explained(error, obj) from None

    @property
    def unknown_fields(self) -> list[str]:
        """What was sent beside the fields of the schema, in its inner objects, too: `messages.cache_control`."""
        found = set(self.model_extra or {})
        for name in type(self).model_fields:
            value = getattr(self, name)
            # The items of a list are of one kind, so the first tells whether to look at a million numbers.
            inner = (
                value if isinstance(value, list) and value and isinstance(value[0], StrictModel) else [value]
            )
            for one in inner:
                if isinstance(one, StrictModel):
                    found.update(f"{name}.{field}" for field in one.unknown_fields)
        return sorted(found)


def _explained(error: ValidationError, obj: dict[str, Any]) -> ApiError:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = _path(found[0]["loc"], obj)
    field = first.split(".")[0]
    reasons = list(dict.fromkeys(_reason(one["msg"]) for one in found if _path(one["loc"], obj) == first))
    if len(reasons) > 1 or any(_path(one["loc"], obj).split(".")[0] == field for one in found[1:]):
        # The branches of a union fail in different places; the shortest path names what they have in common.
        alike = [one for one in found if _path(one["loc"], obj).split(".")[0] == field]
        first = min((_path(one["loc"], obj) for one in alike), key=len)
        reasons = list(dict.fromkeys(_reason(one["msg"]) for one in alike))
    return invalid(f"{first} {', or '.join(reasons[:MAX_REASONS])}", first)


def _reason(message: str) -> str:
    """pydantic's words, as the end of a sentence that begins with the parameter."""
    message = re.sub(r" or instance of \w+| after validation", "", message)
    message = re.sub(r"^(Input|String|List|Dictionary) should", "should", message)
    return "is missing" if message == "Field required" else message.replace("dictionary", "object")


def _path(location: tuple[int | str, ...], obj: Any) -> str:
    """The place as a client knows it: pydantic also names the branches of unions, which no client sent."""
    path: list[str] = []
    place = obj
    for step in location:
        if isinstance(place, dict):
            if step not in place and step != location[-1]:  # the last may be a field that is missing
                continue
            place = place.get(step)
        elif isinstance(place, list) and isinstance(step, int) and step < len(place):
            place = place[step]
        else:
            continue
        path.append(str(step))
    return ".".join(path)
