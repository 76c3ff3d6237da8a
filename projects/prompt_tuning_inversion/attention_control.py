"""Prompt-to-prompt (Hertz et al., ICLR 2023, arXiv 2208.01626): an edit looks where the image's own sampling looks.

Written from sections 3 and 4 of its paper; no code of others is in here. Not in the paper of prompt tuning inversion.
``B`` images, ``H`` heads, ``N`` places of a latent, ``L`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

    from .diffusion.parts import DiffusionParts

PLACES = 32**2  # self-attention of more places is left alone: it is detail, and its maps are large

Change = Callable[[str, Tensor], Tensor]


class AttentionControl:
    """Replaces attention maps of an edit by those of the image, word by word.

    Words that both prompts have, and a word that stands for another, get the maps of the image's word (replacement);
    new words keep their own (refinement); maps of chosen words are multiplied (reweighting).

    Args:
        cross: Share of the steps, from the noisiest on, in which cross-attention is replaced; 0.8 in the public code.
        self_attention: The same for self-attention; 0.4 there.
        weights: Factor of words of the edit's prompt, in all steps.

    Raises:
        ValueError: A share outside 0 to 1, or a negative factor.
    """

    def __init__(
        self, cross: float = 0.8, self_attention: float = 0.4, weights: Mapping[str, float] | None = None
    ) -> None:
        if not (0 <= cross <= 1 and 0 <= self_attention <= 1):
            raise ValueError(f'shares of attention control must be from 0 to 1, got {cross} and {self_attention}')
        self.cross, self.self_attention, self.weights = cross, self_attention, dict(weights or {})
        if any(not factor >= 0 for factor in self.weights.values()):
            raise ValueError(f'factors of words must not be negative, got {self.weights}')

    def settings(self) -> dict:
        """What an edit depends on; JSON."""
        return dict(cross=self.cross, self_attention=self.self_attention, weights=self.weights)

    def maps(self, parts: DiffusionParts, sources: Sequence[str], prompts: Sequence[str]) -> AttentionMaps:
        """What replaces the maps of a batch, for the prompts of the images and of the edits.

        Raises:
            ValueError: A word with a factor is in no prompt.
        """
        lost = [word for word in self.weights if not any(word in prompt.split() for prompt in prompts)]
        if lost:
            raise ValueError(f'no prompt of the edits has the word {lost[0]!r}')
        length = parts.tokenizer.model_max_length
        pairs = zip(sources, prompts, strict=True)
        moves = torch.stack([move_of(spans_of(parts, a), spans_of(parts, b), length) for a, b in pairs])
        factors = torch.ones(len(prompts), 1, length)
        for number, prompt in enumerate(prompts):
            for word, (start, end) in spans_of(parts, prompt):
                factors[number, :, start:end] = self.weights.get(word, 1.0)
        return AttentionMaps(parts.unet, moves.to(parts.device), factors.to(parts.device))


def spans_of(parts: DiffusionParts, prompt: str) -> list[tuple[str, tuple[int, int]]]:
    """Words of a prompt with the first of their tokens and the one behind the last; the first token of all is 1."""
    found, start = [], 1
    for word in prompt.split():
        text = parts.pipeline.maybe_convert_prompt(word, parts.tokenizer)  # a learned word may stand for several tokens
        end = start + len(parts.tokenizer(text).input_ids) - 2  # without begin and end
        found.append((word, (start, end)))
        start = end
    return found


def move_of(source: list, target: list, length: int) -> Tensor:
    """Matrix ``(L, L)``: column ``t`` says of which tokens of the image the map of token ``t`` is made.

    A column of zeros is a token that keeps its own map. The maps of a word go to all tokens of the word in its place.
    """
    move = torch.zeros(length, length)
    move[0, 0] = 1
    matcher = SequenceMatcher(None, [word for word, _ in source], [word for word, _ in target], autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        if kind in ('equal', 'replace'):
            for (_, (start, end)), (_, (first, last)) in zip(source[a:b], target[c:d], strict=False):
                if end - start == last - first:  # token by token, as far as the model reads both
                    count = min(end - start, length - start, length - first)
                    move[range(start, start + count), range(first, first + count)] = 1
                else:
                    move[start:end, first:last] = 1 / (last - first)
    # End and padding follow the words.
    ends = [spans[-1][1][1] if spans else 1 for spans in (source, target)]
    rest = length - max(*ends)
    move[range(ends[0], ends[0] + rest), range(ends[1], ends[1] + rest)] = 1
    return move


class AttentionMaps:
    """Keeps the maps of one prediction of a UNet and gives them to the next.

    Args:
        unet: Of Stable Diffusion.
        moves: ``(B, L, L)``, see :func:`move_of`.
        factors: ``(B, 1, L)``, of the tokens of the edits.
    """

    def __init__(self, unet: nn.Module, moves: Tensor, factors: Tensor) -> None:
        self.unet, self.moves, self.factors = unet, moves, factors
        self.kept: dict[str, Tensor] = {}
        self.given = moves.any(dim=1, keepdim=True)  # (B, 1, L): tokens that have a map of the image

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within the context a prediction's maps are kept: of cross-attention, and of self-attention of few places."""

        def keep(name: str, probs: Tensor) -> Tensor:
            if name.endswith('attn2') or probs.shape[1] <= PLACES:
                self.kept[name] = probs
            return probs

        with self.processed(keep):
            yield

    @contextmanager
    def giving(self, cross: bool, self_attention: bool) -> Iterator[None]:
        """Within the context a prediction has the kept maps, of cross-attention moved to the tokens of the edit."""

        def give(name: str, probs: Tensor) -> Tensor:
            if not name.endswith('attn2'):
                return self.kept.get(name, probs) if self_attention else probs
            shape = (len(self.moves), -1, *probs.shape[1:])
            found = probs.view(shape)  # (B, H, N, L)
            moves, given, factors = (
                each.unsqueeze(1).to(probs.dtype) for each in (self.moves, self.given, self.factors)
            )
            if cross:
                found = torch.where(given.bool(), self.kept[name].view(shape) @ moves, found)
            return (found * factors).view_as(probs)

        with self.processed(give):
            yield

    @contextmanager
    def processed(self, change: Change) -> Iterator[None]:
        """Within the context all attentions of the UNet's transformers run with what a function makes of their maps."""
        before = self.unet.attn_processors
        self.unet.set_attn_processor({key: Processor(key.removesuffix('.processor'), change) for key in before})
        try:
            yield
        finally:
            self.unet.set_attn_processor(before)


class Processor:
    """Attention as diffusers' plain processor computes it in a transformer, with a change of the maps.

    Args:
        name: Of the attention; ends with ``attn1`` (self) or ``attn2`` (cross).
        change: Called with name and maps ``(B H, N, L)``; returns the maps to use.
    """

    def __init__(self, name: str, change: Change) -> None:
        self.name, self.change = name, change

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_
    ) -> Tensor:
        """Hidden states ``(B, N, D)``."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        layers = ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        query, key, value = (attn.head_to_batch_dim(layer(states)) for layer, states in layers)
        probs = self.change(self.name, attn.get_attention_scores(query, key))
        out, dropout = attn.to_out
        return dropout(out(attn.batch_to_head_dim(probs @ value)))
