"""The built-in data set: a small world in plain English, with its exam."""

from chatsmith.worlds.kindergarten.texts import Kindergarten

__all__ = ["GENERATOR_VERSION", "Kindergarten"]

GENERATOR_VERSION = "ca976c6c7a9ff9df12b704a9b5e157330141b4377de98fc98f2ed153903db810"
"""Changes whenever a generated text changes; runs made with another version are rerun. This first one is a hash of the
source files it was introduced with, so that finished runs stay finished."""

SUGGESTIONS = (
    "Hello! Who are you?",
    "What is 37 plus 58?",
    "Spell the word garden.",
    "What is the opposite of day?",
    "Tell me a story.",
    "Tell me a joke.",
)
"""What a model of a few million parameters that was trained on it can answer."""
