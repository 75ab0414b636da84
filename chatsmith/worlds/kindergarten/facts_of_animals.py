"""What is known about animals."""

from chatsmith.worlds.kindergarten.relation import Relation
from chatsmith.worlds.kindergarten.table import table

SOUND = Relation(
    name="animal sound",
    facts=table("""
        cow: moo, dog: woof, cat: meow, sheep: baa, duck: quack, horse: neigh, pig: oink, hen: cluck,
        frog: ribbit, owl: hoot, bee: buzz, mouse: squeak, lion: roar, crow: caw, snake: hiss,
        dove: coo, turkey: gobble, bear: growl
    """),
    statements=(
        "{s} says {v}",
        "{xs} say {v}",
        "the sound of {ax} is {v}",
        "you can hear {ax} say {v}",
        "when {ax} calls, it says {v}",
        "{v} is the sound of {ax}",
    ),
    questions=(
        "What does {ax} say?",
        "What sound does {ax} make?",
        "Which sound comes from {ax}?",
        "What do {xs} say?",
        "What noise does {ax} make?",
        "Tell me the sound of {ax}.",
    ),
)

HOME = Relation(
    name="animal home",
    facts=table("""
        dog: a kennel, bee: a hive, robin: a nest, spider: a web, fox: a den, rabbit: a burrow,
        horse: a stable, pig: a sty, hen: a coop, cow: a barn, frog: a pond, bear: a cave,
        whale: the sea, tiger: the jungle, camel: the desert, deer: the forest, otter: a river,
        beaver: a lodge, squirrel: a tree, sheep: a meadow
    """),
    statements=(
        "{s} lives in {v}",
        "{xs} live in {v}",
        "the home of {ax} is {v}",
        "{v} is home to {ax}",
        "{s} sleeps and rests in {v}",
        "you can find {ax} in {v}",
    ),
    questions=(
        "Where does {ax} live?",
        "What is the home of {ax}?",
        "In what kind of place does {ax} live?",
        "Where do {xs} live?",
        "Where can I find {ax}?",
        "Tell me where {ax} lives.",
    ),
)

YOUNG = Relation(
    name="animal young",
    facts=table("""
        cow: calf, dog: puppy, cat: kitten, sheep: lamb, horse: foal, pig: piglet, hen: chick,
        duck: duckling, frog: tadpole, goat: kid, lion: cub, goose: gosling, deer: fawn, swan: cygnet,
        owl: owlet, kangaroo: joey, seal: pup, bear: cub, eagle: eaglet, elephant: calf,
        butterfly: caterpillar, hare: leveret
    """),
    statements=(
        "a young {x} is called {av}",
        "a baby {x} is called {av}",
        "{av} is a young {x}",
        "the young of {ax} is {av}",
        "{av} grows up to be {ax}",
        "when {ax} is very young, it is called {av}",
    ),
    questions=(
        "What is a young {x} called?",
        "What is a baby {x} called?",
        "What do we call a young {x}?",
        "What is the name for a baby {x}?",
        "What is the young of {ax} called?",
        "Tell me the word for a young {x}.",
    ),
)

LEGS = Relation(
    name="animal legs",
    facts=table("""
        cow: four, dog: four, cat: four, horse: four, goat: four, mouse: four, hen: two, duck: two,
        owl: two, crow: two, swan: two, robin: two, bee: six, ant: six, fly: six, beetle: six,
        moth: six, spider: eight, snake: no, whale: no, worm: no, shark: no, crab: ten, scorpion: eight
    """),
    statements=(
        "{s} has {v} legs",
        "{xs} have {v} legs",
        "there are {v} legs on {ax}",
        "an animal with {v} legs is the {x}",
        "look at the {x}: it has {v} legs",
    ),
    questions=(
        "How many legs does {ax} have?",
        "How many legs do {xs} have?",
        "How many legs are there on {ax}?",
        "Count the legs of {ax}: how many are there?",
        "Tell me how many legs {ax} has.",
    ),
)

KIND = Relation(
    name="animal kind",
    facts=table("""
        cow: mammal, dog: mammal, whale: mammal, bat: mammal, mouse: mammal, hen: bird, owl: bird,
        swan: bird, crow: bird, penguin: bird, eagle: bird, bee: insect, ant: insect, fly: insect,
        beetle: insect, moth: insect, salmon: fish, shark: fish, trout: fish, herring: fish, eel: fish,
        snake: reptile, lizard: reptile, turtle: reptile, crocodile: reptile, frog: amphibian,
        toad: amphibian, newt: amphibian
    """),
    statements=(
        "{s} is {av}",
        "{xs} belong to the {vs}",
        "{s} is a kind of {v}",
        "one of the {vs} is the {x}",
        "among the {vs} we find the {x}",
    ),
    questions=(
        "What kind of animal is {ax}?",
        "What sort of animal is {ax}?",
        "To which group of animals does {ax} belong?",
        "Which kind of animal is the {x}?",
        "Tell me what kind of animal {ax} is.",
    ),
)

FOOD = Relation(
    name="animal food",
    facts=table("""
        cow: grass, horse: hay, cat: fish, dog: meat, rabbit: clover, mouse: cheese, squirrel: nuts,
        monkey: bananas, bear: honey, panda: bamboo, bee: nectar, frog: flies, owl: mice, hen: corn,
        robin: worms, goat: leaves, pig: acorns, penguin: squid, snail: lettuce, anteater: ants,
        parrot: seeds, heron: frogs
    """),
    statements=(
        "{s} eats {v}",
        "{xs} eat {v}",
        "{s} likes to eat {v}",
        "the food of {ax} is {v}",
        "{s} fills its belly with {v}",
        "a hungry {x} looks for {v}",
    ),
    questions=(
        "What does {ax} eat?",
        "What do {xs} eat?",
        "What is the food of {ax}?",
        "What does a hungry {x} look for?",
        "What does {ax} like to eat?",
        "Tell me what {ax} eats.",
    ),
)

ANIMAL_RELATIONS = (SOUND, HOME, YOUNG, LEGS, KIND, FOOD)
