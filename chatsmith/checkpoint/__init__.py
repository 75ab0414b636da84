"""What a model is kept in: the bundle that others load, and the training state that resuming needs."""

from chatsmith.checkpoint.bundle import (
    FORMAT_VERSION,
    Bundle,
    bundle_fingerprint,
    is_bundle,
    load_bundle,
    resolve_bundle,
    save_bundle,
)
from chatsmith.checkpoint.model_card import model_card, with_scores
from chatsmith.checkpoint.state import TrainingState, load_state, save_state

__all__ = [
    "FORMAT_VERSION",
    "Bundle",
    "TrainingState",
    "bundle_fingerprint",
    "is_bundle",
    "load_bundle",
    "load_state",
    "model_card",
    "resolve_bundle",
    "save_bundle",
    "save_state",
    "with_scores",
]
