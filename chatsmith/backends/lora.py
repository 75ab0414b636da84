"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv:2106.09685): what a model learned further, as small matrices beside
its frozen ones.

Each large product of a block becomes y = x W^T + (x A^T) B^T, with A (rank, columns) and B (rows, rank). Training moves
A and B alone. Afterwards B A is added to W, and the model is an ordinary bundle again; or the two are kept as an
*adapter*, a folder of its own, of which one engine serves several beside one copy of the model.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatsmith.bundle import bundle_fingerprint
from chatsmith.engine.backend import shared_copy
from chatsmith.engine.scheduler import Chunk
from chatsmith.model.gpt import GPT, Linear
from chatsmith.runtime.atomic import new_folder
from chatsmith.runtime.errors import UserError
from chatsmith.runtime.run_directory import resolve_bundle
from chatsmith.runtime.sealed import DamagedFileError, Seal, content_hash, read_tensors, write_tensors

PRODUCTS = ("qkv", "out", "up", "down")
"""The large products of a block, which adapters may change."""

ADAPTER = "adapter"
"""The folder of an adapter, beside the bundle that it was merged into."""

FORMAT_VERSION = 1
_CONFIG, _WEIGHTS = "adapter.json", "adapter.safetensors"

Matrices = Mapping[str, tuple[Tensor, Tensor]]
"""By the product's name (`blocks.0.mlp.up`): A (rank, columns) and B (rows, rank)."""


