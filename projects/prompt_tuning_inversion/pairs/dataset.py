"""Images and prompts for mmengine's loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, TRANSFORMS
from PIL import Image

from ..pictures import fit, read_image, to_tensor
from .lists import decode_mask, read_pairs
from .sample import EditDataSample


@DATASETS.register_module()
class EditPairDataset(BaseDataset):
    """Images with the prompt of their edit.

    Args:
        ann_file: A JSON list, PIE-Bench's ``mapping_file.json``, or a folder of images and text files, see
            :func:`~mmplugins.prompt_tuning_inversion.pairs.lists.read_pairs`. ``data_root`` is put before it.
        image_root: Folder that the paths in it start from, under ``data_root`` unless it is absolute.
        prompt: For all images of a folder without text files.
        edit_types: Keep only edits of these types, such as PIE-Bench's ``'change color'``.
        **kwargs: Of mmengine's ``BaseDataset``.
    """

    def __init__(
        self,
        ann_file: str,
        image_root: str | None = None,
        prompt: str | None = None,
        edit_types: list[str] | None = None,
        **kwargs,
    ) -> None:
        self.image_root, self.prompt, self.edit_types = image_root, prompt, edit_types
        super().__init__(ann_file=ann_file, **kwargs)

    def _join_prefix(self) -> None:
        """Put ``data_root`` before the paths."""
        super()._join_prefix()
        if self.image_root is not None and self.data_root:
            self.image_root = str(Path(self.data_root, self.image_root))

    def load_data_list(self) -> list[dict]:
        """One dict an image."""
        pairs = read_pairs(self.ann_file, self.image_root, self.prompt)
        if self.edit_types is None:
            return pairs
        kept = [pair for pair in pairs if pair['edit_type'] in self.edit_types]
        if not kept:
            known = sorted({pair['edit_type'] for pair in pairs})
            raise ValueError(f'no edits of types {self.edit_types} in {self.ann_file}; there are {known}')
        return kept


@TRANSFORMS.register_module()
class LoadEditImage:
    """Read the image of a pair and bring it to a size that the model takes.

    Makes ``dict(inputs=Tensor (3, H, W) in [-1, 1], data_samples=EditDataSample)``.

    Args:
        size: Side in pixels: 512 for SD 1.x, 768 for SD 2.x, 32 for the tiny model.
        multiple: Of which sides must be: 64 for Stable Diffusion, 8 for the tiny model.
        resize: ``'shortest'``, ``'stretch'`` or ``'none'``, as in
            :func:`~mmplugins.prompt_tuning_inversion.pictures.fit`.
    """

    def __init__(self, size: int = 512, multiple: int = 64, resize: str = 'shortest') -> None:
        fit(Image.new('RGB', (multiple, multiple)), size, multiple, resize)  # refuses what is out of range
        self.size, self.multiple, self.resize = size, multiple, resize

    def __call__(self, results: dict) -> dict:
        """Read and resize the image and its mask."""
        image = fit(read_image(results['img_path']), self.size, self.multiple, self.resize)
        sample = EditDataSample(
            metainfo={key: results[key] for key in ('img_path', 'sample_id', 'edit_type')},
            prompt=results['prompt'],
            source_prompt=results['source_prompt'],
            mask=None,
        )
        if results.get('mask') is not None:
            mask = Image.fromarray(decode_mask(results['mask'])).resize(image.size, Image.Resampling.NEAREST)
            sample.mask = torch.from_numpy(np.array(mask))
        return dict(inputs=to_tensor(image), data_samples=sample)
