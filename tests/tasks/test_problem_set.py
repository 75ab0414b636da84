"""Problems to practise on: the three parts never meet, whatever they come from, and an order is kept."""

import json
from itertools import islice
from pathlib import Path

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.tasks.problem_set import file_set, gsm8k_set, read_problems
from chatsmith.worlds.kindergarten.exam import rl_problem_set


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def sums(count: int) -> list[dict]:
    return [{"prompt": f"What is {n} plus 1?", "answer": n + 1} for n in range(count)]


def first_prompts(problems, count: int) -> list[str]:
    return [problems.train(place).messages[-1].text for place in range(count)]


def test_own_problems_are_parted_by_a_hash_and_every_epoch_has_its_order(tmp_path):
    path = write_lines(tmp_path / "sums.jsonl", *sums(64), *sums(3))
    problems = file_set(path, None, seed=1, needs_answers=True)
    parts = [{p.messages[0].text for p in part} for part in (problems.development, problems.test)]
    count = 64 - sum(map(len, parts))
    epochs = [first_prompts(problems, 2 * count)[:count], first_prompts(problems, 2 * count)[count:]]
    assert set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1]
    assert len(set(epochs[0]) | parts[0] | parts[1]) == 64
    assert first_prompts(file_set(path, None, seed=2, needs_answers=True), count) != epochs[0]


def test_a_test_file_takes_its_problems_out_of_training(tmp_path):
    path = write_lines(tmp_path / "sums.jsonl", *sums(64))
    test_path = write_lines(tmp_path / "test.jsonl", *sums(9))
    problems = file_set(path, test_path, seed=1, needs_answers=True)
    tested = {problem.messages for problem in problems.test}
    assert len(tested) == 9
    assert not tested & {problems.train(place).messages for place in range(200)}
    assert not tested & {problem.messages for problem in problems.development}


def test_too_few_problems_to_hold_any_out_are_refused(tmp_path):
    with pytest.raises(UserError, match="leaves no problem for"):
        file_set(write_lines(tmp_path / "sums.jsonl", *sums(1)), None, seed=1, needs_answers=True)


def test_a_line_is_a_prompt_or_messages_and_keeps_its_fields(tmp_path):
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of Peru?"}]
    path = write_lines(
        tmp_path / "mine.jsonl",
        {"prompt": "What is 6 times 7?", "answer": "42", "level": 3},
        {"messages": talk, "answer": "Lima", "section": "places"},
    )
    sum_, place = read_problems(path, needs_answers=True)
    assert sum_.check("6 times 7 is 42") is False and sum_.check("It is 42.")
    assert sum_.fields["level"] == 3 and sum_.section == "problems"
    assert place.check("lima.") and not place.check("Not Lima") and place.section == "places"


@pytest.mark.parametrize(
    "line",
    [
        {"answer": "x"},
        {"prompt": " ", "answer": "x"},
        {"prompt": "Why?"},
        {"prompt": "Why?", "answer": True},
        {"prompt": "Why?", "answer": ["x"]},
        {
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "answer": "x",
        },
    ],
)
def test_lines_that_are_no_problems_are_refused(tmp_path, line):
    with pytest.raises(UserError, match="line 1"):
        read_problems(write_lines(tmp_path / "mine.jsonl", line), needs_answers=True)


def test_an_answer_is_not_needed_where_a_reward_of_one_s_own_decides(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", {"prompt": "Tell a joke."})
    assert len(read_problems(path, needs_answers=False)) == 1


def test_a_missing_or_empty_file_is_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for name in ("missing.jsonl", "empty.jsonl"):
        with pytest.raises(UserError, match=name):
            read_problems(tmp_path / name, needs_answers=True)


def test_gsm8k_s_parts_come_from_its_own_splits(tmp_path):
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    items = [
        {"question": f"How much is {n} and 1?", "answer": f"<<{n}+1={n + 1}>>\n#### {n + 1}"}
        for n in range(80)
    ]
    write_lines(folder / "train.jsonl", *items[:60])
    write_lines(folder / "test.jsonl", *items[60:])
    problems = gsm8k_set(tmp_path, seed=1)
    assert [problem.answer for problem in problems.test] == [str(n + 1) for n in range(60, 80)]
    trained = {problems.train(place).id for place in range(60)}
    assert len(trained) + len(problems.development) == 60
    assert next(islice(problems.test, 1)).check("#### 61")


def test_problems_too_long_for_a_model_are_replaced_in_training_and_count_in_the_test():
    def fits(problem) -> bool:
        return len(problem.messages[0].text) <= 40

    whole = rl_problem_set(1)
    some = whole.fitting(fits)
    assert all(fits(some.train(place)) for place in range(200))
    assert [some.train(n).id == whole.train(n).id for n in range(200)] == [
        fits(whole.train(n)) for n in range(200)
    ]
    assert 0 < len(some.development) < len(whole.development) and some.test == whole.test
    with pytest.raises(UserError, match="hardly any problem fits"):
        whole.fitting(lambda problem: False)
