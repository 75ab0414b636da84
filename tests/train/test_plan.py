"""The plan: pure, whole in its steps, the same work at every world size, and right for short runs."""

import math
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatsmith.model.config import GPTConfig, model_cost
from chatsmith.optim.optimizer import ROLES, Rates
from chatsmith.runtime.errors import UserError
from chatsmith.train.plan import (
    MINIMUM_STEPS,
    MOST_DECAY,
    OURS_UP_TO,
    REFERENCE_BATCH,
    SHALLOW,
    Plan,
    Schedule,
    batch_tokens_for,
    dial,
    make_plan,
    make_rollout_plan,
    model_shape,
    rates_for,
    weight_decay_for,
    windows_for,
)

SHAPE = model_shape(4, 8192, sequence_length=512)
LEARNING_RATES = [field.name for field in fields(Rates) if field.name != "weight_decay"]

horizons = st.integers(1, 10**11)


def test_depth_decides_the_shape():
    shape = model_shape(6, 8192, sequence_length=512, bigram_buckets=64)
    assert (shape.num_layers, shape.model_dim, shape.head_dim, shape.num_heads) == (6, 384, 64, 6)
    assert (shape.context_length, shape.bigram_buckets) == (512, 64)
    assert model_shape(6, 8192, sequence_length=512, width=128, head_dim=32).num_heads == 4


def test_shallow_models_have_value_embeddings_everywhere_and_deep_ones_on_every_other_layer():
    def layers(depth: int) -> tuple[int, ...]:
        return model_shape(depth, 8192, sequence_length=512).value_embedding_layers

    assert layers(SHALLOW) == tuple(range(SHALLOW))
    assert layers(12) == (1, 3, 5, 7, 9, 11)
    assert layers(13) == (0, 2, 4, 6, 8, 10, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"width": 100}, "width 100 is not a multiple of head_dim 64"),
        ({"head_dim": 48}, "width 128 is not a multiple of head_dim 48"),
        ({"width": 14, "head_dim": 14}, "at least 16 channels"),
        ({"vocab_size": 0}, "vocab_size must be at least 1"),
    ],
)
def test_impossible_shapes_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        model_shape(**{"depth": 2, "vocab_size": 300, "sequence_length": 64, **arguments})


@settings(max_examples=50, deadline=None)
@given(tokens=horizons, world_size=st.sampled_from([1, 2, 8]), micro=st.integers(1, 64))
def test_plans_are_whole_and_come_close_to_the_horizon(tokens, world_size, micro):
    plan = make_plan(SHAPE, tokens, world_size=world_size, rows_per_microbatch=micro)
    assert plan == make_plan(SHAPE, tokens, world_size=world_size, rows_per_microbatch=micro)
    assert plan.tokens == plan.steps * plan.tokens_per_step and plan.steps >= 1
    assert plan.tokens_per_step == 512 * plan.rows_per_microbatch * plan.accumulation * world_size
    assert plan.rows_per_microbatch <= micro
    assert abs(plan.tokens - tokens) <= max(plan.tokens_per_step / 2, plan.tokens_per_step - tokens)


@settings(max_examples=50, deadline=None)
@given(tokens=horizons, micro=st.integers(1, 64), batch_rows=st.integers(1, 100))
def test_what_fits_in_memory_changes_nothing_but_how_a_step_is_cut(tokens, micro, batch_rows):
    free = make_plan(SHAPE, tokens, batch_tokens=512 * batch_rows)
    limited = make_plan(SHAPE, tokens, batch_tokens=512 * batch_rows, rows_per_microbatch=micro)
    assert free.rows_per_step == limited.rows_per_step == batch_rows
    assert (free.steps, free.rates) == (limited.steps, limited.rates)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8, 16])
def test_every_world_size_that_divides_the_step_trains_the_same(world_size):
    alone = make_plan(SHAPE, 10**8, batch_tokens=16 * 512)
    shared = make_plan(SHAPE, 10**8, batch_tokens=16 * 512, world_size=world_size)
    assert (shared.tokens_per_step, shared.steps) == (alone.tokens_per_step, alone.steps)
    assert (shared.rates, shared.schedule) == (alone.rates, alone.schedule)


@pytest.mark.parametrize(("world_size", "rows"), [(3, 18), (5, 20), (32, 32)])
def test_other_world_sizes_round_the_step_up(world_size, rows):
    assert make_plan(SHAPE, 10**8, batch_tokens=16 * 512, world_size=world_size).rows_per_step == rows


@settings(max_examples=50, deadline=None)
@given(tokens=horizons)
def test_batches_are_powers_of_two_rows_and_grow_with_the_horizon(tokens):
    rows = batch_tokens_for(tokens, 512) / 512
    assert rows >= 1 and math.log2(rows).is_integer()
    assert batch_tokens_for(2 * tokens, 512) >= rows * 512


