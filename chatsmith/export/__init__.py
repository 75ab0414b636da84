"""Models for other programs: exported, compared with ours, and read back."""
