"""Which pictures of a dataset look alike: found without comparing each with each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

ALIKE = 26
"""Views whose perceptual hashes differ in at most so many of their 256 bits may be of pictures that look alike."""

SAME_COLOURS = 4.0
"""And they are, where their mean colours differ by no more than this (root mean square, levels of 256 at one brightness).
"""

_BANDS, _BAND_BITS = 4, 16
_COARSE = 7
"""Views that are alike differ in at most so many of their first 64 bits; so one of four bands of 16 bits has at most one
bit that is another."""
_CROWD = 200
"""A view is compared with so many of those that share a band with it, at most: the nearest in the order of their bits."""

Numbers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Colours = npt.NDArray[np.uint8]


def first_alike(hashes: Words, colours: Colours) -> Numbers:
    """For each picture the place of the first one in its group.

    Two are in one group where a view of the one is alike a view of the other, or where others lead from one to the
    other. hashes: pictures × views × 4 words. colours: pictures × views × values. Time grows as pictures, times how many
    share a band with one: a million pictures of two views take about a minute.
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
        turned = np.bitwise_or(words << np.uint64(_BAND_BITS * band), words >> np.uint64(64 - _BAND_BITS * band))
        turned = turned if band else words
        for bit in range(64 - _BAND_BITS, 64):
            keys = turned & ~np.uint64(1 << bit)
            order = np.argsort(keys)
            buckets, ordered = keys[order] >> np.uint64(64 - _BAND_BITS), words[order]
            left = np.arange(len(words) - 1)
            for step in range(1, _CROWD + 1):
                left = left[left < len(words) - step]
                left = left[buckets[left] == buckets[left + step]]
                if not left.size:
                    break
                near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= _COARSE]
                if near.size:
                    yield order[near], order[near + step]


def _difference(one: Colours, other: Colours) -> npt.NDArray[np.float32]:
    return np.sqrt(((_evened(one) - _evened(other)) ** 2).mean(axis=1))


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
