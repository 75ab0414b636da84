"""Scores with their uncertainty: the exam, statistics. Generates through the engine only."""
