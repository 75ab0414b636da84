"""The people, things and places of the small world, as plain words.

Most words are short and common, so that each becomes one token of a small vocabulary. Facts about these words stand
in `facts_of_*`.
"""

from chatsmith.worlds.kindergarten.table import table, words

GIRLS = words("""
    Mia Anna Lily Ella Nina Zoe Yuki Maya Rosa Ivy Lena Amina Lucy Clara Ruby Sara Nora Alma Hana Jane
""")
BOYS = words("Tom Ben Sam Max Leo Omar Ravi Ali Finn Hugo Noah Kofi Jack Oscar Milo Emil Luca Theo Igor Paul")
NAMES = GIRLS + BOYS

OBJECTS = words("""
    ball bell book boot bowl brush button camera candle card clock coin comb crayon cup doll drum
    feather flag flute fork glove hammer hat horn jar jug key kite lamp letter map marble mask mirror
    mug pan pencil photo pillow plate puppet puzzle ribbon ring robot rope scarf shell shoe sock spoon
    stamp stick stone teapot ticket towel umbrella vase whistle
""")

# Where people can be: the place, with its preposition.
PLACES = table("""
    kitchen: in the kitchen, garden: in the garden, park: in the park, barn: in the barn,
    forest: in the forest, library: in the library, school: at the school, beach: at the beach,
    market: at the market, farm: on the farm, hill: on the hill, bridge: on the bridge,
    lake: at the lake, river: at the river, shop: in the shop, station: at the station,
    museum: in the museum, tower: in the tower, zoo: at the zoo, harbour: at the harbour,
    attic: in the attic, cellar: in the cellar, playground: on the playground, meadow: in the meadow
""")
# The places one can live near.
LANDMARKS = words("""
    park forest library school beach market farm hill bridge lake river shop station museum tower zoo harbour
    meadow
""")

# Where things can lie: the spot, with its preposition.
SPOTS = table("""
    box: in the box, basket: in the basket, drawer: in the drawer, bag: in the bag,
    cupboard: in the cupboard, chest: in the chest, bucket: in the bucket, shelf: on the shelf,
    table: on the table, chair: on the chair, bench: on the bench, bed: under the bed,
    sofa: under the sofa, rug: under the rug, tree: under the tree, door: behind the door,
    curtain: behind the curtain, wall: behind the wall, tent: in the tent, cart: in the cart,
    desk: on the desk, stairs: on the stairs, roof: on the roof, fence: behind the fence
""")
WHERE = PLACES | SPOTS
"""Every place and spot, with its preposition."""

COLOURS = words("red blue green yellow white black brown pink purple orange grey")
LOOKS = words("big small old new long round pretty shiny heavy tiny")

FRUITS = words("apple pear plum peach cherry banana lemon grape melon orange")
VEGETABLES = words("carrot potato onion cabbage bean pea leek turnip pumpkin radish")
DRINKS = words("milk water tea juice coffee cocoa lemonade")
SNACKS = words("cake pie cookie sandwich muffin pancake biscuit bun roll waffle")
TREATS = FRUITS + SNACKS
"""Foods one can hold in a hand, for stories and sums."""

PETS = words("cat dog rabbit hamster mouse parrot pony turtle goat duck")
WILD_ANIMALS = words("fox deer owl frog squirrel swan hedgehog badger beaver crow bee")
PET_NAMES = words("Pip Dot Biscuit Rusty Snowy Pepper Bubbles Star Coco Button Shadow")

VERBS = words("run sleep sing jump play swim walk read dance sit eat wait smile")
ADVERBS = words("slowly quickly quietly happily softly often today again together here")

DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
SEASONS = words("spring summer autumn winter")
TOOLS = words("hammer saw spade rake axe drill broom ladder")
CLOTHES = words("hat coat shirt scarf sock shoe boot glove dress skirt")
FARM_ANIMALS = words("cow horse pig sheep goat hen duck donkey")
BIRDS = words("owl crow swan robin duck goose hen eagle penguin parrot")
INSECTS = words("bee ant fly beetle moth wasp butterfly")


def is_girl(name: str) -> bool:
    """True for a girl of `NAMES`."""
    return name in GIRLS


def she_or_he(name: str) -> str:
    """The pronoun for one of `NAMES`."""
    return "she" if is_girl(name) else "he"


def her_or_him(name: str) -> str:
    """The object pronoun for one of `NAMES`."""
    return "her" if is_girl(name) else "him"


def her_or_his(name: str) -> str:
    """The possessive for one of `NAMES`."""
    return "her" if is_girl(name) else "his"
