"""What the tests of all stages share."""

from tests.threads import one_thread

__all__ = ["one_thread"]
