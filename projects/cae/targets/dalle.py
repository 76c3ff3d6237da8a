"""The tokenizer of DALL-E, the paper's own target of CAE (sec. 4.1 of arXiv 2202.03026)."""

from __future__ import annotations

import torch
from mmpretrain.models.selfsup.cae import DALLEEncoder
from mmpretrain.registry import MODELS
from torch import Tensor

from mmplugins.utils.encoders import pretrained_of
from mmplugins.utils.weights import load_strictly, read_weights

from .precision import SinglePrecision


@MODELS.register_module()
class DALLETokenTarget(SinglePrecision, DALLEEncoder):
    """Encoder of DALL-E's discrete VAE: images ``(B, 3, 8 h, 8 w)`` to logits ``(B, 8192, h, w)`` of the tokens.

    The host's ``DALL-E`` with a reader of OpenAI's own file. The images are pixels in [0, 1], mapped by
    ``0.8 x + 0.1``: ``second_mean=[-31.875] * 3`` and ``second_std=[318.75] * 3`` of ``TwoNormDataPreprocessor``.

    Args:
        **kwargs: The host's: ``n_hid``, ``vocab_size``, and ``init_cfg=dict(type='Pretrained', checkpoint=…)``,
            OpenAI's ``encoder.pkl``, or a state dict of it, as mmpretrain's. All weights must be there.

    Raises:
        ValueError: The file lacks weights, or would run code.
    """

    @property
    def num_tokens(self) -> int:
        """Tokens of the vocabulary, which is ``num_classes`` of the neck."""
        return len(self.blocks.output.conv.b)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, 8192, h, w)`` of images ``(B, 3, 8 h, 8 w)``."""
        with torch.autocast(x.device.type, enabled=False):  # half precision would mix up near tokens
            return super().forward(x)

    def init_weights(self) -> None:
        """Read the file of ``init_cfg``."""
        if file := pretrained_of(self.init_cfg):
            source = file['checkpoint']
            load_strictly(self, read_weights(source), source)
