"""Plain text as data: the words and facts of the world are written as a reader would jot them down."""


def words(text: str) -> tuple[str, ...]:
    """The words of `text`, in order."""
    return tuple(text.split())


def table(text: str) -> dict[str, str]:
    """Entries like "cow: moo", separated by commas or line ends, in order; no entity may come twice."""
    entries = [entry.strip() for line in text.splitlines() for entry in line.split(",")]
    pairs = [entry.partition(": ") for entry in entries if entry]
    found = {entity: value for entity, _, value in pairs}
    assert len(found) == len(pairs), f"an entity comes twice in {text}"
    return found


def lines(text: str) -> tuple[str, ...]:
    """The lines of `text` that are not empty, without the space around them."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())
