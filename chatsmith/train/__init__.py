"""The plan (depth to every hyperparameter), the one training loop, and its resumable state."""
