"""What the documents and conversations are made of: the one place to tune their shares.

Weights are relative; nothing else about the generators needs to change with them. The exams do not depend on
them. `chatsmith data inspect` shows the resulting counts.
"""

DOCUMENT_WEIGHTS = {
    "story": 14,  # one or two stories with the same people
    "story questions": 20,  # a story, then questions and answers
    "topic": 13,  # a passage on one animal or thing: all that is known about it
    "collection": 17,  # a passage on one relation: many facts of a kind
    "facts": 22,  # facts of all kinds, some told by someone
    "lesson": 10,  # questions and answers of all kinds
    "spelling": 9,  # how words are spelled
    "counting up": 3,  # numbers in order
}

CONVERSATION_WEIGHTS = {
    "story": 24,  # questions on a story just told
    "facts": 18,
    "arithmetic": 9,
    "counting": 7,
    "spelling": 7,
    "instructions": 17,
    "memory": 7,
    "small talk": 4,
    "telling": 14,  # the assistant tells a story, or what it knows about something
}

LESSON_WEIGHTS = {
    "facts": 8,
    "arithmetic": 3,
    "counting": 3,
    "spelling": 4,
    "instructions": 3,
}
"""What the questions of a "lesson" document are about."""
