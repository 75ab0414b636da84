"""The sampler draws from the distribution it should, one row as if it were alone, the same for one seed."""

import math

import pytest
import torch

from chatsmith.engine.request import SamplingParams
from chatsmith.engine.sampler import Row, choose, draw, probabilities, uniform

VOCAB = 12
LOGITS = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2


def rows(sampling: SamplingParams, count: int) -> list[Row]:
    return [Row(sampling, seeds=(seed,), position=5) for seed in range(count)]


def allowed(sampling: SamplingParams, logits: torch.Tensor = LOGITS) -> set[int]:
    return set(probabilities(logits, [Row(sampling, (0,), 0)])[0].nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=2.0, top_k=5),
        SamplingParams(top_p=0.8),
        SamplingParams(min_p=0.1),
    ],
)
def test_draws_follow_the_softmax(sampling: SamplingParams) -> None:
    """Chi-square against the truncated softmax; the seeds are fixed, so it cannot fail by chance twice."""
    count = 4_000
    chosen = [choice.id for choice in choose(LOGITS.expand(count, -1), rows(sampling, count))]
    expected = (LOGITS[0] / sampling.temperature).softmax(-1)
    kept = allowed(sampling)
    expected = torch.tensor([p if id in kept else 0.0 for id, p in enumerate(expected.tolist())])
    expected = expected / expected.sum() * count
    observed = torch.bincount(torch.tensor(chosen), minlength=VOCAB)
    assert observed[expected == 0].sum() == 0
    is_common = expected >= 5
    statistic = ((observed - expected)[is_common] ** 2 / expected[is_common]).sum().item()
    freedom = int(is_common.sum()) - 1
    # Wilson-Hilferty: the 99.9 % quantile of chi-square.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.09 * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


def test_the_noise_is_uniform_over_seeds_and_over_positions() -> None:
    for numbers in (
        [uniform(seed, 7) for seed in range(2_000)],
        [uniform(7, position) for position in range(2_000)],
        [uniform(seed, -seed + 2_000) for seed in range(2_000)],
    ):
        counts = torch.histc(torch.tensor(numbers), bins=10, min=0, max=1)
        assert ((counts - 200) ** 2 / 200).sum() < 27.9  # 99.9 % quantile for 9 degrees of freedom
    assert len({uniform(seed, 0) for seed in (-1, 0, 1, 2**63 - 1, -(2**63))}) == 5


def test_truncation_keeps_the_sets_it_should() -> None:
    probs, order = LOGITS[0].softmax(-1).sort(descending=True)
    best = order.tolist()
    assert allowed(SamplingParams(top_k=3)) == set(best[:3])
    assert allowed(SamplingParams(top_k=VOCAB + 5)) == set(best)
    nucleus = 1 + sum((probs.cumsum(-1) < 0.7).tolist())
    assert allowed(SamplingParams(top_p=0.7)) == set(best[:nucleus])
    assert allowed(SamplingParams(top_p=1e-9)) == {best[0]}
    assert allowed(SamplingParams(min_p=0.2)) == {
        id for id, p in zip(best, probs, strict=True) if p >= 0.2 * probs[0]
    }
    # Top-p is a share of what top-k left, and min-p comes last.
    assert allowed(SamplingParams(top_k=2, top_p=1.0, min_p=1.0)) == {best[0]}
    share = float(probs[0] / probs[:2].sum())
    assert allowed(SamplingParams(top_k=2, top_p=share + 0.01)) == set(best[:2])
    assert allowed(SamplingParams(top_k=2, top_p=share - 0.01)) == {best[0]}


def test_equal_logits_stay_or_go_together() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    assert allowed(SamplingParams(top_k=2), logits) == {0, 1, 2, 3}


def test_a_row_is_sampled_as_if_it_were_alone() -> None:
    samplings = [
        SamplingParams(temperature=0),
        SamplingParams(),
        SamplingParams(top_k=2),
        SamplingParams(top_p=0.5, temperature=0.7),
        SamplingParams(min_p=0.3, top_k=7),
        SamplingParams(frequency_penalty=1.0, presence_penalty=0.5, repetition_penalty=1.3),
        SamplingParams(logit_bias={3: 4.0}),
        SamplingParams(logprobs=3),
    ]
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(samplings), VOCAB, generator=generator, dtype=torch.float64)
    batch = [
        Row(
            sampling,
            seeds=(10 + index,),
            position=index,
            prompt_ids=(1, 2),
            sampled_ids=(2, 3, 3),
            banned_ids=(4,),
        )
        for index, sampling in enumerate(samplings)
    ]
    together = choose(logits, batch)
    alone = [choose(logits[index : index + 1], [row])[0] for index, row in enumerate(batch)]
    assert together == alone


def test_a_row_of_several_replies_chooses_for_each_as_a_row_of_its_own() -> None:
    samplings = [
        SamplingParams(temperature=0),
        SamplingParams(logprobs=2),
        SamplingParams(top_k=3),
        SamplingParams(logprobs=0),
    ]
    seeds = [(1, 2, 3), (4,), (5, 6), (7, 8, 9, 10)]
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(samplings), VOCAB, generator=generator, dtype=torch.float64)
    for kept in ([0, 1, 2, 3], [1, 2, 3], [0], [3, 1]):
        some = [Row(samplings[index], seeds[index], position=4) for index in kept]
        alone = [
            choose(logits[index : index + 1], [Row(samplings[index], (seed,), position=4)])[0]
            for index in kept
            for seed in seeds[index]
        ]
        assert choose(logits[kept], some) == alone
    assert (
        len(
            {
                choice.id
                for choice in choose(logits[1:2].expand(1, -1), [Row(SamplingParams(), tuple(range(50)), 4)])
            }
        )
        > 3
    )


