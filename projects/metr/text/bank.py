"""Language side of METR: one frozen embedding a category name.

Paper: arXiv 2304.03580 (abstract: "a pretrained language model"). The detector never runs the language model: it
reads vectors that ``python -m mmplugins.metr embed-names`` computed once.

Shapes: ``V`` names in the vocabulary, ``E`` text dimension, ``D`` model dimension.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.model import BaseModule, xavier_init
from torch import Tensor, nn

from .embeddings import check_distinct, load_embeddings
from .vocabulary import normalize_name


@MODELS.register_module()
class TextBank(BaseModule):
    """Prompt vectors ``c = LN(W t)`` of the names in a vocabulary.

    Note:
        Not in the paper: our decision. The released code makes the bank a trainable parameter that starts from raw CLIP
        vectors. Here it is a frozen buffer, kept out of the checkpoint, so that names that were never trained can be
        looked up later; and the vectors are centered, normalized and scaled by one learned number, because raw CLIP
        vectors have norms near 10 and a mean pairwise cosine of 0.8: what all names have in common tells none from
        another. ``trainable=True, normalize=False`` is the released way.

    Args:
        embeddings: Name of a packaged cache (``'minilm-l6-v2'``) or path of an ``.npz`` that ``embed-names`` wrote.
        names: The names to hold, in row order; see :meth:`set_names`.
        embed_dims: ``D``.
        trainable: Whether the vectors are parameters. What a name has learned is kept when the names change, and found
            again in a checkpoint of other names.
        normalize: Whether the directions of the vectors are taken without their mean over ``names``, divided by their
            L2 norm and multiplied by a learned scale. The mean stays when the names change, and is in the checkpoint.
        init_cfg: See :class:`mmengine.model.BaseModule`.
    """

    def __init__(
        self,
        embeddings: str,
        names: Sequence[str],
        embed_dims: int = 256,
        trainable: bool = False,
        normalize: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.trainable = trainable
        self.normalize = normalize
        self.source = load_embeddings(embeddings)
        text_dims = self.source.lookup(names[:1]).shape[1]
        self.projection = nn.Linear(text_dims, embed_dims) if text_dims != embed_dims else nn.Identity()
        self.norm = nn.LayerNorm(embed_dims)
        self.register_buffer('fingerprint', self._fingerprint())
        self._keys: list[tuple[str, int]] = []
        self._learned: dict[tuple[str, int], Tensor] = {}
        self.set_names(names)
        if normalize:
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer('center', _center(self.vectors.detach()))

    def init_weights(self) -> None:
        """Start the projection without bias.

        Beside vectors of unit norm torch's own bias is as large as the projected vector, and all names start alike.
        """
        super().init_weights()
        if isinstance(self.projection, nn.Linear):
            xavier_init(self.projection, distribution='uniform')

    def set_names(self, names: Sequence[str]) -> None:
        """Replace the vocabulary; row ``i`` becomes ``names[i]``.

        Args:
            names: At least one name.

        Raises:
            KeyError: A name is not in the embedding file; the message holds the command that adds it.
            ValueError: Different names have one vector.
        """
        looked_up = self.source.lookup(names)
        check_distinct(names, looked_up, self.source.source)
        vectors = torch.from_numpy(looked_up).to(self.norm.weight.device)
        if not self.trainable:
            self.register_buffer('vectors', vectors, persistent=False)
            return
        if self._keys:
            self._learned.update(zip(self._keys, self.vectors.detach().clone(), strict=True))
        self._keys = _keys(names)
        self.vectors = nn.Parameter(self._with_learned(vectors))
        self.register_buffer('row_names', _to_tensor(names))

    def _with_learned(self, vectors: Tensor) -> Tensor:
        """Return the vectors ``(V, E)``, where a name has learned its own."""
        return torch.stack([self._learned.get(key, row).to(row) for key, row in zip(self._keys, vectors, strict=True)])

    def forward(self) -> Tensor:
        """Return the prompts ``(V, D)``."""
        vectors = self.vectors
        if self.normalize:
            vectors = F.normalize(F.normalize(vectors, dim=-1) - self.center, dim=-1) * self.scale
        return self.norm(self.projection(vectors))

    def _fingerprint(self) -> Tensor:
        """A number of language model and template, which, unlike the names, must be those of the checkpoint."""
        digest = hashlib.sha256(f'{self.source.backend}|{self.source.template}'.encode()).digest()
        return torch.tensor([int.from_bytes(digest[:7], 'big')])

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        saved = state_dict.get(prefix + 'fingerprint')
        if saved is not None and not torch.equal(saved.cpu(), self.fingerprint.cpu()):
            raise RuntimeError(
                'The checkpoint was trained with name embeddings of another language model or template than '
                f'{self.source.backend!r} / {self.source.template!r}. Give `text_bank.embeddings` the file that '
                'the checkpoint was trained with, or drop the keys `text_bank.*` from the checkpoint to retrain them.'
            )
        if saved is not None and self.normalize:  # checkpoints from before there was a center
            state_dict.setdefault(prefix + 'center', torch.zeros_like(self.center))
        saved = state_dict.get(prefix + 'row_names')
        if self.trainable and saved is not None:
            names = json.loads(saved.cpu().numpy().tobytes())
            self._learned.update(zip(_keys(names), state_dict[prefix + 'vectors'], strict=True))
            state_dict[prefix + 'vectors'] = self._with_learned(self.vectors.detach())
            state_dict[prefix + 'row_names'] = self.row_names
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _center(vectors: Tensor) -> Tensor:
    """Return the mean direction ``(E)`` of ``(V, E)``; zero if all are one name, of which nothing would be left."""
    directions = F.normalize(vectors, dim=-1).unique(dim=0)
    return directions.mean(0) if len(directions) > 1 else torch.zeros_like(directions[0])


def _keys(names: Sequence[str]) -> list[tuple[str, int]]:
    """Return what tells rows apart: the name, and how often it came before, as names that are kept separate do."""
    seen: Counter[str] = Counter()
    keys = []
    for name in map(normalize_name, names):
        keys.append((name, seen[name]))
        seen[name] += 1
    return keys


def _to_tensor(names: Sequence[str]) -> Tensor:
    """Return the names as bytes: a checkpoint of tensors alone can be read without running code."""
    return torch.frombuffer(bytearray(json.dumps(list(names)).encode()), dtype=torch.uint8)
