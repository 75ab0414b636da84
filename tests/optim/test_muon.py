"""Muon against singular value decompositions and a step written out for one matrix at a time."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.muon import POLAR_EXPRESS, Muon, orthogonalize
from chatsmith.optim.optimizer import Optimizer, Rates
from tests.elsewhere import pretending


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_singular_values(rows: int, columns: int, values: Tensor) -> Tensor:
    left = torch.linalg.qr(random(rows, len(values), seed=1))[0]
    right = torch.linalg.qr(random(columns, len(values), seed=2))[0]
    return left @ torch.diag(values) @ right.T


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (24, 8), (8, 24), (1, 8), (8, 1)])
def test_singular_values_become_about_one_and_singular_vectors_stay(rows, columns):
    values = torch.logspace(0, -2, min(rows, columns))  # a hundredfold between the largest and the smallest
    matrix = with_singular_values(rows, columns, values)
    found = orthogonalize(matrix)
    assert found.shape == matrix.shape
    sizes = torch.linalg.svdvals(found)
    assert sizes.min() > 0.75 and sizes.max() < 1.25
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ found @ right.T  # diagonal if the singular vectors are the same
    assert (inner - torch.diag(inner.diagonal())).abs().max() < 1e-3
    assert (inner.diagonal() > 0).all()


def test_iterating_on_the_gram_matrix_is_iterating_on_the_matrix():
    matrix = random(6, 10).double()
    x = matrix / (matrix.norm() * 1.01)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    torch.testing.assert_close(orthogonalize(matrix), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(128, 128), (96, 384), (384, 96)])
@pytest.mark.parametrize("spread", [0.0, 2.5])
def test_in_bf16_the_plain_order_is_as_good_as_the_gram_matrix_in_float32(rows, columns, spread):
    """Singular values of a wide range, and of noise: no more than 1.2, and the same direction."""
    matrix = random(rows, columns)
    if spread:
        matrix = with_singular_values(rows, columns, torch.logspace(0, -spread, min(rows, columns)))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    polar = left @ right
    found = {in_bf16: orthogonalize(matrix, in_bf16=in_bf16) for in_bf16 in (False, True)}
    assert found[True].dtype == torch.float32
    cosines = {key: (one * polar).sum() / one.norm() / polar.norm() for key, one in found.items()}
    assert torch.linalg.svdvals(found[True]).max() < 1.2
    assert cosines[True] > 0.95 and cosines[True] > cosines[False] - 0.005
    smallest = {key: torch.linalg.svdvals(one).min() for key, one in found.items()}
    assert smallest[True] > 0.9 * smallest[False]


PRODUCTS = tuple(getattr(torch.ops.aten, name) for name in ("mm", "bmm", "addmm", "baddbmm"))


class Products(TorchDispatchMode):
    """Notes the types of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in PRODUCTS:
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("kind", "dtype"), [("cuda", "bf16"), ("cuda", "fp32"), ("cpu", "bf16"), ("cpu", "fp32")]
)
def test_an_update_multiplies_in_the_type_that_the_model_computes_in(kind, dtype, monkeypatch):
    """bf16 is chosen where it is multiplied faster; where float32 is asked for, the update stays exact."""
    with pretending("cuda", monkeypatch) if kind == "cuda" else nullcontext():
        model = GPT(GPTConfig(vocab_size=32, context_length=8, num_layers=2, num_heads=2, head_dim=8))
        model.init_weights(torch.Generator().manual_seed(1))
        model.to(kind)
        model.compute_dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
        optimizer = Optimizer(model, Rates(0.02, 0.01, 0.1, 0.1, 0.1, 0.02, 0.01))
        model.logits(model(torch.arange(8).to(kind)[None])).square().mean().backward()
        with Products() as products:
            optimizer.step(1.0, 0.9, 1.0)
    expected = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    assert set(products.types) == {expected} and len(products.types) >= 10


def test_a_gpu_s_small_stacks_give_what_one_stack_gives(parameters, monkeypatch):
    together = {name: parameter.clone() for name, parameter in parameters.items()}
    set_gradients(together, 0)
    Muon(together).step(0.1, 0.9, 0.1)
    monkeypatch.setattr("chatsmith.optim.muon.STACKED_NUMBERS", 1)
    with pretending("cuda", monkeypatch) as device:
        apart = {name: parameter.to(device) for name, parameter in parameters.items()}
        for name, parameter in apart.items():
            parameter.grad = together[name].grad.to(device)
        Muon(apart).step(0.1, 0.9, 0.1)
    for name, parameter in together.items():
        torch.testing.assert_close(apart[name].as_subclass(Tensor), parameter)


