"""A page in the browser: an image, prompts, sliders over the cached inversion, and what was made so far."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from PIL import Image

from ..extras import require
from ..pictures import fit, read_image, to_image, to_tensor
from .arguments import METHODS, build_editor, build_parts, unknown_words
from .editing import Bars, open_cache

if TYPE_CHECKING:
    from gradio import Blocks

HINT = 'pip install --no-build-isolation -e ".[pti,app]"'
TITLE = 'Prompt Tuning Inversion'
KEPT = 24  # pictures of the history
SIDE = 300  # height of pictures
# Pictures fill their frames; those of the tiny model are enlarged pixel by pixel.
CSS = '.image-frame img {height: 100%; width: 100%; object-fit: contain; image-rendering: pixelated}'


class Page:
    """What the page does, without the page: all methods and sliders share one model and one cache.

    Args:
        args: Of the command; method, strength and guidance of the edit are those of the page.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        if args.no_cache:
            raise ValueError('the sliders edit an inversion of the cache: leave --no-cache out')
        self.args, self.parts, self.cache = args, build_parts(args), open_cache(args)

    def edit(
        self,
        path: str,
        prompt: str,
        source_prompt: str,
        method: str,
        eta: float,
        guidance: float,
        progress: Callable[[tuple[int, int], str], None],
    ) -> tuple[Image.Image, Image.Image, str]:
        """Invert an image, or take its inversion from the cache, and edit it.

        Args:
            path: Of the image.
            prompt: What the edited image should show.
            source_prompt: What is in the image; empty where that is not said.
            method: One of ``METHODS``.
            eta: Strength, 0 to 1.
            guidance: While editing. Inverting has the command's, so that this slider needs no new inversion.
            progress: Called with the steps that are done of all, and what they do.

        Returns:
            The edit, the reconstruction, and a line about them.

        Raises:
            ValueError: There is no image or prompt, or a setting is out of its range.
        """
        if not path or not prompt.strip():
            raise ValueError('an image and the prompt of the edit are needed')
        settings = dict(method=method, eta=[eta], edit_guidance=guidance)
        editor = build_editor(argparse.Namespace(**{**vars(self.args), **settings}), self.parts)
        size = self.args.size or self.parts.image_size
        image = to_tensor(fit(read_image(path), size, self.parts.factor, self.args.resize))[None]
        image = image.to(self.parts.device)

        def report(stage: str, done: int, total: int, loss: float) -> None:
            progress((done, total), Bars.LABELS[stage])

        sources = [source_prompt] if source_prompt.strip() else None
        inversion, (hit,) = self.cache.invert(editor, image, [prompt], sources, report)
        text = 'inversion from the cache' if hit else f'inverted with {int(inversion.updates)} updates'
        if unknown := unknown_words(self.args.model, prompt):
            text += f'; the tiny model does not know: {", ".join(unknown)}'
        return (
            to_image(editor.edit(inversion, [prompt], eta, sources)[0]),
            to_image(editor.reconstruct(inversion)[0]),
            text,
        )


def build_app(args: argparse.Namespace) -> Blocks:
    """The page, ready to be launched."""
    gradio = require('gradio', HINT)
    page = Page(args)

    def edit(image, prompt, source_prompt, method, eta, guidance, history, progress=gradio.Progress()):  # noqa: B008
        def report(done: tuple[int, int], what: str) -> None:
            progress(done, desc=what)

        try:
            edited, recon, text = page.edit(image, prompt, source_prompt, method, eta, guidance, report)
        except (ValueError, OSError, ImportError, FloatingPointError) as error:
            raise gradio.Error(str(error)) from error
        label = f'{prompt} ({method}, eta {eta:g}, guidance {guidance:g})'
        return edited, recon, text, [(edited, label), *(history or [])][:KEPT]

    with gradio.Blocks(title=TITLE, analytics_enabled=False) as app:
        gradio.Markdown(
            f'# {TITLE}\nThe first edit of an image inverts it; the sliders and other prompts then take seconds.'
        )
        with gradio.Row():
            with gradio.Column():
                image = gradio.Image(
                    label='image', type='filepath', image_mode=None, sources=['upload', 'clipboard'], height=SIDE
                )
                prompt = gradio.Textbox(label='prompt: what the edit should show')
                source = gradio.Textbox(label='what is in the image; null-text and negative-prompt need it')
                method = gradio.Dropdown(list(METHODS), value=args.method, label='method')
                eta = gradio.Slider(0, 1, args.eta[0], step=0.05, label='eta: 0 keeps the image, 1 follows the prompt')
                guided = args.guidance if args.edit_guidance is None else args.edit_guidance
                guidance = gradio.Slider(0, max(20, guided), guided, step=0.5, label='guidance of the edit')
                button = gradio.Button('Edit', variant='primary')
            with gradio.Column():
                edited = gradio.Image(label='edit', format='png', height=SIDE)
                recon = gradio.Image(label='reconstruction', format='png', height=SIDE)
                said = gradio.Markdown()
        history = gradio.Gallery(label='history, newest first', columns=6, format='png', interactive=False)
        inputs, outputs = [image, prompt, source, method, eta, guidance, history], [edited, recon, said, history]
        button.click(edit, inputs, outputs, api_name='edit')
        for slider in (eta, guidance):
            slider.release(edit, inputs, outputs, api_visibility='private')
    return app
