"""Training a tokenizer: byte-level byte-pair encoding.

Start from the 256 bytes; again and again, merge the pair of neighbouring tokens that is most frequent in the
training text into a new token (Sennrich et al. 2016; on bytes: Radford et al. 2019, GPT-2). Merges never
cross the borders of the pieces into which `SPLIT_PATTERN` cuts the text first.

The training itself is done by the `tokenizers` library. The same texts give the same tokenizer.
"""

from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from chatsmith.runtime.errors import UserError
from chatsmith.text.tokenizer import Tokenizer
from chatsmith.text.vocabulary import SPECIAL_TOKENS, check_vocab_size

# The pieces are those of GPT-4 (tiktoken's cl100k_base), one alternative a line, with three differences:
#
# - Digits come in groups of 1-2, not 1-3. There are 1,110 groups of up to three digits, a seventh of a
#   vocabulary of 8,192, each too rare to be learnt in a short training; groups of up to two are 110.
# - Contractions are spelled in both cases instead of switching case folding on: the two engines that must
#   agree here fold differently (for tiktoken's, ß matches a case-insensitive "ss"; for Oniguruma, it does not).
# - Runs of white space are cut at 256 characters. Unbounded, the look-ahead makes tiktoken's engine keep one
#   state a character, and it dies of a million spaces (tiktoken 0.14).
SPLIT_PATTERN = "|".join(
    [
        r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s{0,255}[\r\n]",
        r"\s{1,256}(?!\S)",
        r"\s",
    ]
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer of at most `vocab_size` ids, special tokens included, on `texts`.

    A small corpus has fewer pairs worth merging (those seen twice) and gives a smaller vocabulary: see
    the result's `vocab_size`. Raises UserError if `vocab_size` has no room for the 256 bytes and the special
    tokens, or if there is no text at all.
    """
    check_vocab_size(vocab_size)
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_some_text(texts), trainer)
    # Added after training, so that they take the last ids.
    bpe.add_special_tokens(
        [tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS]
    )
    return Tokenizer(bpe.to_str())


def well_formed(text: str) -> str:
    """`text` with lone surrogates as U+FFFD and pairs as their characters, as `Tokenizer` reads it."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _some_text(texts: Iterable[str]) -> Iterator[str]:
    is_empty = True
    for text in texts:
        is_empty = is_empty and not text
        yield well_formed(text)
    if is_empty:
        raise UserError(
            "there is no text to train a tokenizer on; check the data with `chatsmith data inspect`"
        )
