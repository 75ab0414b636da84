"""What the engine answers to a request that it cannot serve."""

from chatsmith.runtime.errors import UserError


class RequestError(UserError):
    """A request that cannot be served. `parameter` names the field at fault, `code` the kind of mistake."""

    def __init__(self, message: str, *, parameter: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.parameter = parameter
        self.code = code