@pytest.mark.parametrize("tokens", [300_000, 3_000_000, 30_000_000])
def test_short_runs_get_small_batches_and_many_steps(tokens):
    assert make_plan(SHAPE, tokens).steps >= MINIMUM_STEPS / 1.5  # a batch is rounded to a power of two


def test_long_runs_follow_the_measured_law():
    assert batch_tokens_for(1_320_000_000, 1024) == 2**19


@pytest.mark.parametrize("tokens", [1, 100, 512])
def test_a_horizon_shorter_than_a_row_is_one_step_of_one_row(tokens):
    plan = make_plan(SHAPE, tokens)
    assert (plan.steps, plan.rows_per_step) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tokens": 0}, "the token budget is 0"),
        ({"batch_tokens": 511}, "less than one row of 512"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        make_plan(SHAPE, **{"tokens": 10**6, **arguments})


def test_rate_scale_multiplies_every_learning_rate_and_nothing_else():
    plain, halved = (make_plan(SHAPE, 10**7, rate_scale=scale).rates for scale in (1.0, 0.5))
    for name in LEARNING_RATES:
        assert getattr(halved, name) == pytest.approx(getattr(plain, name) / 2)
    assert halved.weight_decay == plain.weight_decay


def test_rates_grow_with_the_square_root_of_the_batch_up_to_the_one_they_were_tuned_at():
    def rates(batch_tokens: int) -> Rates:
        return make_plan(SHAPE, 10**9, batch_tokens=batch_tokens).rates

    for name in LEARNING_RATES:
        assert getattr(rates(REFERENCE_BATCH), name) == pytest.approx(
            2 * getattr(rates(REFERENCE_BATCH // 4), name)
        )
    assert rates(OURS_UP_TO) == rates(REFERENCE_BATCH)


batches = st.integers(12, 22).flatmap(lambda exponent: st.integers(2**exponent, 2 ** (exponent + 1)))
D12 = model_shape(12, 32_768, sequence_length=2048, head_dim=128)


def large(batch_tokens: int, tokens: int = 1_320_000_000) -> Plan:
    return make_plan(D12, tokens, batch_tokens=batch_tokens, from_scratch=True)


@settings(max_examples=100, deadline=None)
@given(batch=batches)
def test_rules_for_large_steps_join_those_for_small_ones_without_a_jump(batch):
    """A step one percent larger changes no value by more than a percent or so, all the way from 4,096 to 2^23 tokens;
    and on the joint itself every value goes one way."""
    here, there = rates_for(D12, batch), rates_for(D12, batch * 101 // 100)
    decays = [weight_decay_for(10**9, size) for size in (batch, batch * 101 // 100)]
    assert decays[0] <= decays[1] <= decays[0] + 0.01
    for role in ROLES:
        assert getattr(there, role) == pytest.approx(getattr(here, role), rel=0.012)
    assert here.matrix <= there.matrix
    if batch <= OURS_UP_TO:
        assert (here, decays[0]) == (rates_for(D12, REFERENCE_BATCH), 0)


@pytest.mark.parametrize("role", ROLES)
def test_on_the_joint_every_rate_goes_one_way(role):
    on_joint = [getattr(rates_for(D12, 2**17 + step * 2**12), role) for step in range(97)]
    assert on_joint in (sorted(on_joint), sorted(on_joint, reverse=True))


def test_nanochat_s_published_values_come_out():
    """Those of 92d63d4 for d12 at 2^19 tokens a step and d20 at 2^20, and their weight decays."""
    plan = large(2**19)
    assert plan.rates.matrix == 0.02 and plan.rates.weight_decay == pytest.approx(0.28)
    adam = (plan.rates.head, plan.rates.embedding, plan.rates.value_embedding)
    assert adam == pytest.approx((0.008, 0.3, 0.15))
    assert [plan.schedule.muon_momentum(share) for share in (0.2, 1.0)] == pytest.approx([0.97, 0.9])
    d20 = model_shape(20, 32_768, sequence_length=2048, head_dim=128)
    plan = make_plan(d20, 5_222_000_000, from_scratch=True)
    assert plan.tokens_per_step == 2**20 and plan.rates.weight_decay == pytest.approx(0.1, rel=0.01)
    assert plan.rates.matrix == pytest.approx(0.02 * 2**0.5)
    assert plan.rates.embedding == pytest.approx(0.3 * 2**0.5 * (768 / 1280) ** 0.5)
    published = {8: 2**18, 12: 2**19, 20: 2**20, 24: 2**20, 26: 2**20}
    for depth, batch in published.items():
        shape = model_shape(depth, 32_768, sequence_length=2048, head_dim=128)
        assert batch_tokens_for(12 * model_cost(shape).scaling_parameters, 2048) == batch


def test_fine_tuning_and_small_steps_have_no_decay_and_the_usual_momentum():
    fine_tuning = make_plan(D12, 10**9, batch_tokens=2**19)
    for plan in (fine_tuning, large(OURS_UP_TO), large(2**15)):
        assert plan.rates.weight_decay == 0 and plan.schedule == Schedule()
    assert large(2**19, 10**6).rates.weight_decay == MOST_DECAY, "a short run is not decayed away"


def test_value_embeddings_can_be_left_out():
    """October 2025's d20: 561 million parameters."""
    options = {"sequence_length": 2048, "head_dim": 128}
    october = model_shape(20, 65_536, value_embeddings=False, **options)
    assert october.value_embedding_layers == () and model_cost(october).parameters == 560_988_160
    assert model_cost(model_shape(20, 65_536, **options)).parameters > 1.3e9


def test_wider_models_get_smaller_adam_rates_and_the_same_for_matrices():
    def rates(depth: int) -> Rates:
        return make_plan(model_shape(depth, 8192, sequence_length=512), 10**9, batch_tokens=8192).rates

    assert rates(16).matrix == rates(4).matrix
    for name in ("head", "embedding", "value_embedding", "bigram"):
        assert getattr(rates(16), name) == pytest.approx(getattr(rates(4), name) / 2)


def test_ramps_are_shares_of_the_run():
    """The n-th part of a run has the same rates whether it is a hundred steps long or a million."""
    schedule = Schedule()
    for steps in (100, 1_000_000):
        assert schedule.rate(steps // 100 / steps) == pytest.approx(0.5)
        assert schedule.rate(steps // 5 / steps) == 1.0
        assert schedule.muon_momentum(steps // 20 / steps) == pytest.approx(0.9)
        assert schedule.rate(steps / steps) == pytest.approx(schedule.final)
        assert schedule.muon_momentum(1.0) == 0.95


def test_cost_is_that_of_the_rows_trained_on():
    shape = GPTConfig(vocab_size=300, context_length=64, num_layers=1, num_heads=1, head_dim=16)
    plan = make_plan(shape, 1000)
    assert plan.cost.training_flops_per_token == 6 * (12 * 16**2 + 300 * 16) + 12 * 16 * 64


def test_a_window_pattern_repeats_and_ends_with_the_whole_context() -> None:
    assert windows_for("SSL", 5, 1000) == (250, 250, 0, 250, 0)
    assert windows_for("S", 3, 256) == (64, 64, 0)
    assert windows_for("L", 2, 256) == (0, 0)


@pytest.mark.parametrize("pattern", ["", "SX", "sl"])
def test_another_letter_in_a_window_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="letters L"):
        windows_for(pattern, 4, 256)


@pytest.mark.parametrize(("steps", "longer"), [(200, 1), (160, 1), (100, 1.6), (80, 2), (10, 2)])
def test_where_time_holds_fewer_steps_of_practice_than_wanted_they_are_longer(steps, longer):
    given, usual = (
        make_rollout_plan(SHAPE, steps=steps, replies=8, rows_per_microbatch=8, wanted_steps=wanted)
        for wanted in (160, 0)
    )
    assert given.rates.matrix == pytest.approx(longer * usual.rates.matrix)
    assert given.rates.head == pytest.approx(longer * usual.rates.head)


def test_a_step_that_is_not_of_the_size_asked_for_is_told_of():
    def rounding(batch_tokens: int | None, world_size: int) -> str | None:
        return make_plan(SHAPE, 10**6, batch_tokens=batch_tokens, world_size=world_size).rounding

    assert rounding(8192, 1) is rounding(8192, 4) is rounding(None, 1) is None
    assert rounding(8192, 3) == (
        "a step takes 9,216 tokens, not 8,192: 18 whole rows of 512, for 3 processes to share"
    )
    assert rounding(1000, 1) == "a step takes 1,024 tokens, not 1,000: 2 whole rows of 512"


def test_the_numbers_of_processes_that_give_a_step_its_rows():
    plan = make_plan(SHAPE, 10**6, batch_tokens=16 * 512, world_size=3)
    assert plan.rows_per_step == 18
    assert plan.world_sizes_for(18) == [3, 6, 9, 18]
    assert plan.world_sizes_for(16) == [1, 2, 4, 8, 16]
    assert plan.world_sizes_for(15) == []


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, (8192, 512, 64, "L")), (11, (8192, 512, 64, "L")), (12, (32_768, 2048, 128, "SSSL"))],
)
def test_the_dial_shapes_a_deep_model_as_a_gpu_wants_it(depth, expected):
    assert dial(depth) == expected
    assert dial(depth, "portable") == (*expected[:3], "L")
