"""Fully sharded training (FSDP, ZeRO stage 3): each process keeps its part of the weights, the gradients and the
optimizer's state, and a whole block only while it computes with it.

torch's `fully_shard` (Zhao et al. 2023, arXiv:2304.11277) gathers a block's weights before its forward and its backward
pass, drops them afterwards, and reduce-scatters its gradients. A table of embeddings is gathered when it is looked up;
its backward pass needs no weights. `fully_shard` would keep the whole gradients of all tables to the end of the
backward pass, since nothing that a table is given has a gradient, so DTensor does it. What is too small to cut (gates,
scalars) is whole everywhere, as in `optim.sharded`.

A matrix is cut by rows, and Muon needs whole ones: each has an owner, which gets the gradient's rows from the others
(all-to-all), keeps the momentum, and gives the rows of the update back. A process owns at most one matrix of those that
are on the way. So a saved state has the parts that `ShardedOptimizer` saves, and either resumes the other's.

On several machines the weights are cut within each and replicated between them (HSDP).

Run on gloo processes; on GPUs not yet.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from chatsmith.model.config import GPTConfig
from chatsmith.model.gpt import GPT
from chatsmith.optim.muon import move, rate_of
from chatsmith.optim.optimizer import Rates, role_of
from chatsmith.optim.sharded import TABLES, Piece, ShardedOptimizer
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError


def uneven(config: GPTConfig, world_size: int, per_machine: int) -> str:
    """What cannot be dealt out evenly among the processes of a machine, in words; nothing where all can."""
    counts = {"processes": world_size, "channels": config.model_dim, "channels of the MLP": config.mlp_dim}
    return next((f"{count} {what}" for what, count in counts.items() if count % per_machine), "")


def place_sharded(model: GPT, runtime: Runtime, per_machine: int) -> None:
    """Cut the weights of a model on the CPU among the `per_machine` processes of each machine, and put each part on its
    device. Raises UserError where that does not come out even."""
    device = runtime.device
    if what := uneven(model.config, runtime.world_size, per_machine):
        raise UserError(
            f"{per_machine} processes on a machine do not divide {what}; take numbers that do, or shard = optimizer",
            setting="shard",
        )
    shape = runtime.world_size // per_machine, per_machine
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=("machine", "process"))
    left = set[nn.Parameter]()
    for table in (one for one in model.modules() if isinstance(one, nn.Embedding)):
        whole = table.weight.detach().to(device)
        own = distribute_tensor(whole, mesh["process"], [Shard(0)], src_data_rank=None)
        table.weight = nn.Parameter(own)
        table.forward = partial(_look_up, table, runtime.compute_dtype)
        left.add(table.weight)
    for name, weight in model.named_parameters():
        if role_of(name) not in (*TABLES, "matrix"):
            weight.data = weight.data.to(device)
            left.add(weight)
    options: dict[str, Any] = {"mesh": mesh, "ignored_params": left}
    options["shard_placement_fn"] = lambda weight: Shard(weight.ndim - 2)  # rows, also of (3, m, n)
    policy = MixedPrecisionPolicy()
    if device.type == "cuda" and runtime.compute_dtype == torch.bfloat16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for block in model.blocks:
        fully_shard(block, **options, mp_policy=policy)
    fully_shard(model, **options)  # the head: its gradient adds up over many tokens, in float32
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # sums, as everywhere else
            module.set_force_sum_reduction_for_comms(True)
    model.register_load_state_dict_pre_hook(_cut)
    model.new_optimizer, model.shards = partial(FullyShardedOptimizer, mesh=mesh), per_machine


@torch.no_grad()
def gather(model: GPT, runtime: Runtime) -> GPT:
    """The whole model, on the main process's CPU; on other processes, which all call it, the cut one. One tensor at a
    time is whole on a device. A model that is not cut, as it is."""
    if not model.new_optimizer:
        return model
    whole = GPT(model.config).to(model.head.weight.dtype) if runtime.is_main else None
    for name, value in model.state_dict().items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if whole:
            whole.get_parameter(name).copy_(full)
    return whole or model


def _look_up(table: nn.Embedding, dtype: torch.dtype, input: Tensor) -> Tensor:
    """Rows of a table that is gathered for it; in the backward pass its gradient is reduce-scattered."""
    weight: Any = table.weight.to(dtype) if table.weight.is_cuda else table.weight
    whole = weight.redistribute(placements=[Replicate()])
    return F.embedding(input, whole.to_local(grad_placements=[Partial()]))


def _cut(model: nn.Module, weights: dict[str, Any], *_: object) -> None:
    """Before weights are loaded: of whole ones, the part that belongs here."""
    for name, own in model.state_dict().items():
        if isinstance(own, DTensor) and not isinstance(weights[name], DTensor):
            whole = weights[name].to(own.device, own.dtype)
            weights[name] = distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)


class FullyShardedOptimizer(ShardedOptimizer):
    """Muon for whole matrices, each on its owner, and AdamW for the rows that this process has."""

    is_collective = True

    def __init__(self, model: GPT, rates: Rates, runtime: Runtime, mesh: DeviceMesh) -> None:
        model.state_dict()  # cuts the head, which an evaluation leaves whole
        self.group, self.machines = mesh.get_group("process"), mesh.get_group("machine")
        self.is_copy = mesh.get_local_rank("machine") > 0
        super().__init__(model, rates, mesh.get_local_rank("process"), mesh.size(1), model.head.weight.dtype)
        self.close()
        self.dealt = [one.pieces for one in self.buckets if role_of(min(one.names)) == "matrix"]
        self.buckets = []
        self.exact = {piece: own for piece, own in self.exact.items() if not own.is_meta}
        for kept in (self.muon.momenta, self.muon.variances):
            kept |= {key: torch.zeros_like(one, device=runtime.device) for key, one in kept.items()}

    def start_over(self) -> None:
        """Memory ran out. Raises UserError: the others are waiting for this process within their pass."""
        raise UserError(
            "memory ran out, and fully sharded processes cannot redo a step alone; run the command again, with fewer "
            "rows at once: it goes on from the last saved state",
            setting="rows_per_microbatch",
        )

    @torch.no_grad()
    def step(self, scale: float, momentum: float, decay_scale: float, loss_scale: float = 1.0) -> None:
        """As `ShardedOptimizer.step`, but that gradients are summed already, and nobody waits for whole weights."""
        self._sum_small(loss_scale)
        for piece, weights in self.exact.items():
            weights.grad = _local(self.named[piece.name].grad)
            if role_of(piece.name) != "head":  # tables are summed within a machine
                dist.all_reduce(weights.grad, group=self.machines)
        self.adamw.step(scale)
        self.muon.updates += 1
        for pieces in self.dealt:
            own, update = pieces[self.rank], self._to_owners(pieces, of_gradients=True)
            shape = self._shape(pieces)
            if own:
                ((_, update),) = self.muon.updates_from({own.key: update}, shape, momentum)
            rows = self._exchange(pieces, update.flatten(0, 1), from_owners=True).unflatten(0, (1, -1))
            rate = rate_of(shape, self.rates.matrix * scale)
            decay, changed = rate * self.rates.weight_decay * decay_scale, list(filter(None, pieces))
            for piece, part in zip(changed, rows.chunk(len(changed), 1), strict=True):
                move(piece.of(_local(self.named[piece.name])), part, rate, decay)

    def named_weights(self) -> dict[str, Tensor]:
        """As `ShardedOptimizer.named_weights`; owners collect their matrices, so all processes call it. Machines have
        the same; the first one's is named."""
        whole = [(pieces[self.rank], self._to_owners(pieces)) for pieces in self.dealt]
        matrices = {piece.key: matrix for piece, matrix in whole if piece}
        return {} if self.is_copy else super().named_weights() | matrices

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        return {} if self.is_copy else super().named_state()

    def _exact(self, piece: Piece) -> Tensor:
        own = _local(self.named[piece.name])
        matrix = own.new_empty((1, *self._shape([piece])), device="meta")
        return own if role_of(piece.name) in TABLES else matrix

    def _shape(self, pieces: Sequence[Piece | None]) -> torch.Size:
        return next(self.named[piece.name].shape[-2:] for piece in pieces if piece)

    def _to_owners(self, pieces: Sequence[Piece | None], of_gradients: bool = False) -> Tensor:
        """This process's matrix of `pieces`, (1, m, n), from everybody's rows; no rows where it owns none."""
        weights = [(piece, self.named[piece.name]) for piece in pieces if piece]
        sent = [piece.of(_local(one.grad if of_gradients else one))[0] for piece, one in weights]
        return self._exchange(pieces, torch.cat(sent))[None]

    def _exchange(self, pieces: Sequence[Piece | None], sent: Tensor, from_owners: bool = False) -> Tensor:
        """Send rows of each matrix to its owner, or rows of the own one to everybody."""
        share = self._shape(pieces)[0] // self.world_size
        others = [share * bool(piece) for piece in pieces]
        own = [others[self.rank]] * len(others)
        into, out = (others, own) if from_owners else (own, others)
        received = sent.new_empty((sum(into), sent.shape[-1]))
        dist.all_to_all_single(received, sent.contiguous(), into, out, group=self.group)
        return received


def _local(tensor: Any) -> Tensor:
    """What this process has of a tensor; a whole one, as it is."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor
