"""Adversarial attacks: changes to images, within a small ball, that raise the model's loss.

ATTACKS: name -> function (*, parameters) -> Attack. Sizes are for pixels from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from imgcls.config.types import NonNegative, Positive, Range
from imgcls.losses import Loss

GRAY_EPS, COLOR_EPS = 0.3, 8 / 255  # Madry et al.'s for MNIST and CIFAR-10
L2_EPS = 0.5  # for 32x32 RGB images; scales with the square root of the number of values
TINY = 1e-12
ROUNDING = 1e-5  # of eps: a margin, so that rounding never leaves the ball


@dataclass(frozen=True)
class Attack:
    """Projected gradient ascent on the loss, from a random start: Madry et al. 2018, https://arxiv.org/abs/1706.06083

    norm: linf (each value changes by at most eps) or l2 (the image moves by a Euclidean distance of at most eps). eps,
    step_size: for pixels from 0 to 1; None chooses by the images. is_random: start at a random point of the
    ball. One step is FGSM, Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572.
    """

    name: str
    norm: Literal["linf", "l2"]
    eps: float | None
    steps: int
    step_size: float | None
    is_random: bool

    def radius(self, channels: int, height: int, width: int) -> float:
        """eps, or the usual one for such images if it is null."""
        if self.eps is not None:
            return self.eps
        if self.norm == "l2":
            return L2_EPS * math.sqrt(channels * height * width / 3072)
        return GRAY_EPS if channels == 1 else COLOR_EPS

    def stride(self, radius: float) -> float:
        """The step size; null is enough to cross the ball: 1.25 eps for one step, else 2.5 eps / steps."""
        if self.step_size is not None:
            return self.step_size
        return radius * (1.25 if self.is_random else 1.0) if self.steps == 1 else 2.5 * radius / self.steps

    def words(self, channels: int, height: int, width: int) -> str:
        """'pgd linf, eps 0.3, 7 steps of 0.107', for the summary of a run."""
        eps = self.radius(channels, height, width)
        count = f"{self.steps} step{'s' * (self.steps > 1)}"
        return f"{self.name} {self.norm}, eps {eps:.3g}, {count} of {self.stride(eps):.3g}"

    def __call__(
        self,
        module: nn.Module,
        images: Tensor,
        targets: Tensor,
        loss: Loss,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
    ) -> Tensor:
        """(B, C, H, W) images normalized by mean and std, and their targets -> the attacked images, detached.

        The module is in evaluation mode meanwhile (no dropout, no new statistics) and is left as it was; its
        parameters get no gradients. seed: of the random start.
        """
        center, scale = _on_device(mean, images.device), _on_device(std, images.device)
        clean = images.detach().float() * scale + center  # 0 to 1
        radius = self.radius(*images.shape[1:])
        stride = self.stride(radius)
        change = self._start(clean, radius, seed)
        training = [one for one in module.modules() if one.training]
        module.eval()
        try:
            for _ in range(self.steps):
                change = change.requires_grad_()
                with torch.enable_grad():
                    value = loss(module(((clean + change) - center) / scale).float(), targets).sum()
                slope = torch.autograd.grad(value, change)[0].nan_to_num(0.0)
                change = self._project(clean, change.detach() + stride * self._direction(slope), radius)
        finally:
            for one in training:
                one.training = True
        return ((clean + change) - center) / scale

    def _start(self, clean: Tensor, radius: float, seed: int) -> Tensor:
        if not self.is_random:
            return torch.zeros_like(clean)
        generator = torch.Generator(clean.device).manual_seed(seed)
        draws = torch.empty_like(clean).uniform_(-1, 1, generator=generator)
        if self.norm == "l2":
            distance = torch.rand(len(draws), generator=generator, device=clean.device)
            draws = draws / _length(draws) * distance.view(-1, 1, 1, 1)
        return self._project(clean, draws * radius, radius)

    def _direction(self, slope: Tensor) -> Tensor:
        return slope.sign() if self.norm == "linf" else slope / _length(slope)

    def _project(self, clean: Tensor, change: Tensor, radius: float) -> Tensor:
        """The nearest change within the ball that keeps all values between 0 and 1."""
        radius *= 1 - ROUNDING
        if self.norm == "linf":
            change = change.clamp(-radius, radius)
        else:
            change = change * (radius / _length(change)).clamp_max(1.0)
        return (clean + change).clamp(0, 1) - clean  # towards 0, so it stays in the ball


@lru_cache(maxsize=8)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """(1, C, 1, 1)"""
    return torch.tensor(numbers, device=device).view(1, -1, 1, 1)


def _length(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, 1, 1): the Euclidean norm, never 0."""
    lengths: Tensor = torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)
    return lengths.clamp_min(TINY)


def _check(eps: float | None, norm: str) -> None:
    if eps is not None and eps > 1 and norm == "linf":
        raise ValueError(f"eps {eps:g} is more than the range of a pixel, 0 to 1; for 8 of 255 use attack.eps=8/255")


def none() -> None:
    """No attack."""
    return


def pgd(
    *,
    eps: NonNegative | None,
    norm: Literal["linf", "l2"],
    steps: Annotated[int, Range(low=1, high=1000)],
    step_size: Positive | None,
    random_start: bool,
) -> Attack:
    """Projected gradient descent, several steps: Madry et al. 2018."""
    _check(eps, norm)
    return Attack("pgd", norm, eps, steps, step_size, random_start)


def fgsm(
    *, eps: NonNegative | None, norm: Literal["linf", "l2"], step_size: Positive | None, random_start: bool
) -> Attack:
    """One step, from a random start so that training does not fail: Wong et al. 2020, https://arxiv.org/abs/2001.03994"""
    _check(eps, norm)
    return Attack("fgsm", norm, eps, 1, step_size, random_start)


ATTACKS: dict[str, Callable[..., Any]] = {"none": none, "fgsm": fgsm, "pgd": pgd}