class LoRALinear(Linear):
    """A frozen product and what is learned beside it. B starts at zero, so the model starts as it was."""

    def __init__(self, frozen: Linear, rank: int, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        *rows, columns = frozen.weight.shape
        self.weight = frozen.weight
        # Uniform with deviation 1/sqrt(C), like what reads the stream (GPT.init_weights).
        bound = (3 / columns) ** 0.5
        start = (torch.rand(rank, columns, generator=generator) * 2 - 1) * bound
        self.lora_a = nn.Parameter(start.to(frozen.weight))
        self.lora_b = nn.Parameter(frozen.weight.new_zeros(*rows, rank))

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(x, self.lora_a.to(x.dtype))
        return super().forward(x) + F.linear(low, self.lora_b.flatten(0, -2).to(x.dtype))


def add_lora(model: GPT, rank: int, products: Sequence[str] = PRODUCTS, seed: int = 1) -> None:
    """Freeze the model, and put matrices of `rank` beside its `products` to be trained."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for parent, name, linear in large_products(model):
        if name in products:
            setattr(parent, name, LoRALinear(linear, rank, generator))


def matrices_of(model: GPT) -> dict[str, tuple[Tensor, Tensor]]:
    """What was trained beside the model's products; nothing for a model without."""
    return {
        name: (module.lora_a.detach(), module.lora_b.detach().flatten(0, -2))
        for name, module in model.named_modules()
        if isinstance(module, LoRALinear)
    }


@torch.no_grad()
def merged(model: GPT) -> GPT:
    """The model as an ordinary one, with what was trained beside its products added to them; itself if there is
    nothing beside them."""
    matrices = matrices_of(model)
    if not matrices:
        return model
    shared = [tensor for tensor in (*model.parameters(), *model.buffers()) if not tensor.requires_grad]
    plain = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    for path, (a, b) in matrices.items():
        weight = model.get_parameter(f"{path}.weight")
        linear = Linear(weight.shape[-1], *weight.shape[:-1])
        linear.weight = nn.Parameter(weight + (b @ a).view_as(weight))
        parent, _, name = path.rpartition(".")
        setattr(plain.get_submodule(parent), name, linear)
    return plain


@dataclass(frozen=True)
class Adapter:
    """What a model learned further, without the model. `base` is the fingerprint of its bundle, `merged` that of the
    bundle that has both, if there is one."""

    base: str
    matrices: Matrices
    merged: str = ""

    def after(self, earlier: "Adapter") -> "Adapter":
        """One adapter for the base of `earlier` in place of the two: ranks add up."""
        both = dict(earlier.matrices)
        for name, (a, b) in self.matrices.items():
            if name in both:
                first_a, first_b = both[name]
                a, b = torch.cat((first_a, a)), torch.cat((first_b, b), dim=1)
            both[name] = a, b
        return Adapter(earlier.base, both, self.merged)

    def save(self, path: Path) -> None:
        """Write the folder `path`, replacing it whole. Raises UserError on a full disk."""
        tensors = {
            f"{name}.{part}": tensor.to("cpu", torch.float32).contiguous()
            for name, pair in self.matrices.items()
            for part, tensor in zip("ab", pair, strict=True)
        }
        with new_folder(path) as folder:
            seal = write_tensors(folder / _WEIGHTS, tensors)
            identity = {"format_version": FORMAT_VERSION, "base": self.base, "merged": self.merged}
            config = {**identity, "file": seal.to_json()}
            text = json.dumps({**config, "sha256": content_hash(config)}, indent=2) + "\n"
            (folder / _CONFIG).write_text(text, encoding="utf-8")

    @staticmethod
    def load(path: Path) -> "Adapter":
        """Read the folder `path`. Raises UserError if it is no adapter, or damaged."""
        try:
            config = json.loads((path / _CONFIG).read_bytes())
            sealed = config.pop("sha256", None) == content_hash(config)
            if not sealed or config["format_version"] != FORMAT_VERSION:
                raise ValueError("its content has changed, or a newer chatsmith made it")
            tensors = read_tensors(path / _WEIGHTS, Seal.from_json(config["file"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DamagedFileError) as error:
            raise UserError(f"{path} is not an adapter that can be read ({error}); make it again") from error
        names = {name[:-2] for name in tensors}
        matrices = {name: (tensors[f"{name}.a"], tensors[f"{name}.b"]) for name in sorted(names)}
        return Adapter(config["base"], matrices, config["merged"])


def adapter_beside(bundle: Path) -> Adapter | None:
    """The adapter beside a bundle, if there is one. Raises UserError if it is damaged."""
    folder = bundle.parent / ADAPTER
    return Adapter.load(folder) if (folder / _CONFIG).is_file() else None


def save_adapter(model: GPT, base: Path, bundle: Path) -> Path:
    """Write what was trained beside the model of the bundle `base` beside `bundle`, into which it was merged. Where
    `base` has an adapter of its own, the two become one for the model below. Returns the folder."""
    trained = Adapter(bundle_fingerprint(base), matrices_of(model), bundle_fingerprint(bundle))
    earlier = adapter_beside(base)
    if earlier and earlier.merged == trained.base:
        trained = trained.after(earlier)
    trained.save(bundle.parent / ADAPTER)
    return bundle.parent / ADAPTER


def load_adapter(path: Path, base: Path) -> Adapter:
    """The adapter in the folder `path`, or the one beside the bundle or the newest bundle of the run `path`. Raises
    UserError unless it belongs to the bundle `base`."""
    bundle = None if (path / _CONFIG).is_file() else resolve_bundle(path)
    folder = bundle.parent / ADAPTER if bundle else path
    adapter = Adapter.load(folder)
    if bundle and adapter.merged != bundle_fingerprint(bundle):
        raise UserError(f"the adapter {folder} is of another model than {bundle}, which has replaced its own")
    if adapter.base != bundle_fingerprint(base):
        raise UserError(f"the adapter {folder} was trained beside another model than {base}")
    return adapter


class Routes:
    """Which rows of a step belong to which adapter."""

    def __init__(self) -> None:
        self.rows: dict[str, Tensor] = {}

    def plan(self, chunks: Sequence[Chunk], device: torch.device) -> None:
        """Sort the tokens of chunks, packed in this order, by adapter."""
        rows: dict[str, list[int]] = {}
        start = 0
        for chunk in chunks:
            if chunk.sequence.adapter:
                rows.setdefault(chunk.sequence.adapter, []).extend(range(start, start + chunk.length))
            start += chunk.length
        self.rows = {name: torch.tensor(some, device=device) for name, some in rows.items()}


class AdaptedLinear(nn.Module):
    """A product for rows of several adapters: one for all, then what each adapter adds to its own."""

    def __init__(self, linear: nn.Module, routes: Routes, matrices: Matrices) -> None:
        super().__init__()
        self._linear, self._routes, self._matrices = linear, routes, matrices

    def forward(self, x: Tensor) -> Tensor:
        y = self._linear(x)
        for name, rows in self._routes.rows.items():
            if name in self._matrices:
                a, b = self._matrices[name]
                y[0].index_add_(0, rows, F.linear(F.linear(x[0, rows], a), b))
        return y


def adapt(model: GPT, view: GPT, adapters: Mapping[str, Adapter], routes: Routes) -> GPT:
    """A second view of a model, whose products are those of `view`, quantized or not, and follow `routes`. Raises
    UserError for an adapter of another shape."""
    dtype = model.compute_dtype or model.embedding.weight.dtype
    unknown = {product for one in adapters.values() for product in one.matrices}
    adapted = shared_copy(model)
    for path, module in list(adapted.named_modules()):
        if not isinstance(module, Linear):
            continue
        unknown.discard(path)
        rows, columns = module.weight.flatten(0, -2).shape
        own = dict[str, tuple[Tensor, Tensor]]()
        for name, adapter in adapters.items():
            if path in adapter.matrices:
                a, b = adapter.matrices[path]
                if a.shape[1] != columns or b.shape != (rows, len(a)):
                    raise UserError(f"the adapter {name} does not fit the model: {path} has another shape")
                own[name] = a.to(module.weight.device, dtype), b.to(module.weight.device, dtype)
        parent, _, child = path.rpartition(".")
        product = view.get_submodule(path)
        setattr(adapted.get_submodule(parent), child, AdaptedLinear(product, routes, own) if own else product)
    if unknown:
        raise UserError(f"an adapter changes {min(unknown)}, which the model does not have")
    return adapted


def large_products(model: GPT) -> list[tuple[nn.Module, str, Linear]]:
    """Those of a model's blocks: each with the module that it belongs to, and its name there."""
    return [
        (module, name, child)
        for module in model.blocks.modules()
        for name, child in module.named_children()
        if name in PRODUCTS and isinstance(child, Linear)
    ]
