"""Generated text, conversations and exams that a small model can learn from nothing."""
