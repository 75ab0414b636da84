"""The embedded default task: a small world in plain English, with its exam."""

from chatsmith.tasks.kindergarten.kindergarten import Kindergarten

__all__ = ["Kindergarten"]
