"""The special tokens: marks that no text can spell, with which chatsmith says where things begin and end."""

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
