"""What a model may call while it writes: the calculator."""
