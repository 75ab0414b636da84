"""Compiled, eager, on a GPU: the same loss and the same gradients."""

from itertools import islice
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from chatsmith.optim.optimizer import Optimizer
from chatsmith.optim.sharded import make_optimizer
from chatsmith.runtime.device import Runtime, can_compile
from chatsmith.train import step
from chatsmith.train.memory import Notch
from chatsmith.train.step import prepare, train_step, uncompiled
from tests.elsewhere import Elsewhere, pretending

CPU = torch.device("cpu")


def random_weights(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def loss_and_gradients(model, batches, runtime, compile):
    compute_loss = prepare(model, runtime, compile, pytest.fail)
    total = 0.0
    for batch in batches:
        loss = compute_loss(model, batch.to(runtime.device), 0.01)
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}


def assert_equal_training(first, second, tolerance: float) -> None:
    (loss, gradients), (other_loss, other_gradients) = first, second
    assert other_loss == pytest.approx(loss, rel=tolerance)
    for name, gradient in gradients.items():
        assert (other_gradients[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-6, name


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(CPU), reason="needs a C++ compiler")
def test_compiled_equals_eager(new_model, batches_from, runtime):
    """Blocks and loss, over two layers (of which one has a value embedding) and two batches."""
    source = batches_from(2)
    batches = [next(source) for _ in range(2)]
    eager = loss_and_gradients(random_weights(new_model()), batches, runtime, False)
    model = random_weights(new_model())
    compiled = loss_and_gradients(model, batches, runtime, True)
    assert_equal_training(eager, compiled, tolerance=1e-4)
    with uncompiled(), torch.no_grad():
        hidden = model(batches[0].inputs)
    torch.testing.assert_close(hidden, random_weights(new_model())(batches[0].inputs))


def test_without_a_compiler_training_is_eager_and_one_line_says_so(
    new_model, batches_from, runtime, monkeypatch
):
    monkeypatch.setattr(step, "can_compile", lambda device: False)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    notices: list[str] = []
    model = new_model()
    compute_loss = prepare(model, runtime, True, notices.append)
    assert compute_loss(model, next(batches_from(2)), 1.0).item() > 0
    assert len(notices) == 1 and "\n" not in notices[0] and "install g++" in notices[0]


def test_compute_type_is_the_runtime_s(new_model, batches_from):
    model = new_model()
    compute_loss = prepare(model, Runtime(CPU, torch.bfloat16), False, print)
    compute_loss(model, next(batches_from(1)), 1.0).backward()
    assert model(next(batches_from(1)).inputs).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_float16_learns_as_float32_does_and_an_overflow_changes_nothing(new_model, new_plan, batches_from):
    losses: dict[torch.dtype, list[float]] = {}
    for dtype in (torch.float32, torch.float16):
        model, plan, runtime = random_weights(new_model()), new_plan(30, rows=4), Runtime(CPU, dtype)
        compute_loss, optimizer = prepare(model, runtime, False, print), Optimizer(model, plan.rates)
        batches, notch = batches_from(2), Notch(loss_scale=2.0**40)
        before, two = model.head.weight.detach().clone(), []
        losses[dtype] = []
        while len(losses[dtype]) < 12:
            two = two or list(islice(batches, 2))
            at = notch.loss_scale
            loss = train_step(
                model, optimizer, two, plan, compute_loss, runtime, 1 + len(losses[dtype]), notch
            )
            if notch.loss_scale < at:
                assert notch.loss_scale == at / 2 and torch.equal(model.head.weight, before)
                assert all(weight.grad is None for weight in model.parameters())
            else:
                losses[dtype].append(loss)
                before, two = model.head.weight.detach().clone(), []
        assert (notch.loss_scale < 2.0**40) == (dtype == torch.float16)
    assert losses[torch.float16] == pytest.approx(losses[torch.float32], rel=0.02)
    assert losses[torch.float16][-1] < losses[torch.float16][0]


def test_the_scale_of_the_loss_grows_again(new_model, runtime, monkeypatch):
    monkeypatch.setattr("chatsmith.train.memory.PATIENCE", 3)
    model, notch = new_model(), Notch(loss_scale=8.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert [(notch.can_update(model, runtime), notch.loss_scale)[1] for _ in range(4)] == [8, 8, 16, 16]
    model.head.weight.grad.fill_(float("inf"))
    assert not notch.can_update(model, runtime) and notch.loss_scale == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compile", [False, True])
def test_a_gpu_gives_the_loss_and_gradients_of_the_cpu(new_model, batches_from, runtime, compile):
    source = batches_from(2)
    batches = [next(source) for _ in range(2)]
    on_cpu = loss_and_gradients(random_weights(new_model()), batches, runtime, False)
    device = torch.device("cuda", 0)
    model = random_weights(new_model()).to(device)
    on_gpu = loss_and_gradients(model, batches, Runtime(device, torch.float32), compile)
    assert_equal_training(on_cpu, on_gpu, tolerance=1e-3)


class Waits(TorchFunctionMode):
    """Notes where the host waits for a device: it reads a tensor that lies there."""

    READING = ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "cpu", "nonzero", "unique")

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        is_there = args and isinstance(args[0], Elsewhere)
        blocks = name == "to" and "cpu" in map(str, args[1:]) and not (kwargs or {}).get("non_blocking")
        if is_there and (name in self.READING or blocks):
            self.log.append(name)
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_a_gpu_once_and_not_for_its_last_backward_pass(
    new_model, new_plan, batches_from, monkeypatch
):
    """It reads what the last forward pass gave; whatever is begun after that goes on meanwhile."""
    log: list[str] = []
    model, plan = new_model(), new_plan(8, rows=8, rows_per_microbatch=2)
    with pretending("cuda", monkeypatch) as device:
        runtime = Runtime(device, torch.bfloat16)
        model.to(device)
        honest = prepare(model, runtime, False, pytest.fail)
        optimizer, batches = make_optimizer(model, plan.rates, runtime), batches_from(2)
        torch.cuda.Event = Mock(return_value=Mock(synchronize=lambda: log.append("event")))
        backward = Tensor.backward

        def noted(loss, *arguments):
            log.append("backward")
            backward(loss, *arguments)

        def forward(model, batch, scale):
            log.append("forward")
            return honest(model, batch, scale)

        monkeypatch.setattr(Elsewhere, "backward", noted, raising=False)
        with Waits(log):
            for step in (1, 2):
                loss = train_step(model, optimizer, islice(batches, 4), plan, forward, runtime, step)
                log.append("step")
    assert 0 < loss < 10
    of_step = [*["forward", "backward"] * 4, "event", "step"]
    assert log == of_step * 2
