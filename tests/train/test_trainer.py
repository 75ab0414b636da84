"""The loop: a step is one big batch however it is cut, nothing bad reaches the weights, and stopping loses nothing."""

import json
import math
import os
import signal
from functools import partial
from itertools import islice, repeat

import pytest
import torch

from chatsmith.data.packing import NOT_TRAINED_ON, Batch
from chatsmith.evals.hardest import hardest_rows
from chatsmith.model.loss import token_losses
from chatsmith.optim.optimizer import Optimizer
from chatsmith.runtime.signals import FINISHING_STEP, stop_request
from chatsmith.runtime.states import saved_states
from chatsmith.train.plan import REFERENCE_BATCH
from chatsmith.train.step import NonFiniteLossError, prepare, train_step
from chatsmith.train.timing import TimeBudget
from chatsmith.train.trainer import Job, TrainingStoppedError, TrainResult, fit
from tests.train.conftest import Kept


@pytest.fixture
def train(runtime, training_run):
    """Trains in a new folder, or as the run says; returns the result."""

    def start(model, plan, batches, run=None, compute_loss=None, budget=None, **options) -> TrainResult:
        """`batches` go on for ever, or depend on the first row."""
        batches_from = batches if callable(batches) else lambda _: batches
        job = Job(batches_from, compute_loss or prepare(model, runtime, False, print), **options)
        return fit(run or training_run(), model, plan, job, budget)

    return start


def steps_saved(run) -> list[int]:
    return [facts["step"] for _, facts in saved_states(run.state_folder)]


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_batch_of_one_is_overfitted(new_model, new_plan, train):
    model = new_model()
    tokens = torch.randint(40, (1, 17), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens[:, :-1], tokens[:, 1:])
    # The plan's rule would shrink the rates for a batch as tiny as this.
    plan = new_plan(100, rows=1, rows_per_microbatch=1, rate_scale=(REFERENCE_BATCH / 16) ** 0.5)
    first_losses = token_losses(model, model(batch.inputs)[0], batch.targets[0])
    assert first_losses.mean().item() == pytest.approx(math.log(40), abs=0.05)
    result = train(model, plan, repeat(batch))
    assert token_losses(model, model(batch.inputs)[0], batch.targets[0]).max() < 0.05
    assert result.loss < 0.1


def test_accumulating_microbatches_is_one_big_batch(new_model, new_plan, batches_from, runtime):
    """Every token weighs the same, though the rows of the microbatches are masked unevenly."""
    results = []
    for micro in (1, 2, 6):
        model = new_model(torch.float64)
        plan = new_plan(steps=4, rows=6, rows_per_microbatch=micro)
        assert plan.accumulation == 6 // micro
        optimizer, batches = Optimizer(model, plan.rates), batches_from(micro)
        compute_loss = prepare(model, runtime, False, print)
        model.compute_dtype = torch.float64
        losses = []
        for step in range(1, 4):
            of_step = islice(batches, plan.accumulation)
            losses.append(train_step(model, optimizer, of_step, plan, compute_loss, runtime, step))
        results.append((losses, weights_of(model)))
    for losses, weights in results[1:]:
        assert losses == pytest.approx(results[0][0], rel=1e-6)
        for name, value in weights.items():
            torch.testing.assert_close(value, results[0][1][name], rtol=1e-4, atol=1e-6)


def test_a_step_reports_the_mean_loss_of_the_tokens_trained_on(new_model, new_plan, batches_from, runtime):
    model = new_model()
    plan = new_plan(steps=1, rows=4, rows_per_microbatch=2)
    batches = batches_from(2)
    both = [next(batches) for _ in range(2)]
    inputs, targets = (torch.cat(parts) for parts in zip(*both, strict=True))
    losses = token_losses(model, model(inputs).flatten(0, 1), targets.flatten())
    expected = losses.sum().item() / (targets != NOT_TRAINED_ON).sum().item()
    loss = train_step(
        model,
        Optimizer(model, plan.rates),
        iter(both),
        plan,
        prepare(model, runtime, False, print),
        runtime,
        1,
    )
    assert loss == pytest.approx(expected, rel=1e-5)


