"""The data element that goes through mmengine's loops."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.structures import BaseDataElement


class EditDataSample(BaseDataElement):
    """An image with the prompt of its edit, and what came out.

    Data fields: ``prompt``, ``source_prompt`` (str or None), ``mask`` (``(H, W)``, bool, true where the edit may change
    the image, or None); after ``predict`` also ``source``, ``vae``, ``recon`` (Tensor ``(3, H, W)`` in [-1, 1]),
    ``edits`` (``(E, 3, H, W)``) and ``etas``. Metainfo: ``img_path``, ``sample_id``, ``edit_type``.
    """


def prompts_of(samples: Sequence[EditDataSample]) -> tuple[list[str], list[str | None]]:
    """Prompts of the edits and of the images; None where that of an image is not known."""
    return [sample.prompt for sample in samples], [sample.get('source_prompt') for sample in samples]
