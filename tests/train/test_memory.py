"""What training is said to keep is what it keeps."""

import pytest
import torch

from chatsmith.data.packing import Batch
from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import Optimizer
from chatsmith.train.memory import affordable_tokens, state_bytes
from chatsmith.train.plan import make_plan, model_shape
from chatsmith.train.step import prepare


def test_weights_gradients_and_optimizer_state_are_as_many_bytes_as_foreseen(runtime):
    plan = make_plan(model_shape(2, 300, sequence_length=16, bigram_buckets=50), 1000)
    model = GPT(plan.model)
    model.init_weights(torch.Generator().manual_seed(1))
    optimizer = Optimizer(model, plan.rates)
    ids = torch.randint(300, (2, 16))
    prepare(model, runtime, False, print)(model, Batch(ids, ids), 1 / 32).backward()
    optimizer.step(1.0, 0.95, 1.0)
    kept = {
        "weights": [*model.parameters()],
        "gradients": [weight.grad for weight in model.parameters() if weight.grad is not None],
        "optimizer": [*optimizer.named_state().values()],
    }
    real = {name: sum(tensor.nbytes for tensor in tensors) for name, tensors in kept.items()}
    assert state_bytes(plan.cost) == pytest.approx(real, rel=0.02)


def test_at_least_one_context_is_affordable(shape):
    assert affordable_tokens(shape, torch.float32, free_bytes=1) == shape.context_length
    assert affordable_tokens(shape, torch.bfloat16, 10**6) >= affordable_tokens(shape, torch.float32, 10**6)
