"""The training state: exact, never half-written, and always with an older one to fall back to."""

import json
from pathlib import Path

import pytest
import torch

from chatsmith.runtime import states as state_module
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.states import load_state, saved_states
from tests.train.conftest import save_state


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"optimizer.momentum": torch.full((3, 2), value), "rng.cpu": torch.get_rng_state()}


def saved_numbers(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir())


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_tensors_keep_value_and_dtype_and_facts_come_back(tmp_path: Path) -> None:
    given = {
        "half": torch.randn(4).to(torch.bfloat16),
        "single": torch.randn(2, 3),
        "transposed": torch.randn(2, 3).t(),
        "step": torch.tensor(7),
    }
    facts = {"step": 7, "tokens": 8192, "learning_rate": 0.1, "notes": ["a", None, True]}
    save_state(tmp_path / "state", given, facts)
    loaded = load_state(tmp_path / "state", print)
    assert loaded is not None
    assert loaded.facts == facts
    assert loaded.tensors.keys() == given.keys()
    for name, tensor in given.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)


def test_a_restored_generator_draws_what_the_saved_one_would_have_drawn(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    save_state(tmp_path, {"rng": generator.get_state()}, {})
    expected = torch.rand(3, generator=generator)
    loaded = load_state(tmp_path, print)
    assert loaded is not None
    restored = torch.Generator()
    restored.set_state(loaded.tensors["rng"])
    assert torch.equal(torch.rand(3, generator=restored), expected)


def test_nothing_saved_is_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path / "state", print) is None


def test_the_newest_is_loaded_and_only_the_one_before_is_kept(tmp_path: Path) -> None:
    for step in range(1, 12):
        save_state(tmp_path, tensors(step), {"step": step})
    loaded = load_state(tmp_path, print)
    assert loaded is not None
    assert loaded.facts == {"step": 11}
    assert torch.equal(loaded.tensors["optimizer.momentum"], torch.full((3, 2), 11.0))
    assert saved_numbers(tmp_path) == [10, 11]


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_a_damaged_newest_state_gives_way_to_the_one_before_with_a_notice(
    tmp_path: Path, damage, file: str
) -> None:
    save_state(tmp_path, tensors(1), {"step": 1})
    newest = save_state(tmp_path, tensors(2), {"step": 2})
    damage(newest / file)
    notices: list[str] = []
    loaded = load_state(tmp_path, notices.append)
    assert loaded is not None
    assert loaded.facts == {"step": 1}
    assert torch.equal(loaded.tensors["optimizer.momentum"], torch.full((3, 2), 1.0))
    assert len(notices) == 1
    assert str(newest / file) in notices[0]


def test_no_readable_state_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    cut_off(save_state(tmp_path, tensors(1), {}) / "tensors.safetensors")
    with pytest.raises(UserError, match="delete that folder"):
        load_state(tmp_path, lambda text: None)


def test_after_a_fallback_the_good_state_is_kept_not_the_damaged_one(tmp_path: Path) -> None:
    save_state(tmp_path, tensors(1), {"step": 1})
    cut_off(save_state(tmp_path, tensors(2), {"step": 2}) / "tensors.safetensors")
    save_state(tmp_path, tensors(3), {"step": 3})
    assert saved_numbers(tmp_path) == [1, 3]


@pytest.mark.parametrize("fails", ["write_tensors", "json"])
def test_a_save_that_fails_leaves_the_states_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    save_state(tmp_path, tensors(1), {"step": 1})
    save_state(tmp_path, tensors(2), {"step": 2})
    facts: dict[str, object] = {"step": 3}
    if fails == "json":
        facts["not JSON"] = object()
    else:
        real = state_module.write_tensors

        def killed(path: Path, given: dict[str, torch.Tensor]) -> None:
            real(path, given)
            raise KeyboardInterrupt

        monkeypatch.setattr(state_module, "write_tensors", killed)
    with pytest.raises((KeyboardInterrupt, TypeError)):
        save_state(tmp_path, tensors(3), facts)
    assert saved_numbers(tmp_path) == [1, 2]
    loaded = load_state(tmp_path, print)
    assert loaded is not None
    assert loaded.facts == {"step": 2}


def test_what_a_killed_save_left_is_neither_loaded_nor_kept(tmp_path: Path) -> None:
    newest = save_state(tmp_path, tensors(1), {"step": 1})
    left_behind = tmp_path / ".000002.999.tmp"
    left_behind.mkdir()
    (left_behind / "tensors.safetensors").write_bytes((newest / "tensors.safetensors").read_bytes())
    loaded = load_state(tmp_path, print)
    assert loaded is not None
    assert loaded.facts == {"step": 1}
    save_state(tmp_path, tensors(2), {"step": 2})
    assert saved_numbers(tmp_path) == [1, 2]


def test_a_state_of_a_newer_chatsmith_is_not_passed_over(tmp_path: Path) -> None:
    save_state(tmp_path, tensors(1), {})
    newest = save_state(tmp_path, tensors(2), {})
    stored = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps({**stored, "format_version": 99}))
    with pytest.raises(UserError, match="newer chatsmith"):
        load_state(tmp_path, print)


def test_row_17_saves_of_one_training_leave_the_newest_state_of_each_other_one(tmp_path: Path) -> None:
    for key, step in [("a", 1), ("b", 1), ("b", 2), ("c", 1), ("c", 2), ("c", 3), ("c", 4)]:
        save_state(tmp_path, tensors(step), {"key": key, "step": step})
    assert [(facts["key"], facts["step"]) for _, facts in saved_states(tmp_path)] == [
        ("a", 1),
        ("b", 2),
        ("c", 3),
        ("c", 4),
    ]
    loaded = load_state(tmp_path, print, key="b")
    assert loaded is not None and loaded.facts == {"key": "b", "step": 2}
    assert load_state(tmp_path, print, key="a") is not None and load_state(tmp_path, print, key="d") is None


def test_a_damaged_state_is_not_what_is_kept_of_the_others(tmp_path: Path) -> None:
    save_state(tmp_path, tensors(1), {"key": "a", "step": 1})
    cut_off(save_state(tmp_path, tensors(2), {"key": "a", "step": 2}) / "tensors.safetensors")
    save_state(tmp_path, tensors(1), {"key": "b", "step": 1})
    assert saved_numbers(tmp_path) == [1, 3]


def test_a_whole_state_of_another_training_does_not_hide_that_its_own_are_damaged(tmp_path: Path) -> None:
    save_state(tmp_path, tensors(1), {"key": "a"})
    cut_off(save_state(tmp_path, tensors(1), {"key": "b"}) / "tensors.safetensors")
    with pytest.raises(UserError, match="delete that folder"):
        load_state(tmp_path, lambda text: None, key="b")


def test_a_state_whose_facts_are_cut_off_is_called_damaged_without_the_parser_speaking(
    tmp_path: Path,
) -> None:
    newest = save_state(tmp_path, tensors(1), {"key": "a"})
    cut_off(newest / "state.json")
    notices: list[str] = []
    with pytest.raises(UserError, match="is damaged"):
        load_state(tmp_path, notices.append, key="a")
    assert notices == [f"A damaged training state is passed over: {newest / 'state.json'} is damaged."]
