"""One file a command: a frozen Config dataclass and main(config). Stages compose the rooms below."""
