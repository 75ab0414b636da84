"""The optimizer of several processes: each owns a part of the parameters, updates it, and gives it to the others.

ZeRO stage 2 (Rajbhandari et al. 2020, arXiv:1910.02054) by whole matrices, as nanochat shards Muon: a matrix has to be
orthogonalized as a whole, so it has one owner, while the rows of tables and of the head are dealt out. A step is

    backward of the last microbatch     gradients of a bucket are complete -> reduce-scatter: the owner gets their sum
    step                                Muon on the owned matrices, AdamW on the owned rows
    after it                            all-gather: everybody gets the new weights

A bucket holds one matrix for each process, all of one shape, or one table. Of matrices that do not go round, each
travels by itself, to one owner and from it, so that nothing is sent but gradients and weights. Buckets start in one
fixed order, since all processes have to call the same collectives in the same order, and each as soon as its gradients
are there.
What is too small to deal out (gates, scalars) is summed whole and updated by all alike.

Traffic: every gradient once and every weight once, in `wire` precision: bf16 where GPUs compute in bf16, else that of
the weights. Where it is less exact than the weights, an owner keeps the exact weights, and everybody, the owner
included, computes with what was sent: a forward pass in bf16 would round the exact ones to the same.

Memory on each process: weights and gradients whole, optimizer state (and exact weights) 1 / world_size.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter

import torch
import torch.distributed as dist
from torch import Tensor

from chatsmith.model.gpt import GPT
from chatsmith.optim.optimizer import (
    Optimizer,
    Rates,
    muon_and_adamw,
    role_of,
    runs_in_bf16,
    trained_parameters,
)
from chatsmith.runtime.device import Runtime

TABLES = ("embedding", "value_embedding", "bigram", "head")
"""Roles whose rows are dealt out."""

# torch 2.13 renamed both, and warns about the former names.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


@dataclass(frozen=True)
class Piece:
    """Entries `start` to `stop` of the parameter `name`: rows of a table, or one matrix of a (3, m, n) or (m, n)."""

    name: str
    start: int
    stop: int

    @property
    def key(self) -> str:
        """Its name in a saved state."""
        return f"{self.name}@{self.start}:{self.stop}"

    def of(self, tensor: Tensor) -> Tensor:
        """This part of a tensor of the parameter's shape: (rows, C) of a table, else (1, m, n)."""
        return _entries(self.name, tensor)[self.start : self.stop]


@dataclass
class Bucket:
    """Gradients that travel together. All pieces have one shape, the last ones perhaps fewer rows; process r gets the
    r-th."""

    pieces: list[Piece | None]
    """What each process owns here; None where there is nothing left for it."""
    owner: int | None = None
    """The one process that owns anything here; None where pieces are scattered."""
    missing: set[str] = field(default_factory=set)
    """Parameters whose gradients are not complete yet."""
    received: Tensor | None = None
    """The sum of the gradients of this process's piece, once `work` is done."""
    work: "dist.Work | None" = None

    @property
    def names(self) -> set[str]:
        """The parameters that pieces are of."""
        return {piece.name for piece in self.pieces if piece}


