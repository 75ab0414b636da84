"""What goes wrong is said in a line, once, and where nothing can come of it the run stops."""

import pytest

from chatsmith.rl.reward_monitor import PATIENCE, Watch
from chatsmith.runtime.errors import UserError

HEALTHY = {
    "replies": 256.0,
    "failed_rewards": 0.0,
    "nonzero_rewards": 0.5,
    "entropy": 0.2,
    "equal_groups": 0.4,
    "pass_at_1": 0.5,
    "truncated": 0.01,
}


def watch(**settings) -> Watch:
    return Watch(**{"give_up_after": 4, "max_tokens": 64} | settings)


def told(watch: Watch, rounds: int, **figures: float) -> list[str]:
    return [notice for _ in range(rounds) for notice in watch.look(HEALTHY | figures)]


def test_a_healthy_run_says_nothing():
    assert told(watch(), 50) == []


def test_no_reward_at_all_for_some_steps_ends_the_run_with_advice():
    one = watch()
    assert told(one, 3, nonzero_rewards=0.0) == []
    with pytest.raises(
        UserError, match=r"not one reply of the last 4 steps.*fine-tune it on such problems first"
    ):
        told(one, 1, nonzero_rewards=0.0)


def test_one_reward_in_between_starts_the_count_anew():
    one = watch()
    for _ in range(3):
        told(one, 3, nonzero_rewards=0.0)
        told(one, 1, nonzero_rewards=0.01)


def test_a_model_that_says_the_same_every_time_is_told_of_once():
    one = watch()
    told(one, 1)
    (notice,) = told(one, 20, entropy=0.001, equal_groups=0.95, pass_at_1=0.3)
    assert "0.0010, at first 0.2000" in notice and "--rate-scale" in notice and "--kl" in notice


def test_a_model_that_is_sure_because_it_is_right_is_no_collapse():
    one = watch()
    told(one, 1)
    assert told(one, 20, entropy=0.001, equal_groups=0.95, pass_at_1=0.97) == []


def test_replies_that_do_not_end_are_told_of_once():
    (notice,) = told(watch(), 20, truncated=0.8)
    assert "80% of the replies do not end within 64 tokens" in notice and "--max-tokens" in notice
    assert told(watch(), PATIENCE - 1, truncated=0.8) == []


def test_a_reward_that_always_fails_ends_the_run_at_once():
    with pytest.raises(UserError, match="the reward failed for every reply"):
        told(watch(), 1, failed_rewards=256.0)
    assert told(watch(), 20, failed_rewards=255.0) == []


def test_counts_go_on_where_they_were_saved():
    one, other = watch(), watch()
    told(one, 3, nonzero_rewards=0.0)
    other.load_named_state(one.named_state())
    with pytest.raises(UserError, match="not one reply"):
        told(other, 1, nonzero_rewards=0.0)
