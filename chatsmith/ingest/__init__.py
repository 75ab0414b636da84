"""Data in the forms that people have, made into what the core reads."""
