"""Muon: momentum with orthogonalized updates.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Unlike torch.optim.Muon it takes convolutions, and needs
no second optimizer for the other parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of the quintic iteration, from the post
ITERATIONS = 5
Groups = list[dict[str, Any]]


class Muon(torch.optim.AdamW):
    """AdamW, except that Muon updates the groups with ``is_matrix``, whose parameters have two dimensions or more."""

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
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step(parameter, group)

    def _step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
            state["step"] = torch.zeros(())  # AdamW expects it in every state that it loads
        average = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
        matrix = direction.reshape(len(direction), -1)
        scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonal(matrix).view_as(direction), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """(R, C) -> (R, C): the matrix with all singular values near 1, by five Newton-Schulz iterations."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T
