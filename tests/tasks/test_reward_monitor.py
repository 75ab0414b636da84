"""What goes wrong is said in a line, once, and where nothing can come of it the run stops."""

import pytest

from chatsmith.runtime.errors import UserError
from chatsmith.tasks.reward_monitor import PATIENCE, RewardMonitor

HEALTHY = {
    "replies": 256.0,
    "failed_rewards": 0.0,
    "nonzero_rewards": 0.5,
    "entropy": 0.2,
    "equal_groups": 0.4,
    "pass_at_1": 0.5,
    "truncated": 0.01,
}


def monitor(**settings) -> RewardMonitor:
    return RewardMonitor(**{"give_up_after": 4, "max_tokens": 64} | settings)


def notices(monitor: RewardMonitor, rounds: int, **metrics: float) -> list[str]:
    return [notice for _ in range(rounds) for notice in monitor.check(HEALTHY | metrics)]


def test_a_healthy_run_says_nothing():
    assert notices(monitor(), 50) == []


def test_no_reward_at_all_for_some_steps_ends_the_run_with_advice():
    one = monitor()
    assert notices(one, 3, nonzero_rewards=0.0) == []
    with pytest.raises(
        UserError, match=r"not one reply of the last 4 steps.*fine-tune it on such problems first"
    ):
        notices(one, 1, nonzero_rewards=0.0)


def test_one_reward_in_between_starts_the_count_anew():
    one = monitor()
    for _ in range(3):
        notices(one, 3, nonzero_rewards=0.0)
        notices(one, 1, nonzero_rewards=0.01)


def test_a_model_that_says_the_same_every_time_is_told_of_once():
    one = monitor()
    notices(one, 1)
    (notice,) = notices(one, 20, entropy=0.001, equal_groups=0.95, pass_at_1=0.3)
    assert (
        "0.0010, at first 0.2000" in notice and "lower the learning rate" in notice and "KL penalty" in notice
    )


def test_a_model_that_is_sure_because_it_is_right_is_no_collapse():
    one = monitor()
    notices(one, 1)
    assert notices(one, 20, entropy=0.001, equal_groups=0.95, pass_at_1=0.97) == []


def test_replies_that_do_not_end_are_told_of_once():
    (notice,) = notices(monitor(), 20, truncated=0.8)
    assert "80% of the replies do not end within 64 tokens" in notice and "allow longer ones" in notice
    assert notices(monitor(), PATIENCE - 1, truncated=0.8) == []


def test_a_reward_that_always_fails_ends_the_run_at_once():
    with pytest.raises(UserError, match="the reward failed for every reply"):
        notices(monitor(), 1, failed_rewards=256.0)
    assert notices(monitor(), 20, failed_rewards=255.0) == []


def test_counts_go_on_where_they_were_saved():
    one, other = monitor(), monitor()
    notices(one, 3, nonzero_rewards=0.0)
    other.counts |= one.counts
    with pytest.raises(UserError, match="not one reply"):
        notices(other, 1, nonzero_rewards=0.0)
