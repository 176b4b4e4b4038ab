"""What a picture is scored, from its bytes: one decode each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image as PILImage

from imagetask.errors import ImageError
from imagetask.images import Image

METHOD = 1
"""Of all measures here: with another one scores cannot be compared, and are made anew."""

BLUR_SIDE = 512
"""Sharpness and colours are measured on the picture made smaller to so many px on its longer side, never larger."""

HASH_SIDE = 16
"""The perceptual hash has the square of this in bits."""
_DCT_SIDE = 64
_COLOURS_SIDE = 4
_TRIMMED = 0.02
"""The second view of a picture lacks this much at each side: it is the first view of one that was cropped."""
_EVEN = 2
"""A picture is blank where each of its colours lies within so many levels of 256: lossy formats have a grain."""

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measures:
    """blank: all pixels alike. blur: variance of the Laplacian of the grey picture: the lower, the more blurred.

    phash: 256 bits in hex, those of the coarsest features first; None for a blank picture, which has none. signature:
    by what near-duplicates are confirmed, in hex: the hash of the second view, 32 bytes, and the mean colours of both,
    48 bytes each. aspect: width over height. colourfulness: Hasler and Süsstrunk's (2003), 0 for grey, above 100 for
    extremely colourful.
    """

    blank: bool
    blur: float
    phash: str | None
    signature: str | None
    aspect: float
    colourfulness: float


def measure(data: bytes) -> tuple[Measures, PILImage.Image] | None:
    """The measures of encoded bytes, and the picture (RGB, whatever is transparent on white); None where they are no
    whole picture."""
    try:
        picture = on_white(Image.from_bytes(data).to_pil())
    except ImageError:
        return None
    small = _smaller(picture, BLUR_SIDE)
    blank = all(np.ptp(band.getextrema()) <= _EVEN for band in picture.split())
    hashed = [] if blank else [_perceptual_hash(picture, trimmed) for trimmed in (0.0, _TRIMMED)]
    colours = [] if blank else [_mean_colours(picture, trimmed) for trimmed in (0.0, _TRIMMED)]
    measures = Measures(
        blank=blank,
        blur=_laplacian_variance(np.asarray(small.convert("L"), np.float32)),
        phash=hashed[0].hex() if hashed else None,
        signature=b"".join([*hashed[1:], *colours]).hex() if hashed else None,
        aspect=picture.width / picture.height,
        colourfulness=_colourfulness(small),
    )
    return measures, picture


def on_white(picture: PILImage.Image) -> PILImage.Image:
    """The picture as RGB, on white where it is transparent."""
    if picture.has_transparency_data:
        whole = PILImage.new("RGB", picture.size, "white")
        rgba = picture.convert("RGBA")
        whole.paste(rgba, mask=rgba.getchannel("A"))
        return whole
    return picture.convert("RGB")


def _smaller(picture: PILImage.Image, side: int) -> PILImage.Image:
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, PILImage.Resampling.BILINEAR, reducing_gap=2.0)


def _laplacian_variance(grey: Pixels) -> float:
    if min(grey.shape) < 3:
        return 0.0
    centre = grey[1:-1, 1:-1]
    edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
    return float(edges.var(dtype=np.float64))


def _colourfulness(picture: PILImage.Image) -> float:
    red, green, blue = (np.asarray(band, np.float32) for band in picture.split())
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(dtype=np.float64), yellow_blue.std(dtype=np.float64))
    mean = np.hypot(red_green.mean(dtype=np.float64), yellow_blue.mean(dtype=np.float64))
    return float(spread + 0.3 * mean)


def _cosines() -> Pixels:
    """The first rows of the discrete cosine transform of `_DCT_SIDE` values."""
    frequency, place = np.arange(HASH_SIDE)[:, None], np.arange(_DCT_SIDE)[None, :]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _DCT_SIDE)).astype(np.float32)


_COSINES = _cosines()
_COARSE_FIRST = np.argsort(np.maximum(*np.indices((HASH_SIDE, HASH_SIDE))).ravel(), kind="stable")


def _perceptual_hash(picture: PILImage.Image, trimmed: float) -> bytes:
    """A bit for each of the lowest frequencies of the grey picture: whether it is above the median."""
    grey = np.asarray(_view(picture.convert("L"), _DCT_SIDE, trimmed), np.float32)
    spectrum = (_COSINES @ grey @ _COSINES.T).ravel()[_COARSE_FIRST]
    return np.packbits(spectrum > np.median(spectrum)).tobytes()


def _mean_colours(picture: PILImage.Image, trimmed: float) -> bytes:
    return _view(picture, _COLOURS_SIDE, trimmed).tobytes()


def _view(picture: PILImage.Image, side: int, trimmed: float) -> PILImage.Image:
    """The picture without a share of it at each side, as a square of so many px."""
    width, height = picture.size
    box = (width * trimmed, height * trimmed, width * (1 - trimmed), height * (1 - trimmed))
    return picture.resize((side, side), PILImage.Resampling.BOX, box=box)
