"""Near duplicates: the same picture saved again, resized, made brighter or cropped a little.

A hash of 64 bits finds candidates. It alone would call one of seven MNIST digits a duplicate, so small pictures are
compared: one has to be the other, moved and stretched by at most 5 %, in another light, and somewhat sharper or
blurred. What is left over is measured where it is largest, since two pictures of one kind differ in one place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgcls import seeding
from imgcls.data.inspection.pictures import SIDE, Small
from imgcls.data.source import Indices

ORDERS, WINDOW = 16, 8  # sorts of the hashes by differently ordered bits; neighbors compared in each
FARTHEST = 18  # bits that two hashes may differ in
LIKE = 0.9  # least correlation of two candidates in 8 x 8 pixels
CANDIDATES = 2  # compared closely, for each picture; the likeliest
MOVED = 0.055  # of the smaller variance: the most that may be left over where it is largest, of moved pictures
RELIT = 0.08  # the same of pictures in another light only, compared in color
FARTHEST_MOVE = 1.7  # of 32 pixels
LIGHT = (0.4, 2.5)  # factor of brightness or contrast
TINT = 20.0  # of 255: how much the colors may differ
DETAIL = 0.3  # of the variance within a block: the most that may be left over, in most blocks
FAINT = 1.0  # variance within a block below which there is no detail
FLAT = 4.0  # variance below which there is nothing to compare
CHUNK = 512  # pairs compared at once
FULL = 250  # brighter values may be cut off at white

Floats = NDArray[np.float32]
Bits = NDArray[np.bool_]


def near_pairs(gray: Small, color: Small) -> Indices:
    """(K, 2): rows of pictures that are nearly the same. gray: (N, 32, 32), color: (N, 16, 16, 3).

    Time and memory grow with N, not with its square: of very many pictures of one hash some pairs may be missed.
    """
    rows = np.flatnonzero(gray.reshape(-1, SIDE * SIDE).var(axis=1) > FLAT)
    if len(rows) < 2:
        return np.empty((0, 2), np.int64)
    pairs = rows[_likely(gray[rows], _candidates(hashes(gray[rows])))]
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    found = [chunk[_is_same(gray, color, *chunk.T)] for chunk in chunks]
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def hashes(gray: Small) -> Bits:
    """(N, 64): signs of the low frequencies of a cosine transform around their median, as in pHash."""
    places = np.arange(SIDE) + 0.5
    waves = np.cos(np.pi / SIDE * np.outer(np.arange(9), places)).astype(np.float32)
    low = np.empty((len(gray), 64), np.float32)
    for start in range(0, len(gray), CHUNK):
        found = waves @ gray[start : start + CHUNK].astype(np.float32) @ waves.T
        low[start : start + CHUNK] = found[:, :8, :8].reshape(-1, 64)
        low[start : start + CHUNK, 0] = found[:, 8, 0]  # in place of the mean
    bits: Bits = low > np.median(low, axis=1, keepdims=True)
    return bits


def _candidates(bits: Bits) -> Indices:
    """(K, 2) pairs of rows whose hashes differ in few bits: neighbors in one of several orders."""
    numbers, count = _as_number(bits), len(bits)
    draws = seeding.rng(0, "near duplicates")
    found = [np.empty(0, np.int64)]
    for _ in range(ORDERS):
        order = np.argsort(_as_number(bits[:, draws.permutation(64)]), kind="stable")
        for step in range(1, min(WINDOW, count - 1) + 1):
            one, other = order[:-step], order[step:]
            close = np.bitwise_count(numbers[one] ^ numbers[other]) <= FARTHEST
            one, other = one[close], other[close]
            found.append(np.minimum(one, other) * count + np.maximum(one, other))
        found = [np.unique(np.concatenate(found))]
    return np.stack(np.divmod(found[0], count), axis=1)


def _as_number(bits: Bits) -> NDArray[np.uint64]:
    """(N,): the first bit counts most."""
    packed: NDArray[np.uint64] = np.ascontiguousarray(np.packbits(bits, axis=1)).view(">u8")[:, 0].astype(np.uint64)
    return packed


def _likely(gray: Small, pairs: Indices) -> Indices:
    """The pairs that are alike in 8 x 8 pixels, the most alike first."""
    tiny = gray.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4), dtype=np.float32).reshape(-1, 64)
    tiny -= tiny.mean(axis=1, keepdims=True)
    tiny /= np.linalg.norm(tiny, axis=1, keepdims=True) + 1e-6
    likeness = np.concatenate(
        [np.empty(0, np.float32)]
        + [
            np.einsum("ij,ij->i", *(tiny[rows] for rows in pairs[start : start + (1 << 16)].T))
            for start in range(0, len(pairs), 1 << 16)
        ]
    )
    best = np.argsort(-likeness, kind="stable")[: CANDIDATES * len(gray)]
    chosen: Indices = pairs[best[likeness[best] > LIKE]]
    return chosen


def _is_same(gray: Small, color: Small, one: Indices, other: Indices) -> Bits:
    """Whether the pictures of each pair are nearly the same."""
    tint = _tint(color[one], color[other])
    same: Bits = (_is_moved(gray[one], gray[other]) & (tint < TINT)) | _is_relit(color[one], color[other])
    return same


def _is_moved(one: Small, other: Small) -> Bits:
    """Whether one is the other moved, stretched, relit and blurred a little: a regression on its derivatives."""
    a, b = _blurred(one.astype(np.float32)), _blurred(other.astype(np.float32))
    down, right = ((np.gradient(a, axis=axis) + np.gradient(b, axis=axis)) / 2 for axis in (1, 2))
    place = np.linspace(-1, 1, SIDE, dtype=np.float32)
    terms = [a, np.full_like(a, 128), right, down, right * place, down * place[:, None], _blurred(a) - a]
    inner = slice(1, -1)  # gradients at the border are half as exact
    known = np.stack(terms, axis=-1)[:, inner, inner].reshape(len(a), -1, len(terms))
    wanted = b[:, inner, inner].reshape(len(a), -1)
    turned = known.transpose(0, 2, 1)
    ridge = 10 * np.eye(len(terms), dtype=np.float32)
    weights = np.linalg.solve(turned @ known + ridge, turned @ wanted[..., None])
    left = (wanted - (known @ weights)[..., 0].clip(0, 255)) ** 2
    over = _blocks(left, 6).mean(axis=2)
    detail = _blocks(wanted, 6).var(axis=2)
    light, _, *moves, _ = np.abs(weights[..., 0]).T
    far = np.maximum(moves[0] + moves[2], moves[1] + moves[3])
    least = np.minimum(wanted.var(axis=1), known[..., 0].var(axis=1)) + 1
    same: Bits = (over.max(axis=1) < MOVED * least) & (far < FARTHEST_MOVE) & _explains(over, detail)
    same &= (weights[:, 0, 0] > 0) & (LIGHT[0] < light) & (light < LIGHT[1])
    return same


def _is_relit(one: Small, other: Small) -> Bits:
    """Whether the brighter is the darker times a factor, cut off at white."""
    a, b, factor = _darker_first(one, other)
    left = ((b - np.minimum(255, a * factor)) ** 2).mean(axis=2)
    over = _blocks(left, 4).mean(axis=2)
    detail = sum(_blocks(a[..., i] * factor[:, 0], 4).var(axis=2) for i in range(3)) / 3
    least = np.minimum(a.var(axis=1).mean(axis=1), b.var(axis=1).mean(axis=1)) + 1
    same: Bits = (over.max(axis=1) < RELIT * least) & (factor[:, 0, 0] < LIGHT[1]) & _explains(over, detail)
    return same


def _blocks(values: Floats, side: int) -> Floats:
    """(K, P) pixels of square pictures -> (K, side * side, pixels of a block)."""
    length = round(values.shape[1] ** 0.5) // side
    cut = values.reshape(-1, side, length, side, length).swapaxes(2, 3)
    return cut.reshape(len(values), side * side, length * length)


def _explains(over: Floats, detail: Floats) -> Bits:
    """Whether what is left over is less than what was there, in most blocks with detail: not only the outline."""
    has_detail = detail > FAINT
    share = (has_detail & (over < DETAIL * detail)).sum(axis=1) / np.maximum(1, has_detail.sum(axis=1))
    same: Bits = share > 0.5
    return same


def _tint(one: Small, other: Small) -> Floats:
    """How much the colors of the pictures of each pair differ, seen coarsely and in the same light."""
    a, b, factor = _darker_first(one, other)
    left = (b - np.minimum(255, a * factor)).reshape(-1, 4, 4, 4, 4, 3).mean(axis=(2, 4))
    left -= left.mean(axis=3, keepdims=True)
    rms: Floats = np.sqrt((left**2).mean(axis=(1, 2, 3)))
    return rms


def _darker_first(one: Small, other: Small) -> tuple[Floats, Floats, Floats]:
    """(darker, brighter, factor) of each pair as (K, 256, 3), the factor as (K, 1, 1), from what is not white."""
    a, b = (part.reshape(len(part), -1, 3).astype(np.float32) for part in (one, other))
    free = (a < FULL) & (b < FULL)
    factor = ((a * b * free).sum(axis=(1, 2)) + 1) / ((a * a * free).sum(axis=(1, 2)) + 1)
    factor = np.where(free.mean(axis=(1, 2)) < 0.1, 1, factor)[:, None, None].astype(np.float32)
    swaps = factor < 1
    return np.where(swaps, b, a), np.where(swaps, a, b), np.where(swaps, 1 / np.maximum(factor, 0.1), factor)


def _blurred(images: Floats) -> Floats:
    """Each with the weights 1, 2, 1 in both directions."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    blurred: Floats = (down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]) / 16
    return blurred
