"""What is known about days, months, seasons, shapes and capitals."""

from chatsmith.worlds.kindergarten.relation import Relation
from chatsmith.worlds.kindergarten.table import table
from chatsmith.worlds.kindergarten.vocabulary import DAYS, MONTHS, SEASONS


def _next(names: tuple[str, ...]) -> dict[str, str]:
    return {name: names[(index + 1) % len(names)] for index, name in enumerate(names)}


def _previous(names: tuple[str, ...]) -> dict[str, str]:
    return {after: before for before, after in _next(names).items()}


DAY_AFTER = Relation(
    name="day after",
    facts=_next(DAYS),
    statements=(
        "the day after {x} is {v}",
        "after {x} comes {v}",
        "{x} is followed by {v}",
        "when {x} is over, {v} begins",
    ),
    questions=(
        "What is the day after {x}?",
        "Which day comes after {x}?",
        "What day follows {x}?",
        "If today is {x}, what day is tomorrow?",
        "Tell me the day after {x}.",
    ),
)

DAY_BEFORE = Relation(
    name="day before",
    facts=_previous(DAYS),
    statements=(
        "the day before {x} is {v}",
        "before {x} comes {v}",
        "just before {x} we have {v}",
        "if today is {x}, yesterday was {v}",
    ),
    questions=(
        "What is the day before {x}?",
        "Which day comes before {x}?",
        "What day do we have just before {x}?",
        "If today is {x}, what day was yesterday?",
        "Tell me the day before {x}.",
    ),
)

MONTH_AFTER = Relation(
    name="month after",
    facts=_next(MONTHS),
    statements=(
        "the month after {x} is {v}",
        "after {x} comes {v}",
        "{x} is followed by {v}",
        "when {x} is over, {v} begins",
    ),
    questions=(
        "What is the month after {x}?",
        "Which month comes after {x}?",
        "What month follows {x}?",
        "If it is {x} now, what is the next month?",
        "Tell me the month after {x}.",
    ),
)

MONTH_BEFORE = Relation(
    name="month before",
    facts=_previous(MONTHS),
    statements=(
        "the month before {x} is {v}",
        "before {x} comes {v}",
        "just before {x} we have {v}",
        "if it is {x} now, last month was {v}",
    ),
    questions=(
        "What is the month before {x}?",
        "Which month comes before {x}?",
        "What month do we have just before {x}?",
        "If it is {x} now, what was the last month?",
        "Tell me the month before {x}.",
    ),
)

SEASON_AFTER = Relation(
    name="season after",
    facts=_next(SEASONS),
    statements=(
        "the season after {x} is {v}",
        "after {x} comes {v}",
        "{x} is followed by {v}",
        "when {x} is over, {v} begins",
    ),
    questions=(
        "What is the season after {x}?",
        "Which season comes after {x}?",
        "What season follows {x}?",
        "Tell me the season after {x}.",
    ),
)

CAPITAL = Relation(
    name="capital",
    facts=table("""
        France: Paris, Italy: Rome, Spain: Madrid, Germany: Berlin, Japan: Tokyo, Egypt: Cairo,
        Greece: Athens, Portugal: Lisbon, Norway: Oslo, Sweden: Stockholm, Denmark: Copenhagen,
        Finland: Helsinki, Poland: Warsaw, Austria: Vienna, Hungary: Budapest, Ireland: Dublin,
        Kenya: Nairobi, Peru: Lima, Cuba: Havana, Canada: Ottawa, Chile: Santiago, Turkey: Ankara,
        England: London, Ghana: Accra, Scotland: Edinburgh, Wales: Cardiff, Belgium: Brussels,
        Thailand: Bangkok
    """),
    statements=(
        "the capital of {x} is {v}",
        "{v} is the capital of {x}",
        "the capital city of {x} is called {v}",
        "if you travel to {x}, you should see {v}, its capital",
        "{x} has a capital, and its name is {v}",
    ),
    questions=(
        "What is the capital of {x}?",
        "Which city is the capital of {x}?",
        "What is the capital city of {x} called?",
        "What is the name of the capital of {x}?",
        "Tell me the capital of {x}.",
    ),
)

SIDES = Relation(
    name="sides",
    facts=table("""
        triangle: three, square: four, rectangle: four, pentagon: five, hexagon: six, heptagon: seven,
        octagon: eight, decagon: ten
    """),
    statements=(
        "{s} has {v} sides",
        "{xs} have {v} sides",
        "a shape called {x} has {v} sides",
        "if you draw {ax}, you draw {v} sides",
    ),
    questions=(
        "How many sides does {ax} have?",
        "How many sides do {xs} have?",
        "How many sides do you draw for {ax}?",
        "Tell me how many sides {ax} has.",
    ),
)

TIME_AND_PLACE_RELATIONS = (DAY_AFTER, DAY_BEFORE, MONTH_AFTER, MONTH_BEFORE, SEASON_AFTER, CAPITAL, SIDES)
