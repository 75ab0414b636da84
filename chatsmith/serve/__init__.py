"""The OpenAI-compatible HTTP server: a front process that speaks HTTP, and an engine in a process of its own."""