class Poisoned:
    """A loss of these steps that is `bad` or, as for text at random, high."""

    def __init__(self, honest, steps, bad=None, per_step: int = 2) -> None:
        self.honest, self.steps, self.bad, self.per_step, self.calls = honest, steps, bad, per_step, 0
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def __call__(self, model, batch, scale):
        loss = self.honest(model, batch, scale)
        if not torch.is_grad_enabled():  # asked which row it was
            return loss
        step, self.calls = self.calls // self.per_step + 1, self.calls + 1
        self.weights.setdefault(step, weights_of(model))
        return loss * (self.bad or 50.0) if step in self.steps else loss


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights(
    new_model, new_plan, batches_from, runtime, train, training_run, bad
):
    model = new_model()
    loss = Poisoned(prepare(model, runtime, False, print), range(3, 9), bad)
    with pytest.raises(
        NonFiniteLossError, match=r"3 steps in a row, up to step 5.*Lower the learning rate"
    ) as error:
        train(model, new_plan(8), batches_from(2), compute_loss=loss)
    assert error.value.settings == ("rate_scale",)
    assert all(torch.equal(value, loss.weights[3][name]) for name, value in weights_of(model).items())
    assert steps_saved(training_run()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, None], ids=["nan", "inf", "exploding"])
def test_a_bad_step_is_left_out_and_its_text_is_named(
    new_model, new_plan, batches_from, runtime, train, training_run, bad
):
    model = new_model()
    named = partial(hardest_rows, text_of=lambda ids: f"document {len(ids)}", runtime=runtime)
    one = training_run(describe=named)
    loss = Poisoned(prepare(model, runtime, False, print), (20,), bad)
    result = train(model, new_plan(24), batches_from(2), one, compute_loss=loss)
    assert result.steps == 24 and math.isfinite(result.loss) and result.loss < 4
    assert all(torch.equal(value, loss.weights[20][name]) for name, value in loss.weights[21].items())
    assert not torch.equal(*(loss.weights[step]["head.weight"] for step in (21, 22)))
    told = one.reporter._stream.getvalue()
    assert told.count("is left out: its loss is") == 1 and "step 20 is left out" in told
    assert told.count("a row with loss") == 3 and "document" in told
    assert len([line for line in one.metrics_path.read_text().splitlines() if "loss" in line]) == 24


def test_no_step_of_honest_training_is_left_out(new_model, new_plan, batches_from, training_run, train):
    """Not at the beginning, where losses fall by nats, nor with batches that differ as much as here."""
    one = training_run()
    train(new_model(), new_plan(100, rate_scale=3.0), batches_from(2), one)
    assert "left out" not in one.reporter._stream.getvalue()


def test_after_bad_steps_in_a_row_training_goes_back_and_on_with_a_lower_rate(
    new_model, new_plan, batches_from, runtime, train, training_run
):
    """As often as it may; where the bad steps remain, it stops."""
    model, one = new_model(), training_run(save_seconds=0.0, on_bad_loss="back")
    honest, plan = prepare(model, runtime, False, print), new_plan(12)
    result = train(
        model, plan, lambda row: batches_from(2, row), one, compute_loss=Poisoned(honest, (5, 6, 7), math.nan)
    )
    told = one.reporter._stream.getvalue()
    assert result.steps == 12 and "back from step 7 to step 4, with 0.5 times the learning rate" in told
    lines = [json.loads(line) for line in one.metrics_path.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 13))
    again = training_run(folder="again", save_seconds=0.0, on_bad_loss="back")
    with pytest.raises(NonFiniteLossError, match="none of them reached the weights"):
        train(
            new_model(),
            plan,
            lambda row: batches_from(2, row),
            again,
            compute_loss=Poisoned(honest, range(5, 99), math.nan),
        )
    told = again.reporter._stream.getvalue()
    assert [rate in told for rate in ("with 0.5 times", "with 0.25 times", "with 0.125 times")] == 3 * [True]


def test_evaluations_come_at_their_interval_and_once_at_the_end(
    new_model, new_plan, batches_from, training_run, train
):
    shown: list[str] = []
    one = training_run(sample=lambda model: shown.append("text") or {"sample": "some text", "samples": []})
    result = train(
        new_model(),
        new_plan(8),
        batches_from(2),
        one,
        evaluate=lambda: {"bpb": float(len(shown))},
        evaluate_every=3,
    )
    lines = [json.loads(line) for line in one.metrics_path.read_text().splitlines()]
    assert [line["step"] for line in lines if "bpb" in line] == [3, 6, 8]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert [line["tokens"] for line in lines if "loss" in line] == [64 * step for step in range(1, 9)]
    assert [line["sample"] for line in lines if "samples" in line] == 3 * ["some text"]
    assert result.scores == {"bpb": 2.0} and result.steps == 8
    told = one.reporter._stream.getvalue()
    assert told.count("some text") == 3 and told.count("First step done") == 1


