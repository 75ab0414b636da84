"""Muon and AdamW, parameter groups by role, schedules."""
