"""chatsmith trains a ChatGPT of your own from nothing and then serves it. Importing it loads nothing else."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatsmith.llm import LLM, SamplingParams

__all__ = ["LLM", "SamplingParams", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in ("LLM", "SamplingParams"):
        raise AttributeError(f"module 'chatsmith' has no attribute {name!r}")
    from chatsmith import llm

    return getattr(llm, name)
