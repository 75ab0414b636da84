"""The one engine that chat, API, evaluation and RL decode with."""
