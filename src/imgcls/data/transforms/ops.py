"""Changes of geometry and color, with a separate strength for each image of a batch.

Images are (B, H, W, C) uint8, strengths (B,) float. torchvision's functions of the same names take one strength for the
whole batch; for equal strengths the pixels are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

SMALL = 64  # pixels per side: larger images are photos
GRAY = (0.2989, 0.587, 0.114)  # the weights of red, green and blue: ITU-R 601-2
SMOOTH = ((1.0, 1.0, 1.0), (1.0, 5.0, 1.0), (1.0, 1.0, 1.0))  # Pillow's filter, times 13
Change = Callable[[Tensor, Tensor], Tensor]


def where(chosen: Tensor, images: Tensor, strengths: Tensor, change: Change) -> Tensor:
    """The images with the chosen ones changed; on a CPU in place, and only those are computed."""
    if images.device.type == "cpu":
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            images[rows] = change(images[rows], strengths[rows])
        return images
    return torch.where(chosen[:, None, None, None], change(images, strengths), images)  # nonzero would synchronize


# --- geometry --------------------------------------------------------------------------------------------------------


def affine(images: Tensor, matrices: Tensor, reflects: bool = False) -> Tensor:
    """Each pixel from the position that its image's matrix yields; matrices: (B, 2, 3).

    A matrix maps (x, y, 1) of the result to (x, y) of the source, in pixels from the image's center. Photos are
    interpolated, of small images the nearest pixel is taken. Beyond the edges it is black, or reflects the image.
    """
    batch, height, width, _ = images.shape
    grid = F.affine_grid(
        matrices * _to_unit(height, width, matrices.device), [batch, 1, height, width], align_corners=False
    )
    mode = "bilinear" if max(height, width) > SMALL else "nearest"
    beyond = "reflection" if reflects else "zeros"
    planes = images.permute(0, 3, 1, 2).float()
    moved = F.grid_sample(planes, grid, mode=mode, padding_mode=beyond, align_corners=False)
    return moved.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@lru_cache(maxsize=8)
def _to_unit(height: int, width: int, device: torch.device) -> Tensor:
    """(2, 3): the factors that turn a matrix in pixels into one for coordinates from -1 to 1."""
    return torch.tensor([[1.0, height / width, 2 / width], [width / height, 1.0, 2 / height]], device=device)


@lru_cache(maxsize=8)
def _smoothing(channels: int, device: torch.device) -> Tensor:
    return (torch.tensor(SMOOTH, device=device) / 13).expand(channels, 1, 3, 3)


def _matrices(images: Tensor, a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    return torch.stack([a, b, x, c, d, y], 1).view(-1, 2, 3)


def rotate(images: Tensor, degrees: Tensor, reflects: bool = False) -> Tensor:
    """Rotate counter-clockwise about the center."""
    cos, sin, none = degrees.deg2rad().cos(), degrees.deg2rad().sin(), torch.zeros_like(degrees)
    return affine(images, _matrices(images, cos, -sin, none, sin, cos, none), reflects)


def shear_x(images: Tensor, slope: Tensor, reflects: bool = False) -> Tensor:
    """Move each row left by the slope times its distance from the top."""
    one, none = torch.ones_like(slope), torch.zeros_like(slope)
    return affine(images, _matrices(images, one, slope, slope * (images.shape[1] / 2), none, one, none), reflects)


def shear_y(images: Tensor, slope: Tensor, reflects: bool = False) -> Tensor:
    """Move each column up by the slope times its distance from the left."""
    one, none = torch.ones_like(slope), torch.zeros_like(slope)
    return affine(images, _matrices(images, one, none, none, slope, one, slope * (images.shape[2] / 2)), reflects)


def translate_x(images: Tensor, share: Tensor, reflects: bool = False) -> Tensor:
    """Move right by that fraction of the width, in whole pixels."""
    one, none = torch.ones_like(share), torch.zeros_like(share)
    return affine(images, _matrices(images, one, none, -(share * images.shape[2]).trunc(), none, one, none), reflects)


def translate_y(images: Tensor, share: Tensor, reflects: bool = False) -> Tensor:
    """Move down by that fraction of the height, in whole pixels."""
    one, none = torch.ones_like(share), torch.zeros_like(share)
    return affine(images, _matrices(images, one, none, none, none, one, -(share * images.shape[1]).trunc()), reflects)


# --- color ------------------------------------------------------------------------------------------------------------


def _blend(images: Tensor, others: Tensor | float, factors: Tensor) -> Tensor:
    """factor x image + (1 - factor) x other, clamped to 0 to 255."""
    factors = factors.view(-1, 1, 1, 1)
    return (images.float() * factors + others * (1 - factors)).clamp_(0, 255).to(torch.uint8)


def _gray(images: Tensor) -> Tensor:
    """(B, H, W, 1) float, whole numbers."""
    if images.shape[3] != 3:
        return images.float().mean(3, keepdim=True)
    red, green, blue = images.float().unbind(3)
    return (red * GRAY[0] + green * GRAY[1] + blue * GRAY[2]).floor()[..., None]


def brightness(images: Tensor, change: Tensor) -> Tensor:
    """1 + change times as bright."""
    return _blend(images, 0.0, 1 + change)


def contrast(images: Tensor, change: Tensor) -> Tensor:
    """1 + change times as far from the image's mean gray."""
    return _blend(images, _gray(images).mean((1, 2, 3), keepdim=True), 1 + change)


