"""What every vocabulary is made of: the 256 bytes, then tokens made by merging, then the special tokens.

Special tokens are marks that no text can spell; with them chatsmith says where things begin and end.
"""

from chatsmith.runtime.errors import UserError

NUM_BYTES = 256
NUM_RESERVED = 16

# The order is part of the file format: tokenizers already written rely on it. Reserved ones can be given a
# meaning later without changing the shape of any trained model.
SPECIAL_TOKENS: tuple[str, ...] = (
    "<|bos|>",  # begins every document and every conversation
    "<|system_start|>",
    "<|system_end|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",  # the assistant calls the built-in tool
    "<|python_end|>",
    "<|output_start|>",  # what the built-in tool answered
    "<|output_end|>",
    "<|tool_start|>",  # the result of a client's own tool
    "<|tool_end|>",
    *(f"<|reserved_{number}|>" for number in range(NUM_RESERVED)),
)

MIN_VOCAB_SIZE = NUM_BYTES + len(SPECIAL_TOKENS)


def check_vocab_size(vocab_size: int) -> None:
    """Raise UserError if a vocabulary of this size cannot hold every byte and every special token."""
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"a vocabulary of {vocab_size} is too small: {NUM_BYTES} bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens need {MIN_VOCAB_SIZE}; choose a larger vocab_size"
        )
