"""Which pictures of a dataset look alike: found without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl

ALIKE = 30
"""Views whose perceptual hashes differ in at most so many of their 256 bits may be of pictures that look alike.

Of 1,000 placeholder pictures of different prompts, which share their layout, the two nearest are 38 bits apart (128 and
256 px). A picture encoded anew (JPEG of quality 30), at half its size or a tenth brighter is at most 16 bits from
itself; one that lacks 2 % at each side 12 bits at 256 px, and at 128 px 30 bits in 95 of 100 cases.
"""

SAME_COLOURS = 4.0
"""And they are, where their mean colours differ by no more than this: root mean square, of 256 levels at one
brightness.

The same changes come to 3.4 at most; the same scene in other colours is not alike."""

_HASH = 32
"""Bytes of a hash."""
_BANDS, _BAND_BITS = 4, 16
_COARSE = 7
"""Views that are alike differ in at most so many of their first 64 bits; so one of four bands of 16 bits has at most
one bit that is another."""
_CROWD, _NEIGHBOURS = 300, 16
"""Where more views than this share a band, each is compared with the next few in the order of their bits alone."""

Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Colours = npt.NDArray[np.uint8]


def alike_pictures(scores: pl.DataFrame) -> pl.Series:
    """For each picture the place of the first one of its group (Int64); null for one without a hash.

    scores: `phash` and `signature` as of `imagetask.quality.measures`.
    """
    own = scores["phash"].is_not_null().arg_true()
    hashed = np.frombuffer(bytes.fromhex("".join(scores["phash"].drop_nulls())), np.uint8).reshape(-1, 1, _HASH)
    signed = np.frombuffer(bytes.fromhex("".join(scores["signature"].drop_nulls())), np.uint8).reshape(len(own), -1)
    hashes = np.concatenate([hashed, signed[:, None, :_HASH]], axis=1)
    first = first_alike(hashes.view(np.uint64), signed[:, _HASH:].reshape(len(own), 2, -1))
    return pl.repeat(None, scores.height, dtype=pl.Int64, eager=True).scatter(own, own.gather(first).cast(pl.Int64))


def first_alike(hashes: Words, colours: Colours) -> Numbers:
    """For each picture the place of the first one in its group.

    Two are in one group where a view of the one is alike a view of the other, or where others lead from one to the
    other. hashes: pictures × views × 4 words. colours: pictures × views × values. Time grows as pictures, times how
    many share a band with one: a million pictures of two views take 3 minutes of CPU and 500 MB; 50,000 that only their
    colours tell apart take 2 (`benchmarks/quality.py`).
    """
    pictures, views = hashes.shape[:2]
    words, colours = hashes.reshape(pictures * views, -1), colours.reshape(pictures * views, -1)
    label = np.arange(pictures)
    for left, right in _near(np.ascontiguousarray(words[:, 0])):
        apart = label[left // views] != label[right // views]
        left, right = left[apart], right[apart]
        alike = np.bitwise_count(words[left] ^ words[right]).sum(axis=1) <= ALIKE
        left, right = left[alike], right[alike]
        alike = _difference(colours[left], colours[right]) <= SAME_COLOURS
        label = _joined(label, left[alike] // views, right[alike] // views)
    return label


def _near(words: Words) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of places whose words are near, some of them more than once."""
    for band in range(_BANDS):
        turned = words << np.uint64(_BAND_BITS * band) | words >> np.uint64((64 - _BAND_BITS * band) % 64)
        for bit in range(64 - _BAND_BITS, 64):
            keys = turned & ~np.uint64(1 << bit)
            order = np.argsort(keys)
            ordered = words[order]
            for left, right in _neighbours(keys[order] >> np.uint64(64 - _BAND_BITS)):
                near = np.bitwise_count(ordered[left] ^ ordered[right]) <= _COARSE
                if near.any():
                    yield order[left[near]], order[right[near]]


def _neighbours(buckets: Words) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of places that have the same bucket; equal buckets stand together."""
    crowded = (np.bincount(buckets.astype(np.int64)) > _CROWD)[buckets]
    left, step = np.arange(len(buckets)), 0
    while left.size:
        step += 1
        left = left[left < len(buckets) - step]
        left = left[buckets[left] == buckets[left + step]]
        yield left, left + step
        if step == _NEIGHBOURS:
            left = left[~crowded[left]]


def _difference(one: Colours, other: Colours) -> npt.NDArray[np.float32]:
    difference: npt.NDArray[np.float32] = np.sqrt(((_evened(one) - _evened(other)) ** 2).mean(axis=1))
    return difference


def _evened(colours: Colours) -> npt.NDArray[np.float32]:
    """Colours at a mean of 128, so that a brighter picture has the same."""
    levels = colours.astype(np.float32)
    evened: npt.NDArray[np.float32] = levels * (128 / np.maximum(levels.mean(axis=1, keepdims=True), 1))
    return evened


def _joined(label: Numbers, one: Numbers, other: Numbers) -> Numbers:
    """The labels after these pairs have the same: that of each is the first place that it is joined with."""
    while (apart := label[one] != label[other]).any():
        labels = label[one[apart]], label[other[apart]]
        np.minimum.at(label, np.maximum(*labels), np.minimum(*labels))
        while (label[label] != label).any():
            label = label[label]
    return label