def saturation(images: Tensor, change: Tensor) -> Tensor:
    """1 + change times as far from its own gray; gray images stay as they are."""
    return images if images.shape[3] != 3 else _blend(images, _gray(images), 1 + change)


def sharpness(images: Tensor, change: Tensor) -> Tensor:
    """1 + change times as far from the smoothed image; the outermost pixels stay as they are."""
    _, height, width, channels = images.shape
    if min(height, width) < 3:
        return images
    kernel = _smoothing(channels, images.device)
    smooth = images.float()
    inner = F.conv2d(smooth.permute(0, 3, 1, 2), kernel, groups=channels).round()
    smooth[:, 1:-1, 1:-1] = inner.permute(0, 2, 3, 1)
    return _blend(images, smooth, 1 + change)


def posterize(images: Tensor, lost: Tensor) -> Tensor:
    """Set that many (rounded) of the low bits of each value to 0."""
    steps = (2 ** lost.round()).to(torch.int16).view(-1, 1, 1, 1)
    return (images.to(torch.int16) // steps * steps).to(torch.uint8)


def solarize(images: Tensor, share: Tensor) -> Tensor:
    """Invert the values in the upper ``share`` of the range."""
    threshold = 255 * (1 - share)
    return torch.where(images >= threshold.view(-1, 1, 1, 1), 255 - images, images)


def autocontrast(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to 0 to 255."""
    from torchvision.transforms.v2.functional import autocontrast_image

    stretched: Tensor = autocontrast_image(images.permute(0, 3, 1, 2)) if images.shape[3] in (1, 3) else images
    return stretched.permute(0, 2, 3, 1) if images.shape[3] in (1, 3) else images


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Flatten the histogram of each channel."""
    from torchvision.transforms.v2.functional import equalize_image

    return equalize_image(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def jitter(images: Tensor, draws: Tensor, *, change: Change, most: float) -> Tensor:
    """Change each image by a strength between -most and most; draws: (B, 1)."""
    return change(images, (2 * draws[:, 0] - 1) * most)


def random_affine(
    images: Tensor, draws: Tensor, *, degrees: float, shift: float, scale: float, reflects: bool = False
) -> Tensor:
    """Rotate by up to ``degrees``, translate by up to a fraction of a side, scale up or down by one; draws: (B, 4)."""
    turn, right, down, grow = (2 * draws - 1).unbind(1)
    angle, factor = (turn * degrees).deg2rad(), 1 / (1 + grow * scale)
    cos, sin = angle.cos() * factor, angle.sin() * factor
    x, y = -right * shift * images.shape[2], -down * shift * images.shape[1]
    return affine(images, _matrices(images, cos, -sin, cos * x - sin * y, sin, cos, sin * x + cos * y), reflects)


def erase(images: Tensor, draws: Tensor, *, p: float) -> Tensor:
    """With probability p fill a rectangle of 2 to 33 % of the image with its mean color; draws: (B, 5).

    Zhong et al. 2017, https://arxiv.org/abs/1708.04896
    """
    chosen, area, ratio, top, left = draws.unbind(1)
    _, height, width, _ = images.shape
    area = (0.02 + 0.31 * area) * height * width
    ratio = torch.exp((2 * ratio - 1) * math.log(3.3))
    tall, wide = (area * ratio).sqrt().clamp_max(height).round(), (area / ratio).sqrt().clamp_max(width).round()
    first_row, first_column = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside_rows = (rows >= first_row[:, None]) & (rows < (first_row + tall)[:, None])
    inside_columns = (columns >= first_column[:, None]) & (columns < (first_column + wide)[:, None])
    inside = (inside_rows[:, :, None] & inside_columns[:, None]) & (chosen < p)[:, None, None]
    mean = images.float().mean((1, 2), keepdim=True).round().to(torch.uint8)
    return torch.where(inside[..., None], mean, images)
