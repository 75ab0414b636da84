"""chatsmith trains a ChatGPT of your own from nothing and then serves it. Importing it does nothing."""

__version__ = "0.1.0"