def test_tiny_temperatures_do_not_overflow() -> None:
    for temperature in (1e-300, 1e-6):
        choice = choose(LOGITS.float(), [Row(SamplingParams(temperature=temperature), (1,), 1)])[0]
        assert choice.id == LOGITS.argmax().item()


def test_huge_temperatures_draw_from_what_is_allowed() -> None:
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        row = Row(SamplingParams(temperature=1e39), (seed,), position=3, banned_ids=tuple(range(25)))
        assert 25 <= (choose(logits, [row])[0].id or 0) < 50


def test_an_impossible_token_is_never_drawn() -> None:
    probs = torch.tensor([[0.0, 1.0, 0.0, 1e-12, 0.0]]).expand(1_000, -1)
    drawn = draw(probs, [Row(SamplingParams(), (seed,), 0) for seed in range(1_000)])
    assert set(drawn.tolist()) <= {1, 3}


def test_penalties_and_bias_change_the_logits_as_described() -> None:
    logits = torch.tensor([[3.0, 2.9, -1.0, 0.0]])

    def best(
        sampling: SamplingParams, prompt: tuple[int, ...] = (), sampled: tuple[int, ...] = ()
    ) -> int | None:
        return choose(logits, [Row(sampling, (0,), 0, prompt, sampled)])[0].id

    greedy = SamplingParams(temperature=0)
    assert best(greedy) == 0
    assert best(SamplingParams(temperature=0, logit_bias={3: 100.0})) == 3
    assert best(SamplingParams(temperature=0, frequency_penalty=0.06), sampled=(0,)) == 0
    assert best(SamplingParams(temperature=0, frequency_penalty=0.06), sampled=(0, 0)) == 1
    assert best(SamplingParams(temperature=0, presence_penalty=0.2), sampled=(0,)) == 1
    assert best(SamplingParams(temperature=0, presence_penalty=0.2), prompt=(0,)) == 0, (
        "only the reply counts"
    )
    assert best(SamplingParams(temperature=0, repetition_penalty=1.1), prompt=(0,)) == 1, (
        "the prompt counts too"
    )
    assert choose(logits, [Row(greedy, (0,), 0, banned_ids=(0, 1))])[0].id == 3


def test_logprobs_are_those_of_the_model_itself() -> None:
    sampling = SamplingParams(temperature=0, logit_bias={0: 100.0}, logprobs=2)
    choice = choose(LOGITS, [Row(sampling, (0,), 0)])[0]
    expected = LOGITS[0].log_softmax(-1)
    assert choice.id == 0
    assert choice.logprob is not None
    assert choice.logprob.logprob == pytest.approx(expected[0].item())
    best = expected.topk(2)
    assert [id for id, _ in choice.logprob.top] == best.indices.tolist()
    assert [value for _, value in choice.logprob.top] == pytest.approx(best.values.tolist())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_broken_logits_spoil_their_own_row_only(broken: float) -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1, 4] = broken
    for sampling in (SamplingParams(temperature=0), SamplingParams(top_p=0.9, logprobs=1)):
        batch = [Row(sampling, (5,), 5)] * 3
        first, second, third = choose(logits, batch)
        assert second.id is None
        assert first == third == choose(LOGITS, batch[:1])[0]
    minus_infinity = torch.full((1, VOCAB), float("-inf"))
    assert choose(minus_infinity, [Row(SamplingParams(), (0,), 0)])[0].id is None


EXTREMES = [
    5e-324,
    1e-300,
    1e-45,
    1e-39,
    1e-38,
    1e-37,
    0.01,
    1.0,
    2.0,
    100.0,
    1e37,
    1e38,
    1e39,
    1e300,
    1.7e308,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0, 5e-324, 1.0, 1.7e308])
def test_no_parameter_in_its_range_leaves_nothing_to_choose(dtype: torch.dtype, temperature: float) -> None:
    """Penalties and biases of any size, together: some token is chosen always, and never a banned one."""
    logits = torch.tensor([[-14.9, 3.0, 0.0, -0.0, 14.9, 2.0]], dtype=dtype)
    values = [*EXTREMES, *(-one for one in EXTREMES), 0.0]
    cases: list[dict[str, object]] = [{"repetition_penalty": one} for one in EXTREMES]
    cases += [
        {"repetition_penalty": one, "logit_bias": {0: bias, 3: -bias, 4: bias}}
        for one in EXTREMES
        for bias in (-100.0, 100.0, 1.7e308)
    ]
    cases += [{"logit_bias": {0: one, 1: other}} for one in values for other in (1.7e308, -1.7e308, 3.0)]
    cases += [
        {"frequency_penalty": one, "presence_penalty": other, "repetition_penalty": 1e-45}
        for one in values
        for other in (1.7e308, -1.7e308, 1e38, 0.0)
    ]
    cases += [{name: one} for name in ("top_p", "min_p") for one in EXTREMES[:8]]
    for case in cases:
        sampling = SamplingParams(temperature=temperature, seed=3, logprobs=2, **case)  # type: ignore[arg-type]
        row = Row(sampling, (3,), 9, prompt_ids=(0, 1, 2, 3), sampled_ids=(4, 4, 0), banned_ids=(5,))
        choice = choose(logits, [row])[0]
        assert choice.id in range(5), case
