"""Attacks in the max norm on the query images of all tasks at once.

Shapes: ``T`` tasks, ``n`` images of a task, ``C, H, W`` an image in [0, 1], ``N`` ways.

FGSM with a random start: Wong et al., ICLR 2020; PGD: Madry et al., ICLR 2018. R-MAML attacks all queries of a task
jointly (its batch norm couples them), and so do these.

Both follow R-MAML's code (github.com/wangren09/MetaAdv; MIT), which has two. The one step of training clips ``x + δ₀``
to [0, 1] inside the graph, so a pixel that the start pushes out of the image has no gradient and stays at the edge. The
PGD of the test takes its first gradient where the start is, in the image or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from mmpretrain.registry import TASK_UTILS
from torch import Tensor

LogitsFn = Callable[[Tensor], Tensor]


def unit_noise(seeds: Sequence[int] | Tensor, shape: Sequence[int]) -> Tensor:
    """Return noise in [-1, 1], ``(T, *shape)``: that of a task depends on its seed alone.

    Neither the order of the tasks, nor how they are spread over processes, nor a resume changes it, and no other
    generator is touched. Drawn on the CPU, so that devices agree.
    """
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    return torch.stack([torch.rand(*shape, generator=generator) for generator in generators]).mul_(2).sub_(1)


def task_kl(clean: Tensor, attacked: Tensor) -> Tensor:
    """``KL(softmax(clean) || softmax(attacked))``: sum over classes, mean over images; ``(T, n, N)`` to ``(T,)``."""
    kl = F.kl_div(attacked.log_softmax(-1), clean.log_softmax(-1), reduction='none', log_target=True)
    return kl.sum(-1).mean(-1)


@TASK_UTILS.register_module()
class LinfAttack:
    """FGSM with random start (``steps=1``) or PGD, ``‖δ‖∞ ≤ eps`` and ``x + δ`` in [0, 1].

    In black-and-white drawings the random start pushes half of the pixels out of [0, 1]; one step leaves those as they
    are, as R-MAML's training does.

    Args:
        eps: Largest change of a pixel; images are in [0, 1], so write ``8 / 255``.
        steps: Gradient steps.
        step_size: Of a step; default ``1.25 * eps`` for one step (Wong et al.; R-MAML's code), else ``eps / 4``, which
            is 2/255 for 8/255.
        random_start: Start uniformly in the ball.
        objective: ``ce``: maximize cross-entropy; ``kl``: the divergence from the clean prediction (TRADES).

    Raises:
        ValueError: ``eps`` is not in [0, 1] (given in 0-255?), no steps, an unknown objective, or ``kl`` without a
            random start: at ``δ = 0`` its gradient is zero.
    """

    def __init__(
        self,
        eps: float,
        steps: int = 1,
        step_size: float | None = None,
        random_start: bool = True,
        objective: str = 'ce',
    ) -> None:
        if not 0 <= eps <= 1:
            raise ValueError(f'eps must be in [0, 1], the range of the images, got {eps}: write 8 / 255, not 8')
        if steps < 1:
            raise ValueError(f'an attack needs at least one step, got {steps}')
        if objective not in ('ce', 'kl'):
            raise ValueError(f"objective must be 'ce' or 'kl', got {objective!r}")
        if objective == 'kl' and not random_start:
            raise ValueError("objective 'kl' needs random_start: its gradient is zero at the clean image")
        self.eps, self.steps, self.random_start, self.objective = eps, steps, random_start, objective
        self.step_size = step_size if step_size is not None else (1.25 * eps if steps == 1 else eps / 4)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(eps={self.eps:.4g}, steps={self.steps}, step_size={self.step_size:.4g})'

    def __call__(self, logits_fn: LogitsFn, images: Tensor, labels: Tensor, seeds: Sequence[int] | Tensor) -> Tensor:
        """Attack the images of each task.

        Args:
            logits_fn: Images to logits ``(T, n, N)``; weights that need no gradient.
            images: ``(T, n, C, H, W)`` in [0, 1].
            labels: ``(T, n)``.
            seeds: ``(T,)``, of the random starts.

        Returns:
            ``(T, n, C, H, W)``, without a graph.
        """
        images = images.detach()
        if self.eps == 0:
            return images
        low, high = (images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1)
        attacked = images
        if self.random_start:
            noise = unit_noise(seeds, images.shape[1:]).to(images)
            attacked = images + self.eps * noise
        clean = None
        if self.objective == 'kl':
            with torch.no_grad():
                clean = logits_fn(images)
        for _ in range(self.steps):
            with torch.enable_grad():
                attacked = attacked.detach().requires_grad_()
                seen = attacked.clamp(0, 1) if self.steps == 1 else attacked
                gain = self.gain(logits_fn(seen), labels, clean)
                (grad,) = torch.autograd.grad(gain.sum(), attacked)
            attacked = torch.clamp(attacked.detach() + self.step_size * grad.sign(), low, high)
        return attacked

    def gain(self, logits: Tensor, labels: Tensor, clean: Tensor | None) -> Tensor:
        """Return what the attack maximizes, summed over images: ``(T, n, N)`` to a scalar."""
        if self.objective == 'kl':
            return task_kl(clean, logits)
        return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction='sum')
