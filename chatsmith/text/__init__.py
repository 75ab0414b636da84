"""Text to ids and back: BPE training, the tokenizer, the chat format."""
