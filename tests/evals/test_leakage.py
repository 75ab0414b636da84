"""Finding test items in training text: 13 words in a row, no fewer, within one text, whatever case and punctuation."""

from chatsmith.evals.leakage import LeakageCheck, Overlap

SENTENCE = "a very old owl in the north mill counted all of its mice twice"
WORDS = SENTENCE.split()
assert len(WORDS) == 14


def found(items: list[str], texts: list[str]) -> Overlap:
    check = LeakageCheck({"set": items})
    read = sum(check.read(texts))
    assert read == sum(map(len, texts))
    (overlap,) = check.report()
    return overlap


def test_thirteen_words_are_an_overlap_and_twelve_are_not():
    item = " ".join(WORDS)
    assert found([item], [f"He said: {' '.join(WORDS[:13])}!"]).overlapping == 1
    assert found([item], [f"He said: {' '.join(WORDS[1:])}!"]).overlapping == 1
    assert found([item], [f"He said: {' '.join(WORDS[:12])}!"]).overlapping == 0
    assert found([item], [" ".join([*WORDS[:7], "really", *WORDS[7:]])]).overlapping == 0


def test_case_and_punctuation_hide_nothing():
    overlap = found([" ".join(WORDS)], ["-- ".join(word.upper() for word in WORDS)])
    assert overlap.overlapping == 1
    assert overlap.examples == [" ".join(WORDS[:13])]


def test_words_of_two_texts_are_not_in_a_row():
    assert found([" ".join(WORDS)], [" ".join(WORDS[:6]), " ".join(WORDS[6:])]).overlapping == 0


def test_short_items_are_counted_apart():
    overlap = found(["too short", " ".join(WORDS)], [" ".join(WORDS), "too short"])
    assert (overlap.items, overlap.too_short, overlap.overlapping, overlap.share) == (2, 1, 1, 1.0)


def test_nothing_to_look_for_or_in_is_no_crash():
    assert found([], ["some text"]).items == 0
    assert found(["short"], ["some text " * 20]).share == 0
    assert found([" ".join(WORDS)], []).overlapping == 0


def test_much_text_is_found_in_whatever_part_it_is(monkeypatch):
    monkeypatch.setattr("chatsmith.evals.leakage._BATCH_CHARACTERS", 100)
    texts = [f"text number {number} says little of interest to anybody" for number in range(50)]
    texts[37] += " " + " ".join(WORDS)
    assert found([" ".join(WORDS)], texts).overlapping == 1
