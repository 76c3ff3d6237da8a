"""Arguments of the commands, and the editor that they mean."""

from __future__ import annotations

import argparse
import re

import torch
from mmengine.registry import MODELS

from ..diffusion.folder import TINY, resolve
from ..diffusion.parts import DTYPES, DiffusionParts
from ..editor import InversionEditor
from ..pictures import RESIZES
from ..tinted_digits.parts import WORDS
from ..tuning import TOKENS

METHODS = {
    'pti': 'PromptTuningInversion',
    'null-text': 'NullTextInversionEditor',
    'negative-prompt': 'NegativePromptEditor',
    'edit-friendly': 'EditFriendlyEditor',
    'ddim': 'DDIMInversionEditor',
    'sdedit': 'SDEditEditor',
}
TUNED = ('pti', 'null-text')
UNDER_PROMPTS = (*TUNED, 'negative-prompt', 'ddim')


def add_editor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all commands share: model, method, its settings, device, cache, output."""
    model = parser.add_argument_group('model')
    model.add_argument(
        '--model',
        default='tiny',
        help='a diffusers folder of SD 1.x, 2.x or SDXL, or a single file (default: tiny model)',
    )
    model.add_argument(
        '--config', help='for a single file: a diffusers folder of its family, for configs and tokenizers'
    )
    model.add_argument('--lora', help='a LoRA file')
    model.add_argument('--lora-scale', type=float, default=1.0, help='its weight (default 1)')
    model.add_argument(
        '--textual-inversion', nargs='+', default=[], help='files of learned words, named in prompts as the files are'
    )
    model.add_argument('--dtype', choices=DTYPES, default='fp32', help='of the UNet; tuning is always in fp32')
    parser.add_argument('--method', choices=METHODS, default='pti')
    parser.add_argument('--eta', type=float, nargs='+', default=[0.5, 0.7, 0.9], help='strengths of the edit, 0 to 1')
    parser.add_argument('--steps', type=int, default=50, help='DDIM steps (default 50)')
    parser.add_argument('--guidance', type=float, default=7.5, help='classifier-free guidance (default 7.5)')
    parser.add_argument('--edit-guidance', type=float, help='the same while editing; default: as --guidance')
    tuning = parser.add_argument_group('tuning (pti, null-text)')
    tuning.add_argument('--inner', type=int, default=10, help='most updates a step (default 10)')
    tuning.add_argument('--lr', type=float, default=1e-2, help='of Adam (default 0.01)')
    tuning.add_argument('--no-lr-decay', action='store_true', help='the same rate at all steps')
    tuning.add_argument('--early-stop', type=float, default=1e-5, help='loss to stop at, of the first step; 0: never')
    tuning.add_argument('--tokens', choices=TOKENS, default='all', help='which tokens are tuned')
    tuning.add_argument(
        '--init',
        default='null',
        help="start (pti, ddim): null (default, serves every prompt), target, source or 'text:...'",
    )
    parser.add_argument(
        '--attention',
        type=float,
        nargs=2,
        metavar=('CROSS', 'SELF'),
        help='keep attention maps of the image (prompt-to-prompt) for these shares of the steps, as 0.8 0.4; '
        f'with {", ".join(UNDER_PROMPTS)} from the prompt of the image',
    )
    parser.add_argument(
        '--weight',
        nargs=2,
        action='append',
        metavar=('WORD', 'FACTOR'),
        help='with --attention: how much a word of the prompt counts; may be repeated',
    )
    parser.add_argument('--resize', choices=RESIZES, default='shortest')
    parser.add_argument('--size', type=int, help='side in pixels; default: what the model was trained on')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1, ... (default auto)')
    parser.add_argument('--low-mem', action='store_true', help='slower, with less memory')
    parser.add_argument('--seed', type=int, default=0, help='of sdedit and edit-friendly; the others draw nothing')
    parser.add_argument('--cache-dir', help="inversions are kept here; default: in the user's cache folder")
    parser.add_argument('--cache-gib', type=float, default=4, help='size of the cache (default 4)')
    parser.add_argument('--no-cache', action='store_true')


def build_parts(args: argparse.Namespace) -> DiffusionParts:
    """Read the model of the arguments, to its device.

    Raises:
        ValueError: The device is not there, or the model is of another kind.
        FileNotFoundError: The model's folder or a part of it is missing.
    """
    device = args.device
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # no such device, or one that this PyTorch was not built for
        reason = str(error).splitlines()[0]
        raise ValueError(f'--device {device} cannot be used ({reason}); take --device cpu') from None
    names = ('config', 'lora', 'lora_scale', 'textual_inversion', 'dtype', 'low_mem')
    return DiffusionParts(args.model, **{name: getattr(args, name) for name in names}).to(device)


def build_editor(args: argparse.Namespace, parts: DiffusionParts | None = None) -> InversionEditor:
    """Build the editor of the arguments on its device.

    Args:
        args: Of a command.
        parts: The model, where it was read before.

    Raises:
        ValueError: A setting is out of its range, or as :func:`build_parts`.
        FileNotFoundError: As :func:`build_parts`.
    """
    config = dict(
        type=METHODS[args.method],
        parts=parts or build_parts(args),
        num_steps=args.steps,
        guidance=args.guidance,
        edit_guidance=args.edit_guidance,
        eta=args.eta,
    )
    if args.method in TUNED:
        config.update(
            inner_steps=args.inner,
            lr=args.lr,
            lr_decay=not args.no_lr_decay,
            early_stop=args.early_stop or None,
            tokens=args.tokens,
        )
    if args.attention is not None:
        if args.method not in UNDER_PROMPTS:
            raise ValueError(f'--attention is for {", ".join(UNDER_PROMPTS)}, not for {args.method}')
        weights = {word: float(factor) for word, factor in args.weight or ()}
        config['attention'] = dict(cross=args.attention[0], self_attention=args.attention[1], weights=weights)
    elif args.weight:
        raise ValueError('--weight needs --attention')
    if args.method in ('pti', 'ddim'):
        config['init'] = args.init
    if args.method in ('sdedit', 'edit-friendly'):
        config['seed'] = args.seed
    return MODELS.build(config)


def unknown_words(model: str, prompt: str) -> list[str]:
    """Words that the tiny model does not know; empty for other models."""
    if resolve(model) != TINY:
        return []
    return [word for word in re.findall(r'\w+', prompt.lower()) if word not in WORDS]
