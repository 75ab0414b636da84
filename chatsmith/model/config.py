"""The architecture of a model, as plain numbers: everything that decides what a GPT computes stands here.

A config is written into the bundle's `config.json` and is all that is needed to rebuild the network, so a
choice that changes results (a window, a softcap) is a field and never a property of the device. No torch here.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from chatsmith.runtime.errors import UserError

GATE_CHANNELS = 16
"""Gates look at the first few channels only, which is enough (nanochat uses 12 to 24) and costs nothing."""


@dataclass(frozen=True)
class GPTConfig:
    """Shapes and choices of one GPT. Raises UserError for values no model can have."""

    vocab_size: int
    """V: how many token ids there are, special tokens included."""
    context_length: int = 512
    """T: the most tokens the model attends over."""
    num_layers: int = 6
    """L: how many blocks are stacked."""
    num_heads: int = 6
    """H: attention heads in a block."""
    head_dim: int = 64
    """D: channels of a head; the model's width C is num_heads x head_dim."""
    windows: tuple[int, ...] = ()
    """How far each layer looks back, in tokens; 0 means the whole context. Empty: 0 for every layer."""
    value_embedding_layers: tuple[int, ...] = ()
    """Layers whose attention values get an embedding of the token itself added."""
    bigram_buckets: int = 0
    """Rows of the hashed table of (previous token, token) embeddings; 0 leaves the table out."""
    rope_base: float = 10_000.0
    """The base of the rotary embedding's wavelengths."""
    softcap: float = 15.0
    """Logits are bent into (-softcap, softcap)."""

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "windows", tuple(self.windows) or (0,) * self.num_layers)
        object.__setattr__(self, "value_embedding_layers", tuple(self.value_embedding_layers))
        for name in ("vocab_size", "context_length", "num_layers", "num_heads", "head_dim"):
            if getattr(self, name) < 1:
                raise UserError(f"a model's {name} must be at least 1, not {getattr(self, name)}")
        if self.head_dim % 2:
            raise UserError(f"head_dim must be even (rotary embeddings turn pairs), not {self.head_dim}")
        if self.model_dim < GATE_CHANNELS:
            raise UserError(
                f"a model's width must be at least {GATE_CHANNELS} channels, not {self.model_dim} "
                f"({self.num_heads} heads of {self.head_dim})"
            )
        if len(self.windows) != self.num_layers or min(self.windows) < 0:
            raise UserError(f"windows needs {self.num_layers} numbers >= 0, one a layer, not {self.windows}")
        if any(not 0 <= layer < self.num_layers for layer in self.value_embedding_layers):
            raise UserError(f"value_embedding_layers must name layers 0 to {self.num_layers - 1}")
        if self.bigram_buckets < 0 or not self.softcap > 0 or not self.rope_base > 1:
            raise UserError("bigram_buckets must be >= 0, softcap > 0 and rope_base > 1")

    @property
    def model_dim(self) -> int:
        """C: the width of the residual stream."""
        return self.num_heads * self.head_dim

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> "GPTConfig":
        """The config written by `to_json`. Raises UserError for keys this version does not know."""
        known = {field.name for field in fields(GPTConfig)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise UserError(f"the model config has keys this chatsmith does not know: {', '.join(unknown)}")
        try:
            return GPTConfig(**values)
        except TypeError as error:
            raise UserError(f"the model config is damaged: {error}") from error
