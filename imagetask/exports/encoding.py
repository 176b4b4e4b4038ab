"""A picture encoded anew for an export: another format, another quality, fewer pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image as PILImage
from PIL import ImageOps

from imagetask.errors import ImageError, UsageError
from imagetask.images import Image

ImageFormat = Literal["webp", "jpeg", "png"]

QUALITY = 90
"""Of lossy formats, where none is asked for."""

_LOSSY = ("JPEG", "WEBP", "AVIF")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pictures are to be encoded; one that is so already keeps its bytes.

    image_format: None keeps the format of each. quality: 1 to 100, of JPEG and WebP. max_side: px; a larger picture is
    made smaller, with its aspect; none is enlarged. Raises `UsageError`.
    """

    image_format: ImageFormat | None = None
    quality: int | None = None
    max_side: int | None = None

    def __post_init__(self) -> None:
        if self.image_format not in (None, "webp", "jpeg", "png"):
            raise UsageError(f"image format {self.image_format!r}: expected webp, jpeg or png")
        if self.quality is not None and self.image_format not in ("webp", "jpeg"):
            raise UsageError(f"image quality {self.quality} is for a lossy format: give image format webp or jpeg too")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError(f"image quality {self.quality}: expected 1 to 100")
        if self.max_side is not None and self.max_side < 1:
            raise UsageError(f"longest side {self.max_side}: expected at least 1 px")

    def __bool__(self) -> bool:
        return self != Encoding()

    def __str__(self) -> str:
        kind = f"as {self.image_format.upper()}" if self.image_format else "in the format it came in"
        quality = f" of quality {self.quality}" if self.quality else ""
        return f"encoded {kind}{quality}" + (f", at most {self.max_side} px a side" if self.max_side else "")

    def of(self, image: Image) -> Image:
        """The picture as it is to be; itself where nothing is to be done. Of an animation, the first frame.

        Pixels stand as a viewer shows them (EXIF orientation is applied); the colour profile stays. Raises
        `ImageError`.
        """
        target = self.image_format.upper() if self.image_format else image.format
        smaller = self.max_side is not None and max(image.width, image.height) > self.max_side
        if not smaller and target == image.format and self.quality is None:
            return image
        decoded = image.to_pil()
        picture = _plain(ImageOps.exif_transpose(decoded))
        if self.max_side is not None:
            picture.thumbnail((self.max_side, self.max_side), PILImage.Resampling.LANCZOS, reducing_gap=None)
        profile = None if decoded.mode == "CMYK" else decoded.info.get("icc_profile")
        try:
            return Image.from_bytes(_encoded(picture, target, self.quality or QUALITY, profile))
        except (OSError, ValueError) as error:
            raise ImageError(f"{picture.width} × {picture.height} px cannot be encoded as {target}: {error}") from error


def _plain(picture: PILImage.Image) -> PILImage.Image:
    """The picture with a channel for each colour: palettes and greys of 16 bits cannot be scaled, or made a JPEG."""
    if picture.mode.startswith("I"):
        return picture.convert("I").point(lambda level: level * (1 / 256)).convert("L")
    if picture.mode in ("RGB", "RGBA", "L"):
        return picture
    see_through = "transparency" in picture.info or "a" in picture.mode.lower()
    return picture.convert("RGBA" if see_through else "RGB")


def _encoded(picture: PILImage.Image, image_format: str, quality: int, profile: bytes | None) -> bytes:
    """JPEG has no transparency: a picture that has some is flattened onto white, as `encode_picture` does it."""
    if image_format == "JPEG" and picture.mode == "RGBA":
        opaque = PILImage.new("RGB", picture.size, "white")
        opaque.paste(picture, mask=picture.getchannel("A"))
        picture = opaque
    options: dict[str, Any] = {"quality": quality} if image_format in _LOSSY else {}
    if profile:
        options["icc_profile"] = profile
    buffer = io.BytesIO()
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()
