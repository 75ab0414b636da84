"""What is known about things, foods, words and work."""

from chatsmith.worlds.kindergarten.relation import Relation
from chatsmith.worlds.kindergarten.table import table

COLOUR = Relation(
    name="colour",
    facts=table("""
        grass: green, the sky: blue, snow: white, a banana: yellow, a tomato: red, coal: black,
        a lemon: yellow, a carrot: orange, chocolate: brown, milk: white, a strawberry: red,
        a pea: green, the sun: yellow, a plum: purple, a cucumber: green, a pumpkin: orange,
        a leaf: green, a flamingo: pink, an elephant: grey, a crow: black, a swan: white, a frog: green,
        a fire engine: red, the sea: blue, soil: brown, lavender: purple, a cherry: red, fog: grey
    """),
    statements=(
        "{x} is {v}",
        "the colour of {x} is {v}",
        "{v} is the colour of {x}",
        "to paint {x}, use {v} paint",
        "{x} looks {v}",
    ),
    questions=(
        "What colour is {x}?",
        "What is the colour of {x}?",
        "Which colour does {x} have?",
        "Which paint do I need for {x}?",
        "Tell me the colour of {x}.",
    ),
)

THING_KIND = Relation(
    name="kind of thing",
    facts=table("""
        apple: fruit, pear: fruit, plum: fruit, cherry: fruit, peach: fruit, melon: fruit,
        carrot: vegetable, potato: vegetable, onion: vegetable, cabbage: vegetable, leek: vegetable,
        turnip: vegetable, radish: vegetable, oak: tree, birch: tree, pine: tree, willow: tree,
        maple: tree, rose: flower, tulip: flower, daisy: flower, lily: flower, violet: flower,
        violin: musical instrument, flute: musical instrument, drum: musical instrument,
        piano: musical instrument, trumpet: musical instrument
    """),
    statements=(
        "{s} is {av}",
        "{s} is a kind of {v}",
        "{xs} are {vs}",
        "one of the {vs} is the {x}",
        "the {x} belongs to the {vs}",
    ),
    questions=(
        "What is {ax}?",
        "What kind of thing is {ax}?",
        "What are {xs}?",
        "What sort of thing is {ax}?",
        "Tell me what {ax} is.",
    ),
)

MATERIAL = Relation(
    name="material",
    facts=table("""
        window: glass, table: wood, book: paper, ring: gold, sweater: wool, nail: iron, saddle: leather,
        tyre: rubber, wall: brick, pot: clay, coin: metal, shirt: cotton, candle: wax, snowman: snow,
        loaf: flour, pillow: feathers, omelette: eggs, statue: stone, road: tar, brush: hair,
        tent: canvas
    """),
    statements=(
        "{s} is made of {v}",
        "to make {ax}, you need {v}",
        "people use {v} to make {ax}",
        "{v} is what {ax} is made of",
        "with {v} you can make {ax}",
    ),
    questions=(
        "What is {ax} made of?",
        "What do you need to make {ax}?",
        "What do people use to make {ax}?",
        "From what is {ax} made?",
        "Tell me what {ax} is made of.",
    ),
)
_OPPOSITES = table("""
        hot: cold, big: small, up: down, day: night, fast: slow, wet: dry, hard: soft, open: closed,
        full: empty, light: dark, old: young, happy: sad, long: short, near: far, high: low,
        early: late, clean: dirty, loud: quiet, rich: poor, strong: weak, thick: thin, wide: narrow,
        sweet: sour, left: right, first: last, good: bad
""")
OPPOSITE = Relation(
    name="opposite",
    facts=_OPPOSITES | {second: first for first, second in _OPPOSITES.items()},
    statements=(
        "the opposite of {x} is {v}",
        "{v} is the opposite of {x}",
        "the word {x} means the opposite of {v}",
        "think of the word {x}: its opposite is {v}",
        "{x} and {v} are opposites",
    ),
    questions=(
        "What is the opposite of {x}?",
        'What is the opposite of the word "{x}"?',
        "Which word means the opposite of {x}?",
        "What do we call the opposite of {x}?",
        "Tell me the opposite of {x}.",
    ),
    mutual=True,
)

