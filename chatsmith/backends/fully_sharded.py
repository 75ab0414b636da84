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

On several machines the weights are cut within each and replicated between them (HSDP): gradients are summed over
machines with the last microbatch alone.

Run on gloo processes; on GPUs not yet.
"""

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from chatsmith.model.gpt import GPT
from chatsmith.optim.muon import move, rate_of
from chatsmith.optim.optimizer import Rates, muon_and_adamw, role_of, runs_in_bf16, trained_parameters
from chatsmith.optim.sharded import TABLES, Piece, Sharding, ShardedOptimizer
from chatsmith.runtime.device import Runtime
from chatsmith.runtime.errors import UserError


class FullSharding(Sharding):
    """Weights, gradients and the optimizer's state are cut among the processes of a machine. Raises UserError for what
    cannot be cut."""

    def __init__(self, runtime: Runtime, per_machine: int) -> None:
        self.runtime = runtime
        machines, rest = divmod(runtime.world_size, per_machine)
        if rest:
            raise UserError(
                f"{runtime.world_size} processes on machines of {per_machine}: fully sharded training takes as many on "
                "each",
                setting="shard",
            )
        shape, names = (per_machine,), ("shard",)
        if machines > 1:
            shape, names = (machines, *shape), ("replicate", *names)
        self.mesh = init_device_mesh(runtime.device.type, shape, mesh_dim_names=names)

    def place(self, model: GPT, runtime: Runtime) -> None:
        """Cut the weights, which are on the CPU, and put each process's part on its device."""
        count, config = self.mesh.size(-1), model.config
        if config.model_dim % count or config.mlp_dim % count:
            raise UserError(
                f"fully sharded training cuts the {config.model_dim} channels of the model evenly, and cannot among "
                f"{count} processes; take a number that divides them",
                setting="shard",
            )
        device, rows = runtime.device, [Replicate()] * (self.mesh.ndim - 1) + [Shard(0)]
        left = set[nn.Parameter]()
        for table in (one for one in model.modules() if isinstance(one, nn.Embedding)):
            own = distribute_tensor(table.weight.detach().to(device), self.mesh, rows, src_data_rank=None)
            table.weight = nn.Parameter(own)
            table.forward = partial(_look_up, table, runtime.compute_dtype)
            left.add(table.weight)
        for name, weight in model.named_parameters():
            if role_of(name) not in (*TABLES, "matrix"):
                weight.data = weight.data.to(device)
                left.add(weight)
        on_gpu = device.type == "cuda"
        in_bf16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        options: dict[str, Any] = {"mesh": self.mesh, "ignored_params": left}
        for block in model.blocks:
            policy = in_bf16 if on_gpu and runtime.compute_dtype == torch.bfloat16 else MixedPrecisionPolicy()
            fully_shard(block, **options, mp_policy=policy, shard_placement_fn=lambda one: Shard(one.ndim - 2))
        fully_shard(model, **options)  # the head, which adds up gradients of many tokens in float32
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # sums, as everywhere else
                module.set_force_sum_reduction_for_comms(True)
        model.register_load_state_dict_pre_hook(_cut)

    def optimizer(self, model: GPT, rates: Rates, runtime: Runtime) -> "FullyShardedOptimizer":
        """The optimizer of a model that `place` has cut."""
        return FullyShardedOptimizer(model, rates, runtime, self.mesh)

    @torch.no_grad()
    def gather(self, model: GPT) -> GPT:
        """The whole model, on the main process's CPU; on other processes, which take part, the cut one. One tensor at a
        time is whole on a device."""
        whole = GPT(model.config).to(model.head.weight.dtype) if self.runtime.is_main else None
        for name, value in model.state_dict().items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if whole:
                whole.get_parameter(name).copy_(full)
        return whole or model


