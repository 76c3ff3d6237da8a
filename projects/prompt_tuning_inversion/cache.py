"""Inversions on the disk, so that a second edit of an image tunes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmplugins.utils.atomic import replacing

from .diffusion.identity import cache_folder
from .extras import require
from .inversion import Inversion

if TYPE_CHECKING:
    from .editor import InversionEditor, Progress, SourcePrompts

VERSION = 3


class InversionCache:
    """A folder of ``safetensors`` files, one an image and setting.

    A file is written under a temporary name and then renamed, so an interrupted run leaves none that is half done; the
    values are float32 and come back bit by bit. Its name is a hash of the pixels, of the editor's settings (the model's
    weights, steps, rates, guidance, …) and of the prompts that stage 1 depends on; those that it does not depend on are
    left out, so that one inversion with ``init='null'`` serves every prompt.

    Args:
        folder: Made when the first file is written; default: ``inversions`` in the plugin's part of the user's cache
            folder (``~/.cache``, or what ``XDG_CACHE_HOME`` names).
        max_bytes: Of all files; the ones that were not used for longest are deleted to make room. 4 GiB hold about 300
            inversions of Stable Diffusion 1.5 with 50 steps.
    """

    def __init__(self, folder: str | Path | None = None, max_bytes: int = 4 << 30) -> None:
        self.folder = cache_folder() / 'inversions' if folder is None else Path(folder)
        self.max_bytes = max_bytes

    def path_of(self, editor: InversionEditor, image: Tensor, prompt: str, source_prompt: str | None) -> Path:
        """File of one image ``(3, H, W)``."""
        pixels = image.detach().cpu().float().contiguous().numpy()
        key = dict(
            version=VERSION,
            settings=editor.settings(),
            prompts=editor.prompts_of_inversion(prompt, source_prompt),
            shape=list(image.shape),
            pixels=hashlib.sha256(pixels.tobytes()).hexdigest(),
        )
        return self.folder / f'{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.safetensors'

    def invert(
        self,
        editor: InversionEditor,
        images: Tensor,
        prompts: Sequence[str],
        source_prompts: SourcePrompts = None,
        progress: Progress | None = None,
    ) -> tuple[Inversion, list[bool]]:
        """Inversions of images ``(B, 3, H, W)``: read where a file is there, else made, together, and written.

        Returns:
            The inversion, and for each image whether it was read.
        """
        sources = list(source_prompts) if source_prompts is not None else [None] * len(images)
        paths = [self.path_of(editor, *item) for item in zip(images, prompts, sources, strict=True)]
        found = [self.read(path) for path in paths]
        hits = [one is not None for one in found]
        missing = [number for number, hit in enumerate(hits) if not hit]
        if missing:
            made = editor.invert(
                images[missing],
                [prompts[number] for number in missing],
                [sources[number] for number in missing],
                progress,
            )
            for number, one in zip(missing, made.split(), strict=True):
                self.write(paths[number], one)
                found[number] = one
        return Inversion.join([one.to(editor.parts.device) for one in found]), hits

    def write(self, path: Path, inversion: Inversion) -> None:
        """Write one inversion."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in inversion.tensors().items()}
        metadata = dict(
            version=str(VERSION), settings=json.dumps(inversion.settings), checksum=checksum(tensors)
        )  # fmt: skip
        with replacing(path) as temporary:
            require('safetensors.torch').save_file(tensors, temporary, metadata)
        self.make_room(path)

    def make_room(self, kept: Path) -> None:
        """Delete files that were not used for longest until the rest fits; never ``kept``, which was just written."""
        files = []
        for path in self.folder.glob('[!.]*.safetensors'):  # those with a dot are being written
            with suppress(FileNotFoundError):  # another process made room
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.max_bytes:
                return
            if path != kept:
                with suppress(PermissionError):  # another user's, in a folder where each deletes their own
                    path.unlink(missing_ok=True)
                    total -= size

    def read(self, path: Path) -> Inversion | None:
        """Read one inversion; None where there is none, or a broken one, which is said and deleted."""
        safe_open = require('safetensors').safe_open
        try:
            with safe_open(path, 'pt') as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
            if metadata['checksum'] != checksum(tensors):
                raise ValueError('its checksum is wrong')
            found = Inversion(**tensors, settings=json.loads(metadata['settings']))
        except FileNotFoundError:
            return None
        except Exception as error:  # safetensors raises an Exception of its own for each kind of damage
            print_log(f'cache file {path} cannot be used ({error}); it is made again', 'current', logging.WARNING)
            with suppress(OSError):  # another user's
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):  # likewise
            os.utime(path)  # its time says when it was last used
        return found


def checksum(tensors: dict[str, Tensor]) -> str:
    """A hash of names, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        found.update(f'{name}:{value.dtype}:{tuple(value.shape)}'.encode())
        found.update(value.contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b'')
    return found.hexdigest()
