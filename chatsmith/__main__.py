"""`python -m chatsmith` is the `chatsmith` command."""

from chatsmith.cli.main import run

if __name__ == "__main__":
    run()