class ShardedOptimizer(Optimizer):
    """Muon for the matrices and AdamW for the rest, over the processes of the default group."""

    def __init__(
        self, model: GPT, rates: Rates, rank: int, world_size: int, wire: torch.dtype | None = None
    ) -> None:
        self.rates, self.rank, self.world_size = rates, rank, world_size
        self.named = trained_parameters(model)
        self.parameters: list[Tensor] = list(self.named.values())
        in_bf16 = runs_in_bf16(model) and model.head.weight.is_cuda
        self.wire = wire or (torch.bfloat16 if in_bf16 else self.parameters[0].dtype)
        self.small = [n for n in self.named if role_of(n) not in (*TABLES, "matrix")]
        self.buckets = _deal(self.named, world_size)
        self.exact = {p: self._exact(p) for b in self.buckets if (p := b.pieces[rank])}
        by_role: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for piece, weights in self.exact.items():
            by_role[role_of(piece.name)][piece.key] = weights
        for name in self.small:
            by_role[role_of(name)][name] = self.named[name]
        self.muon, self.adamw = muon_and_adamw(by_role, rates, runs_in_bf16(model))
        self._armed, self._next = False, 0
        # In float16 somebody looks for an overflow first (`Notch.can_update`).
        self._drops_sent = model.compute_dtype != torch.float16
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(self._completed(name))
            for name, parameter in self.named.items()
            if name not in self.small
        ]

    def close(self) -> None:
        """Leave the model's gradients alone from now on."""
        for hook in self._hooks:
            hook.remove()

    def last_backward(self) -> None:
        """Say that the next backward pass is the step's last: gradients are complete after it and may travel."""
        self._armed = True
        for bucket in self.buckets:
            bucket.missing = bucket.names

    def start_over(self) -> None:
        """Drop the step's gradients: its backward passes are done again. What was sent of them stays sent, since the
        others have received it."""
        self._armed = False
        for parameter in self.parameters:
            parameter.grad = None

    def reduce_gradients(self) -> None:
        """Send what has not been sent yet. All processes call it after their backward passes and before any other
        collective, since one of them may have had nothing to learn from; what is missing counts as zero."""
        if not self._armed:
            self.last_backward()
        self._start(even_incomplete=True)

    @torch.no_grad()
    def step(self, scale: float, momentum: float, decay_scale: float, loss_scale: float = 1.0) -> None:
        """One update: all learning rates times `scale`, Muon's momentum, and the weight decay times `decay_scale`;
        gradients are divided by `loss_scale`."""
        self.reduce_gradients()
        self._sum_small(loss_scale)
        for bucket in self.buckets:
            assert bucket.work is not None and bucket.received is not None
            bucket.work.wait()
            if piece := bucket.pieces[self.rank]:
                weights = self.exact[piece]
                weights.grad = bucket.received[: len(weights)].to(weights.dtype)
                if loss_scale != 1.0:
                    weights.grad /= loss_scale
            bucket.received = bucket.work = None
        for name in self.named.keys() - set(self.small):  # sent: free for the update
            self.named[name].grad = None
        self.muon.step(self.rates.matrix * scale, momentum, self.rates.weight_decay * decay_scale)
        self.adamw.step(scale)
        self._gather()

    def zero_grad(self) -> None:
        """Drop all gradients; a new step begins."""
        self._armed, self._next = False, 0
        for tensor in (*self.parameters, *self.exact.values()):
            tensor.grad = None
        for bucket in self.buckets:  # of a step that was left out
            if bucket.work is not None:
                bucket.work.wait()
            bucket.received = bucket.work = None

    def named_weights(self) -> dict[str, Tensor]:
        """The exact weights that this process owns, those of small parameters on all: by parameter name, as the state
        is, followed by @start:stop where it is a part. All processes together have the whole."""
        exact = {piece.key: weights for piece, weights in self.exact.items()}
        return exact | {name: self.named[name] for name in self.small}

    def load_named_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore from a whole state, which has the weights under `model.`, too; the model has them already."""

        def own(key: str) -> Tensor:
            base, _, span = key.partition("@")
            if not span or state[base].dim() == 0:
                return state[base]
            start, stop = map(int, span.split(":"))
            return _entries(_parameter_of(base), state[base])[start:stop].clone()

        kinds = ("step", "exp_avg", "exp_avg_sq")
        adamw = (f"adamw.{kind}.{name}" for name in self.adamw.names for kind in kinds)
        # A parameter that had no state has none.
        self.adamw.load_named_state({key: own(key) for key in adamw if key.partition("@")[0] in state})
        with torch.no_grad():
            self.muon.load_named_state({key: own(key) for key in self.muon.named_state()})
            if self._keeps_exact_weights:
                for piece, weights in self.exact.items():
                    weights.copy_(own(f"model.{piece.key}"))
                for name in self.named.keys() - set(self.small):  # everybody computes with what is sent
                    self.named[name].copy_(self.named[name].to(self.wire))

    @property
    def _keeps_exact_weights(self) -> bool:
        return self.wire != self.parameters[0].dtype

    def _exact(self, piece: Piece) -> Tensor:
        """The weights of a piece that are updated: the parameter's own memory, or a copy that is never rounded."""
        own = piece.of(self.named[piece.name].detach())
        return own.clone() if self._keeps_exact_weights else own

    def _completed(self, name: str) -> Callable[[Tensor], None]:
        buckets = [bucket for bucket in self.buckets if name in bucket.names]

        def hook(parameter: Tensor) -> None:
            if self._armed:
                for bucket in buckets:
                    bucket.missing.discard(name)
                self._start()

        return hook

    @torch.no_grad()
    def _start(self, even_incomplete: bool = False) -> None:
        """Send the buckets that are complete, in their order: one that is not holds up those behind it."""
        while self._next < len(self.buckets):
            bucket = self.buckets[self._next]
            if bucket.missing and not even_incomplete:
                return
            # It counts as sent not before there was memory for it.
            if bucket.owner is not None:
                bucket.received = self._gradient(bucket.pieces[bucket.owner], bucket).clone()
                self._next += 1
                bucket.work = dist.reduce(bucket.received, bucket.owner, async_op=True)
            else:
                sent = torch.cat([self._gradient(piece, bucket) for piece in bucket.pieces])
                bucket.received = torch.empty_like(sent[: len(sent) // self.world_size])
                self._next += 1
                bucket.work = _reduce_scatter(bucket.received, sent, async_op=True)
            if self._drops_sent:
                for name in bucket.names.difference(*(later.names for later in self.buckets[self._next :])):
                    self.named[name].grad = None

    def _gradient(self, piece: Piece | None, bucket: Bucket) -> Tensor:
        gradient = self.named[piece.name].grad if piece else None
        return self._filled(None if piece is None or gradient is None else piece.of(gradient), bucket)

    def _filled(self, part: Tensor | None, bucket: Bucket) -> Tensor:
        """As it travels: in the wire's type, of the shape that all pieces of the bucket have."""
        first = next(piece for piece in bucket.pieces if piece)
        shape = first.of(self.named[first.name]).shape
        if part is not None and len(part) == shape[0]:
            return part.to(self.wire)
        filled = torch.zeros(shape, dtype=self.wire, device=self.parameters[0].device)
        if part is not None:
            filled[: len(part)] = part
        return filled

    def _sum_small(self, loss_scale: float) -> None:
        if not self.small:  # LoRA trains none
            return
        gradients = []
        for name in self.small:
            parameter = self.named[name]
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= loss_scale
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _gather(self) -> None:
        """Give everybody the new weights of all pieces."""
        arriving: list[tuple[list[Piece | None], Tensor, dist.Work | None]] = []
        for bucket in self.buckets:
            piece, owner = bucket.pieces[self.rank], bucket.owner
            own = self._filled(self.exact[piece] if piece else None, bucket).contiguous()
            if owner is None:
                slots = own.new_empty((self.world_size, *own.shape))
                work = _all_gather(slots.flatten(0, 1), own, async_op=True)
                arriving.append((bucket.pieces, slots, work))
            else:
                work = dist.broadcast(own, owner, async_op=True)
                arriving.append(([bucket.pieces[owner]], own[None], work))
        for pieces, slots, work in arriving:
            assert work is not None
            work.wait()
            for piece, slot in zip(pieces, slots, strict=True):
                if piece:
                    piece.of(self.named[piece.name]).copy_(slot[: piece.stop - piece.start])


def make_optimizer(model: GPT, rates: Rates, runtime: Runtime) -> Optimizer:
    """The optimizer of `model`: whole in one process, dealt out among several; its own where its weights are cut."""
    if model.new_optimizer:
        return model.new_optimizer(model, rates, runtime)
    if runtime.world_size == 1:
        return Optimizer(model, rates)
    return ShardedOptimizer(model, rates, runtime.rank, runtime.world_size)


def _entries(name: str, tensor: Tensor) -> Tensor:
    """A tensor of a parameter's shape with what is dealt out along the first axis."""
    is_single_matrix = role_of(name) == "matrix" and tensor.dim() == 2
    return tensor[None] if is_single_matrix else tensor


def _deal(named: Mapping[str, Tensor], world_size: int) -> list[Bucket]:
    """The buckets in the order in which a backward pass completes them, roughly: the head, the blocks from the last to
    the first, tables last."""
    buckets: list[Bucket] = []
    waiting: dict[torch.Size, list[Piece]] = defaultdict(list)
    loads = [0] * world_size

    names = list(named)
    order = [n for n in names if role_of(n) == "head"]
    order += [n for n in reversed(names) if role_of(n) == "matrix"]
    order += [n for n in reversed(names) if role_of(n) in TABLES and n not in order]
    for name in order:
        entries = _entries(name, named[name])
        if role_of(name) == "matrix":
            pieces = waiting[entries.shape[1:]]
            for index in range(len(entries)):
                pieces.append(Piece(name, index, index + 1))
                if len(pieces) == world_size:
                    buckets.append(Bucket([*pieces]))
                    pieces.clear()
        else:
            share = -(-len(entries) // world_size)
            starts = range(0, len(entries), share)
            dealt = [Piece(name, start, min(start + share, len(entries))) for start in starts]
            buckets.append(Bucket([*dealt, *[None] * (world_size - len(dealt))]))
    nobody: list[Piece | None] = [None] * world_size
    for piece in sorted(chain(*waiting.values()), key=lambda piece: -piece.of(named[piece.name]).numel()):
        owner = loads.index(min(loads))  # who has least so far
        loads[owner] += piece.of(named[piece.name]).numel()
        buckets.append(Bucket([*nobody[:owner], piece, *nobody[owner + 1 :]], owner))
    return buckets


def whole_state(state: dict[str, Tensor], model: GPT) -> dict[str, Tensor]:
    """The states of all processes of a `ShardedOptimizer` as the one of an `Optimizer`; a whole state as it is. Takes
    the parts out of `state`, so that there is one copy in memory. Raises KeyError where a part is missing."""
    named = dict(model.named_parameters())
    parts: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key in list(state):
        if match := re.fullmatch(r"(.*)@(\d+):\d+", key):
            parts[match[1]][int(match[2])] = state.pop(key)
    whole = dict(state)
    for base in list(parts):
        pieces = [tensor for _, tensor in sorted(parts.pop(base).items(), key=itemgetter(0))]
        parameter = named[_parameter_of(base)]
        if pieces[0].dim() == 0:  # AdamW's count of steps
            whole[base] = pieces[0]
            continue
        joined = torch.cat(pieces)
        if len(joined) < len(_entries(_parameter_of(base), parameter)):
            raise KeyError(base)
        whole[base] = joined.reshape(*parameter.shape[:-1], -1)
    return whole


def _parameter_of(key: str) -> str:
    """The parameter that a key of a state is about: `adamw.exp_avg.head.weight` is about `head.weight`."""
    return key.split(".", 2)[2] if key.startswith(("muon.", "adamw.")) else key.partition(".")[2]