def test_states_are_saved_as_time_passes_but_not_at_the_end(
    new_model, new_plan, batches_from, training_run, train
):
    one = training_run(save_seconds=0.0)
    train(new_model(), new_plan(4), batches_from(2), one)
    assert steps_saved(one) == [2, 3]  # the one before the newest is kept as well
    assert sorted(path.name for path in one.state_folder.iterdir()) == ["000002", "000003"]


class Interrupted:
    """Batches that press Ctrl-C while those of `step` are fetched."""

    def __init__(self, batches, step: int, per_step: int, number: int = signal.SIGINT) -> None:
        self.batches, self.number = batches, number
        self.left = (step - 1) * per_step + 1

    def __iter__(self):
        return self

    def __next__(self):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), self.number)
        return next(self.batches)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_saves_and_tells_how_to_go_on(
    new_model, new_plan, batches_from, training_run, train, number, capfd
):
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    batches = Interrupted(batches_from(2), step=3, per_step=2, number=number)
    with pytest.raises(TrainingStoppedError, match="after step 3 of 8, which is saved"):
        train(new_model(), new_plan(8), batches)
    assert steps_saved(training_run()) == [3]
    assert capfd.readouterr().err == f"{FINISHING_STEP}\n"
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("moment", ["in the step", "in its evaluation"])
@pytest.mark.parametrize("step", [8, 12], ids=["on the way", "last"])
def test_a_signal_stops_at_once_also_in_an_evaluation_and_in_the_last_step(
    new_model, new_plan, batches_from, training_run, train, step, moment
):
    """The resumed run evaluates what was left, and equals the uninterrupted one in everything."""
    whole, resumed, asked = new_model(), new_model(), []

    def scored(model, stops=False):
        def evaluate() -> dict[str, float]:
            asked.append(len(asked))
            if stops and len(asked) == step // 4:
                os.kill(os.getpid(), signal.SIGTERM)
                asked.append("went on")
            return {"bpb": model.state_dict()["head.weight"].double().sum().item()}

        return {"evaluate": evaluate, "evaluate_every": 4}

    one, plan = training_run(folder="whole"), new_plan(12)
    expected = train(whole, plan, lambda row: batches_from(2, row), one, **scored(whole))
    asked.clear()
    model, in_step = new_model(), moment == "in the step"
    with pytest.raises(TrainingStoppedError, match=f"after step {step} of 12, which is saved") as stop:
        batches = Interrupted(batches_from(2), step if in_step else 99, 2, signal.SIGTERM)
        train(model, plan, lambda _: batches, **scored(model, stops=not in_step))
    assert stop.value.code == 143 and "went on" not in asked and len(asked) == step // 4 - in_step
    found = train(resumed, plan, lambda row: batches_from(2, row), **scored(resumed))
    assert found.scores == expected.scores and found.loss == expected.loss
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

    def records(run) -> list[tuple]:
        lines = map(json.loads, run.metrics_path.read_text().splitlines())
        return [(line["step"], line.get("loss"), line.get("bpb")) for line in lines]

    assert records(training_run()) == records(one)