WORKPLACE = Relation(
    name="workplace",
    facts=table("""
        teacher: a school, doctor: a hospital, cook: a kitchen, actor: a theatre, judge: a court,
        miner: a mine, gardener: a garden, baker: a bakery, waiter: a restaurant,
        scientist: a laboratory, ranger: a forest, clown: a circus, mechanic: a garage,
        librarian: a library
    """),
    statements=(
        "{s} works in {v}",
        "{xs} work in {v}",
        "{s} spends the working day in {v}",
        "you can meet {ax} in {v}",
        "{v} is where {ax} works",
    ),
    questions=(
        "Where does {ax} work?",
        "Where do {xs} work?",
        "In what kind of place does {ax} work?",
        "Where can you meet {ax}?",
        "Tell me where {ax} works.",
    ),
)

PRODUCT = Relation(
    name="product",
    facts=table("""
        baker: bread, tailor: clothes, carpenter: furniture, potter: pots, poet: poems,
        painter: pictures, composer: music, builder: houses, jeweller: jewels, weaver: cloth,
        shoemaker: shoes, author: stories, cook: soup, sculptor: statues, blacksmith: tools
    """),
    statements=(
        "{s} makes {v}",
        "{xs} make {v}",
        "the work of {ax} is to make {v}",
        "{s} knows how to make {v}",
        "all day long {ax} makes {v}",
    ),
    questions=(
        "What does {ax} make?",
        "What do {xs} make?",
        "What can {ax} make for us?",
        "What does {ax} know how to make?",
        "Tell me what {ax} makes.",
    ),
)

PURPOSE = Relation(
    name="purpose",
    facts=table("""
        hammer: hitting nails, spoon: eating soup, key: opening doors, broom: sweeping floors,
        pen: writing words, comb: combing hair, clock: telling the time, kettle: boiling water,
        oven: baking cakes, needle: sewing buttons, telescope: looking at stars, towel: drying hands,
        ruler: drawing lines, fridge: keeping food cold, map: finding the way, camera: taking pictures,
        saw: cutting wood, spade: digging holes, umbrella: keeping off the rain, boat: crossing rivers
    """),
    statements=(
        "{s} is for {v}",
        "people use {ax} for {v}",
        "{xs} are for {v}",
        "for {v} you need {ax}",
        "{s} is useful for {v}",
    ),
    questions=(
        "What is {ax} for?",
        "What do people use {ax} for?",
        "What are {xs} for?",
        "For what do you need {ax}?",
        "Tell me what {ax} is for.",
    ),
)

SENSE = Relation(
    name="body",
    facts=table("""
        see: eyes, hear: ears, smell: nose, taste: tongue, walk: legs, think: brain, chew: teeth,
        clap: hands, breathe: lungs, kick: feet
    """),
    statements=(
        "we {x} with our {v}",
        "people {x} with their {v}",
        "to {x}, we use our {v}",
        "with our {v} we {x}",
    ),
    questions=(
        "What do we {x} with?",
        "What do people {x} with?",
        "What do we use to {x}?",
        "With what do we {x}?",
        "Tell me what we {x} with.",
    ),
)

PLURAL = Relation(
    name="plural",
    facts=table("""
        mouse: mice, child: children, foot: feet, tooth: teeth, goose: geese, man: men, woman: women,
        leaf: leaves, knife: knives, wolf: wolves, box: boxes, baby: babies, city: cities, dog: dogs,
        cat: cats, fox: foxes, berry: berries, shelf: shelves, loaf: loaves, bus: buses
    """),
    statements=(
        "the plural of {x} is {v}",
        "we say one {x} and two {v}",
        "one {x} and one more {x} are two {v}",
        "when there is more than one {x}, we say {v}",
    ),
    questions=(
        "What is the plural of {x}?",
        'What is the plural of the word "{x}"?',
        "What do we call more than one {x}?",
        "One {x}, two what?",
        "Tell me the plural of {x}.",
    ),
)

THING_RELATIONS = (COLOUR, THING_KIND, MATERIAL, OPPOSITE, WORKPLACE, PRODUCT, PURPOSE, SENSE, PLURAL)
