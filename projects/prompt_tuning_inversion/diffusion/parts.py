"""The frozen parts of a Stable Diffusion model: text encoders, autoencoder, UNet.

Texts are encoded by diffusers' pipeline, which knows the families; the loops over the UNet need none of it. ``B``
images, latents ``(B, C, H/f, W/f)``, embeddings ``(B, L, D)``: ``L`` tokens of ``D`` numbers. Of SDXL the last of the
``L`` rows is no token but the pooled embedding, filled up with zeros: what is mixed, tuned and stored is one tensor for
all families.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..extras import require
from .folder import PARTS, SECOND, SKELETONS, check_pipeline, resolve
from .identity import identity_of, identity_of_pipeline
from .memory import recomputed, return_freed_memory
from .pipelines import add_lora, add_words, open_pipeline, text_encoders
from .unprompted import evaluated_once, unprompted_modules

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


@MODELS.register_module()
class DiffusionParts(BaseModule):
    """Parts of a model that is read from the disk only, or of a diffusers pipeline.

    Where the folder is not there but ``arch`` is given, the UNet is built without memory (on the meta device), so that
    a config can be looked at; moving or using such a model is an error that says which folder is missing.

    Args:
        pretrained: A diffusers folder, a single file (with ``config``), ``'tiny'`` for the folder in this package, or a
            diffusers pipeline. Its parts are used as they are, with their adapters and words, and go where this module
            goes; its scheduler gives the noise schedule alone.
        arch: ``'sd1'``, ``'sd2'`` or ``'sdxl'``: what it must be; default: not checked.
        dtype: Of UNet and text encoders: ``'fp32'`` (default of files), ``'fp16'`` or ``'bf16'``; a pipeline keeps its
            own. The autoencoder, the embeddings that are tuned and all sums stay in float32: tuning in pure float16
            gives black pictures.
        low_mem: Recompute the UNet's activations in the backward pass, keep autoencoder and text encoders on the CPU
            while they are not in use, and have freed memory go back to the system (of the whole process, with glibc).
        clip_skip: How many of the last layers of the text encoders to leave out.
        config: For a single file: a diffusers folder of its family, of which configs and tokenizers are read.
        lora: A LoRA file; needs peft.
        lora_scale: Its weight.
        textual_inversion: Files of learned words; in prompts the name of a file without suffix stands for the word.

    Raises:
        FileNotFoundError: No such folder or file, or a part of it is missing.
        ValueError: The model is of another kind (SD 3, Flux, inpainting, ControlNet), or another ``arch`` or ``dtype``.
    """

    def __init__(
        self,
        pretrained: str | Path | DiffusionPipeline = 'tiny',
        arch: str | None = None,
        dtype: str | None = None,
        low_mem: bool = False,
        clip_skip: int = 0,
        config: str | None = None,
        lora: str | None = None,
        lora_scale: float = 1.0,
        textual_inversion: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f'dtype must be one of {tuple(DTYPES)}, got {dtype!r}')
        if arch is not None and arch not in SKELETONS:
            raise ValueError(f'arch must be one of {tuple(SKELETONS)}, got {arch!r}')
        self.low_mem, self.clip_skip, self.missing = low_mem, clip_skip, False
        if not isinstance(pretrained, (str, Path)):
            if lora or textual_inversion or config:
                raise ValueError('a pipeline comes with its LoRA, words and configs: load them there')
            check_pipeline(pretrained, arch)
            self._hold(pretrained)
            if dtype not in (None, self.dtype_name):
                raise ValueError(f'the pipeline is in {self.dtype_name}, not in {dtype}: leave dtype out')
            self._identify = functools.partial(identity_of_pipeline, pretrained)
            return
        self.folder = resolve(pretrained)
        self.missing = arch is not None and not self.folder.exists()
        if self.missing:
            with torch.device('meta'):
                self.unet = require('diffusers').UNet2DConditionModel(**SKELETONS[arch])
            return
        family = None if config is None else resolve(config)
        pipeline = open_pipeline(self.folder, DTYPES[dtype or 'fp32'], family, arch)
        words = [Path(path).expanduser() for path in textual_inversion]
        add_words(pipeline, words)
        places = [self.folder] if self.folder.is_file() else []
        places += [(family if places else self.folder) / part for part in ('model_index.json', *PARTS, *SECOND)]
        if lora:
            add_lora(pipeline, Path(lora).expanduser(), lora_scale)
            places.append(Path(lora).expanduser())
        self._identify = functools.partial(identity_of, [*places, *words], f'LoRA {lora_scale}' if lora else '')
        self._hold(pipeline)

    def _hold(self, pipeline: DiffusionPipeline) -> None:
        """Take the parts of a pipeline."""
        names = {dtype: name for name, dtype in DTYPES.items()}
        if pipeline.unet.dtype not in names:
            raise ValueError(f'the UNet is in {pipeline.unet.dtype}; it must be one of {tuple(DTYPES)}')
        if self.low_mem:
            return_freed_memory()
        self.compute_dtype, self.dtype_name = pipeline.unet.dtype, names[pipeline.unet.dtype]
        self.pipeline, self.tokenizer, self.unet = pipeline, pipeline.tokenizer, pipeline.unet
        self.text_encoders = nn.ModuleList(text_encoders(pipeline))
        # A pipeline in half precision goes on with its own autoencoder.
        self.vae = pipeline.vae if pipeline.vae.dtype == torch.float32 else copy.deepcopy(pipeline.vae).float()
        self.scheduler_config = dict(pipeline.scheduler.config)
        self.eval()

    @functools.cached_property
    def identity(self) -> str:
        """A hash of configs, weights and words, by which a cache tells models apart.

        Of a pipeline it is that of the first time it is asked for: after another LoRA, build the parts anew.
        """
        return self._identify()

    def _apply(self, *args, **kwargs) -> nn.Module:
        """Refuse to move a model whose weights are not there."""
        if self.missing:
            raise FileNotFoundError(
                f'no diffusers folder {self.folder}: name one that holds the weights (model.parts.pretrained in the '
                'config, --model on the command line)'
            )
        return super()._apply(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where the UNet is."""
        return next(self.unet.parameters()).device

    @property
    def factor(self) -> int:
        """Height and width of images must be multiples of this: downscaling of the autoencoder and the UNet."""
        return self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def vae_factor(self) -> int:
        """Pixels of an image a pixel of its latents, along a side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model was trained on."""
        size = self.unet.config.sample_size
        return (max(size) if isinstance(size, (tuple, list)) else size) * self.vae_factor

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Evaluation mode, no gradients for weights, with ``low_mem`` no activations kept; then all is as before."""
        with frozen(self), recomputed(self.unet) if self.low_mem else nullcontext():
            yield

    def fixed_latents(self) -> AbstractContextManager[None]:
        """For predictions that differ in their embeddings alone: what comes before the prompt is evaluated once.

        With ``low_mem`` it is not, as its results would have to be kept.
        """
        return nullcontext() if self.low_mem else evaluated_once(unprompted_modules(self.unet))

    @contextmanager
    def visiting(self, module: nn.Module) -> Iterator[torch.device]:
        """Have a module frozen and on the device of the UNet; with ``low_mem`` it goes to the CPU afterwards."""
        with ExitStack() as stack:
            # PyTorch's kernels for weights with and without gradients differ in the last bit.
            stack.enter_context(frozen(module))
            if self.low_mem:
                module.to(self.device)
                stack.callback(module.to, 'cpu')
            yield self.device

    @property
    def pooled(self) -> int:
        """Numbers of the pooled embedding of SDXL; 0 for models without."""
        return self.text_encoders[1].config.projection_dim if len(self.text_encoders) > 1 else 0

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers ``(B, L)``; what does not fit is cut off, with a warning."""
        length = self.tokenizer.model_max_length
        texts = self.pipeline.maybe_convert_prompt(list(prompts), self.tokenizer)
        for prompt, text in zip(prompts, texts, strict=True):
            if len(self.tokenizer(text).input_ids) > length:
                warnings.warn(
                    f'the model reads {length} tokens; the end of this prompt is cut: {prompt!r}', stacklevel=3
                )
        options = dict(padding='max_length', max_length=length, truncation=True, return_tensors='pt')
        return self.tokenizer(texts, **options).input_ids

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``(B, L, D)``, float32, as diffusers' pipeline encodes prompts."""
        prompts = list(prompts)
        self.tokenize(prompts)  # says what is cut
        options = dict(num_images_per_prompt=1, do_classifier_free_guidance=False, clip_skip=self.clip_skip or None)
        with ExitStack() as stack:
            devices = [stack.enter_context(self.visiting(encoder)) for encoder in self.text_encoders]
            embeds, _, *pooled = self.pipeline.encode_prompt(prompts, device=devices[0], **options)
        if not pooled:
            return embeds.float()
        row = F.pad(pooled[0], (0, embeds.shape[-1] - self.pooled)).unsqueeze(1)
        rows = torch.cat([embeds, row], dim=1).float()
        if self.pipeline.config.force_zeros_for_empty_prompt:
            rows[[prompt == '' for prompt in prompts]] = 0  # as SDXL was trained
        return rows

    def content_mask(self, prompts: Sequence[str]) -> Tensor:
        """``(B, L, 1)``, true up to the first end-of-text token of each prompt, and for a pooled embedding."""
        ends = self.tokenize(prompts) == self.tokenizer.eos_token_id
        # Padding is often the same token: what lies behind the first of them has one before it.
        content = ends.long().cumsum(1) - ends.long() == 0
        return F.pad(content, (0, 1 if self.pooled else 0), value=True).unsqueeze(-1).to(self.device)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [-1, 1] to latents ``(B, C, H/f, W/f)``, float32: the mode of the posterior.

        Raises:
            ValueError: The sides are no multiples of ``factor``.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f'images must be (B, 3, H, W), got {tuple(images.shape)}')
        if any(side % self.factor for side in images.shape[2:]):
            raise ValueError(f'sides must be multiples of {self.factor}, got {tuple(images.shape[2:])}')
        with self.visiting(self.vae) as device:
            latents = self.vae.encode(images.to(device).float()).latent_dist.mode() * self.vae.config.scaling_factor
            return latents.contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents ``(B, C, H/f, W/f)`` to images ``(B, 3, H, W)`` in [-1, 1], float32."""
        with self.visiting(self.vae) as device:
            return self.vae.decode(latents.to(device).float() / self.vae.config.scaling_factor).sample.clamp(-1, 1)

    def predict(self, latents: Tensor, timestep: Tensor, embeds: Tensor) -> Tensor:
        """Output of the UNet, float32, for latents ``(B, C, H/f, W/f)`` and embeddings ``(B, L, D)``."""
        dtype, added = self.compute_dtype, None
        if self.pooled:
            embeds, pooled = embeds[:, :-1], embeds[:, -1, : self.pooled]
            height, width = (side * self.vae_factor for side in latents.shape[2:])
            # Size of the image, where it was cut out, size of the result; filled on the device, without a wait.
            sizes = [latents.new_full((len(latents),), value) for value in (height, width, 0, 0, height, width)]
            added = dict(text_embeds=pooled.to(dtype), time_ids=torch.stack(sizes, dim=1).to(dtype))
        inputs = dict(encoder_hidden_states=embeds.to(dtype), added_cond_kwargs=added)
        return self.unet(latents.to(dtype), timestep, **inputs).sample.float()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for the weights of a network; both are put back as they were."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        network.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