def _look_up(table: nn.Embedding, dtype: torch.dtype, tokens: Tensor) -> Tensor:
    """Rows of a table that is gathered for it; backward, its gradient is reduce-scattered."""
    weight = table.weight
    assert isinstance(weight, DTensor)
    count = weight.device_mesh.ndim
    if weight.is_cuda:
        weight = weight.to(dtype)
    whole = weight.redistribute(placements=[Replicate()] * count).to_local(grad_placements=[Partial()] * count)
    return F.embedding(tokens, whole)


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
        self.model, self.rates = model, rates
        self.rank, self.world_size = mesh.get_local_rank(mesh.ndim - 1), mesh.size(-1)
        self.is_replica = runtime.rank >= self.world_size
        self.group = mesh.get_group(mesh.ndim - 1)
        model.state_dict()  # an evaluation may have left the head whole
        self.named = trained_parameters(model)
        self.parameters = list(self.named.values())
        self.wire, self.buckets, self._hooks = self.parameters[0].dtype, [], []
        self.small = [n for n in self.named if role_of(n) not in (*TABLES, "matrix")]
        self.local = {n: _local(one) for n, one in self.named.items()}
        self.exact = {}
        by_role: dict[str, dict[str, Tensor]] = {}
        for name in self.named:
            if role_of(name) in TABLES:
                share = -(-len(self.named[name]) // self.world_size)
                piece = Piece(name, self.rank * share, self.rank * share + len(self.local[name]))
                self.exact[piece] = by_role.setdefault(role_of(name), {})[piece.key] = self.local[name]
            elif name in self.small:
                by_role.setdefault(role_of(name), {})[name] = self.named[name]
        self.dealt = _deal(self.named, self.world_size)
        own = [piece for pieces in self.dealt if (piece := pieces.get(self.rank))]
        shapes = {piece.key: self.named[piece.name].shape[-2:] for piece in own}
        device = runtime.device
        by_role["matrix"] = {key: torch.empty(1, *shape, dtype=self.wire, device="meta") for key, shape in shapes.items()}
        self.muon, self.adamw = muon_and_adamw(by_role, rates, runs_in_bf16(model))
        for kept in (self.muon.momenta, self.muon.variances):
            kept |= {key: torch.zeros_like(value, device=device) for key, value in kept.items()}
        self._armed, self._next, self._machines = False, 0, mesh.size() // self.world_size

    def last_backward(self) -> None:
        """The next backward pass is the step's last: sums over machines are due."""
        self._sum_over_machines(True)

    def start_over(self) -> None:
        """Memory ran out. Raises UserError: the others are waiting for this process within their pass."""
        raise UserError(
            "memory ran out, and fully sharded processes cannot do a step again one by one; start again with fewer "
            "rows at once, and what is saved goes on",
            setting="rows_per_microbatch",
        )

    @torch.no_grad()
    def step(self, scale: float, momentum: float, decay_scale: float, loss_scale: float = 1.0) -> None:
        """As `ShardedOptimizer.step`: gradients are summed already, and nobody waits for whole weights."""
        self._sum_small(loss_scale)
        gradients = {name: _local(one.grad) / loss_scale for name, one in self.named.items() if one.grad is not None}
        for piece, weights in self.exact.items():
            weights.grad = gradients[piece.name]
        self.adamw.step(scale)
        self.muon.updates += 1
        decay = self.rates.weight_decay * decay_scale
        for pieces in self.dealt:
            shape = self.named[next(iter(pieces.values())).name].shape[-2:]
            rate = rate_of(shape, self.rates.matrix * scale)
            update = self._to_owners(pieces, gradients)
            if own := pieces.get(self.rank):
                ((_, update),) = self.muon.updates_from({own.key: update}, shape, momentum)
            rows = self._exchange(pieces, update.flatten(0, -2), from_owners=True)
            for piece, part in zip(pieces.values(), rows.chunk(len(pieces)), strict=True):
                move(piece.of(self.local[piece.name]), part[None], rate, rate * decay)

    def zero_grad(self) -> None:
        """Drop all gradients; a new step begins."""
        super().zero_grad()
        self._sum_over_machines(False)

    def named_weights(self) -> dict[str, Tensor]:
        """As `ShardedOptimizer.named_weights`: all processes of a machine call it, since owners collect their matrices.
        Machines have the same; the first one's are kept."""
        if self.is_replica:
            return {}
        matrices = {
            pieces[self.rank].key: whole
            for pieces in self.dealt
            for whole in [self._to_owners(pieces, self.local)]
            if self.rank in pieces
        }
        return super().named_weights() | matrices

    def named_state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        return {} if self.is_replica else super().named_state()

    def _to_owners(self, pieces: Mapping[int, Piece], of: Mapping[str, Tensor]) -> Tensor:
        """The matrix (1, m, n) of `pieces` that is this process's, from everybody's rows; no rows where none is."""
        sent = torch.cat([piece.of(of[piece.name])[0] for piece in pieces.values()])
        return self._exchange(pieces, sent)[None]

    def _exchange(self, pieces: Mapping[int, Piece], sent: Tensor, from_owners: bool = False) -> Tensor:
        """Send rows of each matrix to its owner, or rows of the own one to everybody."""
        share = self.named[next(iter(pieces.values())).name].shape[-2] // self.world_size
        out = [share * (rank in pieces) for rank in range(self.world_size)]
        into = [share * (self.rank in pieces)] * self.world_size
        if from_owners:
            out, into = into, out
        received = sent.new_empty((sum(into), sent.shape[-1]))
        dist.all_to_all_single(received, sent.contiguous(), into, out, group=self.group)
        return received

    def _sum_over_machines(self, now: bool) -> None:
        if self._machines > 1:
            assert isinstance(self.model, FSDPModule)
            self.model.set_requires_all_reduce(now)


def _local(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    return tensor.detach().to_local() if isinstance(tensor, DTensor) else tensor.detach()


def _deal(named: Mapping[str, Tensor], world_size: int) -> list[dict[int, Piece]]:
    """Who owns which matrix: groups of one shape, by rank, at most one each."""
    by_shape: dict[torch.Size, list[Piece]] = defaultdict(list)
    for name in named:
        if role_of(name) == "matrix":
            count = 1 if named[name].dim() == 2 else len(named[name])
            by_shape[named[name].shape[-2:]] += [Piece(name, index, index + 1) for index in range(count)]
    dealt: list[dict[int, Piece]] = []
    number = 0
    for pieces in by_shape.values():
        for start in range(0, len(pieces), world_size):
            group = sorted(
                ((number + index) % world_size, piece) for index, piece in enumerate(pieces[start : start + world_size])
            )
            dealt.append(dict(group))
            number += len(group)
    return dealt
