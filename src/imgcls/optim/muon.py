"""Muon: momentum with orthogonalized updates.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Unlike torch.optim.Muon it takes convolutions, and needs
no second optimizer for the other parameters. On a GPU it reads no number back and can be part of a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration, from the post
ITERATIONS = 5
Groups = list[dict[str, Any]]


class Muon(torch.optim.AdamW):
    """AdamW, except that Muon updates the groups with ``is_matrix``, whose parameters have two dimensions or more.

    The learning rate of a group is a float, or a tensor of no dimensions on the device of its parameters.
    """

    def __init__(self, groups: Groups, **defaults: Any) -> None:
        super().__init__(groups, **defaults)
        self._step_supports_amp_scaling = False  # AdamW's fused kernel unscales fp16 gradients itself, Muon does not

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["is_matrix"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["is_matrix"]:
                self._step([parameter for parameter in group["params"] if parameter.grad is not None], group)

    def _step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        directions = [self._direction(parameter, group) for parameter in parameters]
        for parameter, update in zip(parameters, _orthogonal_all(directions), strict=True):
            scale = max(1.0, len(update) ** 2 / update.numel()) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if isinstance(group["lr"], Tensor):  # as a number it would be read from the device
                parameter.addcmul_(update, -group["lr"] * scale)
            else:
                parameter.add_(update, alpha=-group["lr"] * scale)

    def _direction(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        """The gradient, averaged over the steps."""
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW expects it in every state that it loads
        average: Tensor = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(average, group["momentum"]) if group["nesterov"] else average


def _orthogonal_all(directions: list[Tensor]) -> list[Tensor]:
    """Each as an orthogonal matrix, in its own shape; on a GPU those of one shape together, in bf16."""
    if not directions or directions[0].device.type != "cuda":
        return [orthogonal(one.reshape(len(one), -1)).view_as(one) for one in directions]
    of_shape: dict[torch.Size, list[int]] = {}
    for i, one in enumerate(directions):
        of_shape.setdefault(one.shape, []).append(i)
    found: dict[int, Tensor] = {}
    for shape, places in of_shape.items():
        stacked = orthogonal_batch(torch.stack([directions[i] for i in places]).flatten(2))
        found |= zip(places, stacked.reshape(-1, *shape).unbind(), strict=True)
    return [found[i] for i in range(len(directions))]


def orthogonal(matrix: Tensor) -> Tensor:
    """(R, C) -> (R, C): the matrix with all singular values near 1, by five Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def orthogonal_batch(matrices: Tensor) -> Tensor:
    """(N, R, C) -> (N, R, C) bf16: ``orthogonal`` of each, in the few large kernels that suit a GPU."""
    a, b, c = NEWTON_SCHULZ
    is_wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if is_wide else matrices.mT
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)).bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if is_wide else x.mT
