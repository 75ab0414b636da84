"""The architecture of a model, as plain numbers, and what a model of that shape costs. No torch here.

Everything that decides what a GPT computes stands in its config. A config is written into the bundle's `config.json`
and is all that is needed to rebuild the network, so a choice that changes results (a window, a softcap) is a field and
never a property of the device."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from chatsmith.runtime.errors import UserError

Architecture = Literal["chatsmith", "portable"]

NO_SOFTCAP = 1e6
"""A softcap that changes no logit: of one of 100, about a part in 10^9."""

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
    """The attention window of each layer, in tokens; 0 means the whole context. Empty: 0 for every layer."""
    value_embedding_layers: tuple[int, ...] = ()
    """Layers whose attention values get an embedding of the token itself added."""
    bigram_buckets: int = 0
    """Rows of the hashed table of (previous token, token) embeddings; 0 leaves the table out."""
    rope_base: float = 10_000.0
    """The base of the rotary embedding's wavelengths."""
    softcap: float = 15.0
    """Logits are squashed into (-softcap, softcap)."""
    architecture: Architecture = "chatsmith"
    """portable: the shape of Qwen3 (arXiv:2505.09388), which other programs know. SwiGLU instead of the squared ReLU,
    and none of what looks at tokens beside attention: smear, value embeddings, bigrams, residual scalars, softcap."""

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
        if self.is_portable and (
            self.value_embedding_layers or self.bigram_buckets or self.softcap != NO_SOFTCAP
        ):
            raise UserError("a portable model has no value embeddings, no bigrams and no softcap")

    @property
    def model_dim(self) -> int:
        """C: the width of the residual stream."""
        return self.num_heads * self.head_dim

    @property
    def is_portable(self) -> bool:
        """Is this the shape that other programs know?"""
        return self.architecture == "portable"

    @property
    def mlp_dim(self) -> int:
        """Channels between the two layers of an MLP: 4C; for SwiGLU's three matrices about 8/3 C, so that they have as
        many parameters (Shazeer 2020, arXiv:2002.05202), a multiple of 32, which quantized blocks of weights have."""
        return max(32, round(8 * self.model_dim / 96) * 32) if self.is_portable else 4 * self.model_dim

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; one that is newer than the format only where it is not its default."""
        values = asdict(self)
        if not self.is_portable:
            del values["architecture"]
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

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


@dataclass(frozen=True)
class Cost:
    """Counts for one model shape."""

    matrices: int
    """Parameters of the blocks' matrices."""
    head: int
    """Parameters of the head."""
    tables: int
    """Parameters that are only looked up: token, value and bigram embeddings."""
    training_flops_per_token: int
    """6 x (matrices + head) + 12 x C x sum over layers of min(window, T): forward and backward, as in the PaLM
    paper's appendix B (arXiv:2204.02311). Counts causal attention as if it were full, as is usual."""

    @property
    def parameters(self) -> int:
        """All of them, but for a few thousand gates and scalars."""
        return self.matrices + self.head + self.tables

    @property
    def scaling_parameters(self) -> int:
        """The non-embedding parameters: N in scaling laws."""
        return self.matrices + self.head


def model_cost(config: GPTConfig, sequence_length: int | None = None) -> Cost:
    """The cost of a model of this shape trained on rows of `sequence_length` tokens (default: its context)."""
    length = sequence_length or config.context_length
    width = config.model_dim
    mlp = (3 if config.is_portable else 2) * width * config.mlp_dim
    matrices = (4 * width * width + mlp) * config.num_layers
    head = config.vocab_size * width
    tables = (config.vocab_size * (1 + len(config.value_embedding_layers)) + config.bigram_buckets) * width
    seen = sum(min(window or length, length) for window in config.windows)
    return Cost(matrices, head, tables, 6 * (matrices + head) + 12 * width * seen)


def kv_bytes_per_token(config: GPTConfig, bytes_per_number: int) -> int:
    """Bytes of keys and values that one token occupies in an engine's cache."""
    return 2 * config.num_layers * config.model_dim * bytes_per_number