@pytest.mark.parametrize("shape", [(5, 8, 12), (5, 12, 8), (2, 3, 8, 8)])
def test_stacked_matrices_are_orthogonalized_each_for_itself(shape):
    stack = random(*shape) * torch.logspace(-3, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    together = orthogonalize(stack).flatten(0, -3)
    for one, alone in zip(together, stack.flatten(0, -3), strict=True):
        torch.testing.assert_close(one, orthogonalize(alone), rtol=1e-4, atol=1e-5)


def test_orthogonalizing_does_not_care_for_the_size_and_zero_stays_zero():
    small, large = orthogonalize(random(6, 9) * 1e-3), orthogonalize(random(6, 9) * 1e3)
    torch.testing.assert_close(small, large, rtol=1e-2, atol=1e-3)
    assert orthogonalize(torch.zeros(2, 6, 9)).abs().max() == 0


class NaiveMuon:
    """The step for a single matrix, in float64, as the papers write it."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix.double()
        self.momentum = torch.zeros_like(self.matrix)
        self.variance = torch.zeros(len(matrix), dtype=torch.float64)
        self.updates = 0

    def step(self, gradient: Tensor, rate: float, momentum: float, weight_decay: float) -> None:
        rows, columns = self.matrix.shape
        self.updates += 1
        gradient = gradient.double()
        self.momentum = momentum * self.momentum + (1 - momentum) * gradient
        ahead = momentum * self.momentum + (1 - momentum) * gradient
        update = orthogonalize(ahead)
        self.variance = 0.9 * self.variance + 0.1 * update.square().mean(1)
        deviation = (self.variance / (1 - 0.9**self.updates)).sqrt()
        normalized = update / deviation[:, None]
        update = normalized * update.norm() / normalized.norm()
        rate *= max(1, rows / columns) ** 0.5
        shrinks = (update * self.matrix > 0).double()
        self.matrix = self.matrix * (1 - rate * weight_decay * shrinks) - rate * update


SHAPES = {"square": (8, 8), "tall": (12, 8), "wide": (8, 12), "second": (12, 8), "three": (3, 8, 8)}


@pytest.fixture
def parameters() -> dict[str, Tensor]:
    return {name: random(*shape, seed=number) for number, (name, shape) in enumerate(SHAPES.items())}


def set_gradients(parameters: dict[str, Tensor], step: int) -> None:
    for number, parameter in enumerate(parameters.values()):
        parameter.grad = random(*parameter.shape, seed=100 * step + number)


def test_step_equals_the_formula_of_single_matrices(parameters):
    """A parameter of shape (3, m, n) is three matrices."""
    naive = {
        name: [NaiveMuon(matrix) for matrix in parameter.reshape(-1, *parameter.shape[-2:])]
        for name, parameter in parameters.items()
    }
    muon = Muon(parameters)
    for step in range(4):
        set_gradients(parameters, step)
        momentum = 0.85 + 0.03 * step
        muon.step(0.1, momentum, weight_decay=0.5)
        for name, parameter in parameters.items():
            gradients = parameter.grad.reshape(-1, *parameter.shape[-2:])
            for one, gradient in zip(naive[name], gradients, strict=True):
                one.step(gradient, 0.1, momentum, weight_decay=0.5)
    for name, parameter in parameters.items():
        expected = torch.stack([one.matrix for one in naive[name]]).view(parameter.shape)
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-3, atol=1e-4)


def test_decay_only_shrinks_weights_that_the_update_shrinks_too(parameters):
    def stepped(weight_decay: float) -> dict[str, Tensor]:
        weights = {name: parameter.clone() for name, parameter in parameters.items()}
        set_gradients(weights, step=0)
        Muon(weights).step(0.01, 0.9, weight_decay)
        return weights

    without, with_decay = stepped(0.0), stepped(2.0)
    for name, before in parameters.items():
        update = before - without[name]
        decay = without[name] - with_decay[name]
        shrunk = update * before > 0
        assert (decay[~shrunk] == 0).all()
        torch.testing.assert_close(
            decay[shrunk], (decay / before)[shrunk].mean() * before[shrunk], rtol=1e-2, atol=1e-5
        )
        assert (decay / before)[shrunk].mean() > 0
        assert shrunk.any() and not shrunk.all()


def test_a_matrix_without_gradient_does_not_move(parameters):
    before = {name: parameter.clone() for name, parameter in parameters.items()}
    set_gradients(parameters, step=0)
    parameters["tall"].grad = None
    Muon(parameters).step(0.1, 0.9, 0.1)
    assert {name for name in before if torch.equal(before[name], parameters[name])} == {"tall"}


def test_a_zero_gradient_does_no_harm(parameters):
    """At the start of a run, queries and keys have one: nothing reads them yet."""
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.clone() for name, parameter in parameters.items()}
    Muon(parameters).step(0.1, 0.9, 0.0)
    assert all(torch.equal(before[name], parameters[name]) for name in before)
