"""What a model costs: parameters by group, floating-point operations per token, bytes. Pure arithmetic."""

from dataclasses import dataclass

from chatsmith.model.config import GPTConfig


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
        """The parameters that do arithmetic: N in scaling laws."""
        return self.matrices + self.head


def model_cost(config: GPTConfig, sequence_length: int | None = None) -> Cost:
    """The cost of a model of this shape trained on rows of `sequence_length` tokens (default: its context)."""
    length = sequence_length or config.context_length
    width = config.model_dim
    matrices = 12 * width * width * config.num_layers
    head = config.vocab_size * width
    tables = (config.vocab_size * (1 + len(config.value_embedding_layers)) + config.bigram_buckets) * width
    seen = sum(min(window or length, length) for window in config.windows)
    return Cost(matrices, head, tables, 6 * (matrices + head) + 12 * width * seen)


def kv_bytes_per_token(config: GPTConfig, bytes_per_number: int) -> int:
    """Bytes of keys and values that one token occupies in an engine's cache."""
    return 2 * config.num_layers * config.model_dim * bytes_per_number
