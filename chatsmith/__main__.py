"""`python -m chatsmith` is the `chatsmith` command."""

from chatsmith.cli import run

if __name__ == "__main__":
    run()