def test_the_smoothed_loss_and_scores_of_a_run_resumed_after_its_last_step_are_those_of_a_whole_one(
    new_model, new_plan, batches_from, training_run, train
):
    model, plan = new_model(), new_plan(6)
    expected = train(model, plan, batches_from(2), training_run(folder="whole"))
    for stop in (2, 3, 6):
        with pytest.raises(TrainingStoppedError):
            train(
                new_model(),
                plan,
                lambda row, stop=stop: Interrupted(batches_from(2, row), stop - row // 4, 2),
            )
    assert train(new_model(), plan, lambda row: batches_from(2, row)).loss == expected.loss


def test_the_request_is_acknowledged_at_once_and_once_and_by_one_process(capfd):
    for silent, told in ((False, f"{FINISHING_STEP}\n"), (True, "")):
        with stop_request(silent) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.received and capfd.readouterr().err == told
            os.kill(os.getpid(), signal.SIGTERM)
            assert capfd.readouterr().err == ""


def test_a_second_ctrl_c_stops_at_once(new_model, new_plan, batches_from, train):
    once = Interrupted(batches_from(2), step=3, per_step=2)
    twice = Interrupted(once, step=3, per_step=2)
    with pytest.raises(KeyboardInterrupt) as stop:
        train(new_model(), new_plan(8), twice)
    assert not isinstance(stop.value, TrainingStoppedError)


def test_an_interrupted_run_resumes_to_the_very_same_weights(
    new_model, new_plan, batches_from, training_run, train
):
    plan, whole, resumed = new_plan(8), new_model(), new_model()
    train(whole, plan, lambda row: batches_from(2, row), training_run(folder="whole"))
    with pytest.raises(TrainingStoppedError):
        train(new_model(), plan, lambda row: Interrupted(batches_from(2, row), step=3, per_step=2))
    starts: list[int] = []
    result = train(resumed, plan, lambda row: starts.append(row) or batches_from(2, row))
    assert starts == [3 * plan.rows_per_step] and result.steps == 8
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


class Scripted(TimeBudget):
    """A budget that measures these numbers of steps, one after the other."""

    def __init__(self, runtime, *answers: int) -> None:
        super().__init__(1.0, 0.0, Kept(), runtime)
        self.answers, self.asked = answers, {}

    def _measured_again(self, step: int, step_seconds: float) -> int:
        assert step_seconds > 0
        answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
        self.asked[step] = max(step, answer)
        return answer


@pytest.mark.parametrize(
    ("held", "after"),
    [
        ((7,), [4]),  # six tenths of 7 are done by then
        ((10, 12), [4, 6, 7]),
        ((12, 9), [4, 7]),
        ((20, 5), [4, 12]),
        ((2,), [4]),
    ],
    ids=["fewer", "fewer, then more", "fewer, then fewer", "more, then none left", "none left"],
)
def test_steps_are_corrected_again_and_the_schedule_and_the_end_go_by_them(
    new_model, new_plan, batches_from, runtime, training_run, train, held, after
):
    one, budget = training_run(), Scripted(runtime, *held)
    result = train(
        new_model(), new_plan(16), batches_from(2), one, budget=budget, evaluate=lambda: {"bpb": 1.0}
    )
    asked = budget.asked
    lines = [json.loads(line) for line in one.metrics_path.read_text().splitlines()]
    rates = [line["rate"] for line in lines if "rate" in line]
    schedule = new_plan(16).schedule
    assert list(asked) == after
    assert result.steps == len(rates) == asked[after[-1]] and result.scores == {"bpb": 1.0}
    ends, end = [], 16
    for step in range(1, len(rates) + 1):
        ends.append(end)
        end = asked.get(step, end)
    assert rates == [schedule.rate(step / end) for step, end in enumerate(ends, start=1)]


@pytest.mark.parametrize("stopped_in", [3, 6], ids=["before the correction", "after it"])
def test_a_corrected_run_that_was_interrupted_resumes_to_the_very_same_weights(
    new_model, new_plan, batches_from, runtime, training_run, train, stopped_in
):
    whole, resumed = new_model(), new_model()
    train(
        whole,
        new_plan(16),
        lambda row: batches_from(2, row),
        training_run(folder="whole"),
        budget=Scripted(runtime, 9),
    )
    with pytest.raises(TrainingStoppedError):
        train(
            new_model(),
            new_plan(16),
            lambda row: Interrupted(batches_from(2, row), stopped_in, 2),
            budget=Scripted(runtime, 9),
        )
    again = Scripted(runtime, 9)
    result = train(resumed, new_plan(16), lambda row: batches_from(2, row), budget=again)
    assert result.steps == 9
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_state_of_different_settings_or_another_plan_is_not_resumed(
    new_model, new_plan, batches_from, training_run, train
):
    def interrupt(run, plan, step):
        starts = []
        with pytest.raises(TrainingStoppedError):
            train(
                new_model(),
                plan,
                lambda row: starts.append(row) or Interrupted(batches_from(2, row), step, plan.accumulation),
                run,
            )
        return starts[0]

    assert interrupt(training_run(), new_plan(8), step=3) == 0
    assert (
        interrupt(training_run(), new_plan(8, rows_per_microbatch=4), step=1) == 12
    )  # cut otherwise, same steps
    assert interrupt(training_run(key="other seed"), new_plan(8), step=3) == 0
    assert interrupt(training_run(key="other seed"), new_plan(9), step=3) == 0
