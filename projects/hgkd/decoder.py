"""UNet decoder of the student, down to the resolution that the teacher's features need.

SparK's light decoder (arXiv 2301.03580, sec. 3.3), which always goes to pixels. H-GKD's abstract (arXiv 2309.09571)
says "UNet-style" and no more. Not in the papers: to stop at an earlier stride, and to add the skip of that stride.
"""

from collections.abc import Sequence

from mmpretrain.models import SparKLightDecoder
from mmpretrain.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class HGKDUNetDecoder(SparKLightDecoder):
    """SparK's decoder without the projection to pixels, ending at a stride of choice.

    Each block doubles the resolution and halves the channels; the skip of a level is added before its block, and here
    also after the last block, where SparK's loop leaves one unused.

    Args:
        feature_dim: Channels at the deepest level.
        upsample_ratio: Stride of the deepest level in pixels, a power of 2.
        out_stride: Stride of the output, a power of 2 up to ``upsample_ratio``. Not in the papers: 4, the finest level
            of a ResNet, so that all four levels count; 16 is cheaper, 1 is SparK's and what pixels need.
        **kwargs: Of ``SparKLightDecoder``.

    Raises:
        ValueError: A stride is not such a power of 2, or leaves no channels.
    """

    def __init__(self, feature_dim: int, upsample_ratio: int = 32, out_stride: int = 4, **kwargs) -> None:
        powers = [2**i for i in range(upsample_ratio.bit_length())]
        if upsample_ratio not in powers or out_stride not in powers:
            raise ValueError(
                f'upsample_ratio and out_stride must be powers of 2 with out_stride <= upsample_ratio, got '
                f'{upsample_ratio} and {out_stride}'
            )
        ratio = upsample_ratio // out_stride
        if feature_dim % ratio:
            raise ValueError(f'feature_dim {feature_dim} cannot be halved from stride {upsample_ratio} to {out_stride}')
        super().__init__(feature_dim, ratio, **kwargs)
        del self.proj  # to pixels: HGKD has its own where it predicts pixels
        self.upsample_ratio = upsample_ratio
        self.out_stride = out_stride
        self.out_channels = feature_dim // ratio

    @property
    def num_levels(self) -> int:
        """Levels that the decoder has a place for: one before each block and one after the last."""
        return len(self.decoder) + 1

    def forward(self, to_dec: Sequence[Tensor]) -> Tensor:
        """Decode.

        Args:
            to_dec: Densified levels from the deepest, ``(B, feature_dim / 2^i, h 2^i, w 2^i)``; up to ``num_levels``.

        Returns:
            ``(B, out_channels, H / out_stride, W / out_stride)``.

        Raises:
            ValueError: More levels than ``num_levels``.
        """
        if len(to_dec) > self.num_levels:
            raise ValueError(f'{len(to_dec)} levels for a decoder of {len(self.decoder)} blocks')
        x = to_dec[0]
        for i, block in enumerate(self.decoder, start=1):
            x = block(x)
            if i < len(to_dec):
                x = x + to_dec[i]
        return x
