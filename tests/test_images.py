"""Encoded images: what is read, what is refused, and that bytes stay as they came."""

from __future__ import annotations

import base64
import io
import random
import struct
import warnings
import zlib

import pytest
from PIL import Image as PILImage

from imagetask.errors import ImageError
from imagetask.images import (
    FORMATS,
    MAX_PIXELS,
    Image,
    as_image,
    check_image,
    decode_base64,
    encode_picture,
    image_from_str,
    image_to_str,
)

LOSSLESS = ["PNG", "TIFF", "BMP"]


def picture(width: int = 60, height: int = 40) -> PILImage.Image:
    """Noise with a gradient over it: every part of the encoded bytes matters."""
    noise = PILImage.effect_noise((width, height), 60)
    ramp = PILImage.linear_gradient("L").resize((width, height))
    return PILImage.merge("RGB", (noise, ramp, noise))


def encoded(image_format: str) -> bytes:
    return encode_picture(picture(), image_format)


def chunk(name: bytes, body: bytes) -> bytes:
    """A part of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(name: bytes, start: bytes, megabytes: int) -> bytes:
    """A good small PNG that has, before its pixels, a chunk of so many MB of zeros, packed."""
    data = encode_picture(picture(), "PNG")
    return data[:33] + chunk(name, start + zlib.compress(bytes(megabytes * 10**6))) + data[33:]


def tiff(*tags: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A TIFF of these tags (number, type, count, value), its data after them."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def bomb() -> bytes:
    """A small PNG whose header promises 20,000 × 20,000 px."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("image_format", FORMATS)
def test_every_format_is_read_with_its_size_and_its_own_bytes(image_format: str) -> None:
    data = encoded(image_format)
    image = Image.from_bytes(data)
    assert (image.format, image.width, image.height) == (image_format, 60, 40)
    assert image.data == data
    assert image.suffix == FORMATS[image_format]
    assert image.to_pil().size == (60, 40)
    assert not check_image(image).blank


@pytest.mark.parametrize("image_format", LOSSLESS)
def test_a_picture_comes_back_from_text_pixel_for_pixel(image_format: str) -> None:
    drawn = picture()
    assert image_from_str(image_to_str(drawn, image_format)).convert("RGB").tobytes() == drawn.tobytes()


def test_text_is_jpeg_unless_asked_otherwise() -> None:
    assert image_from_str(image_to_str(picture())).format == "JPEG"


def test_a_transparent_picture_is_flattened_onto_white_in_a_jpeg() -> None:
    clear = PILImage.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert image_from_str(image_to_str(clear)).getpixel((4, 4)) == (255, 255, 255)


def test_an_image_is_taken_where_text_is_taken() -> None:
    image = Image.from_bytes(encoded("PNG"))
    assert image_from_str(image).tobytes() == image_from_str(image.to_base64()).tobytes()


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _plain(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(lambda data: _plain(data), id="plain"),
        pytest.param(lambda data: "data:image/png;base64," + _plain(data), id="data URI"),
        pytest.param(lambda data: "data:image/png;name=a;base64," + _plain(data), id="data URI with a parameter"),
        pytest.param(lambda data: "\n data:image/svg+xml;base64," + _plain(data), id="data URI after white space"),
        pytest.param(lambda data: base64.encodebytes(data).decode(), id="broken into lines"),
        pytest.param(lambda data: "  " + _plain(data) + "\r\n", id="white space around"),
        pytest.param(lambda data: _plain(data).rstrip("="), id="no padding"),
        pytest.param(lambda data: _urlsafe(data), id="URL-safe"),
        pytest.param(lambda data: _urlsafe(data).rstrip("="), id="URL-safe without padding"),
    ],
)
@pytest.mark.parametrize("tail", [b"", b"\xff", b"\xff\xfe"])
def test_base64_is_decoded_in_all_its_spellings(text: object, tail: bytes) -> None:
    data = bytes(range(256)) * 2 + tail
    assert callable(text)
    assert decode_base64(text(data)) == data


@pytest.mark.parametrize("text", ["not base64 at all!", "iVBORw0KG*", "é" * 8, "a", "data:image/png,plain"])
def test_text_that_is_not_base64_is_an_image_error(text: str) -> None:
    with pytest.raises(ImageError, match="not base64"):
        decode_base64(text)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("lost", [1, 12, 40, 0.3, 0.7, 0.95])
def test_an_image_cut_short_is_found(image_format: str, lost: float) -> None:
    data = encoded(image_format)
    cut = data[: -int(lost if lost >= 1 else len(data) * lost)]
    with pytest.raises(ImageError):
        check_image(Image.from_bytes(cut))


def test_a_progressive_jpeg_cut_short_is_found() -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "JPEG", progressive=True)
    with pytest.raises(ImageError, match="cut short"):
        check_image(Image.from_bytes(buffer.getvalue()[:-30]))


def test_bytes_after_the_end_of_a_png_do_no_harm() -> None:
    assert not check_image(Image.from_bytes(encoded("PNG") + b"trailing" * 40)).blank


def test_damage_within_a_png_is_found() -> None:
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ImageError):
        check_image(Image.from_bytes(bytes(data)))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow only warns of odd TIFF tags
@pytest.mark.parametrize("image_format", FORMATS)
def test_damaged_bytes_raise_nothing_but_image_errors(image_format: str) -> None:
    data, dice = encoded(image_format), random.Random(7)
    found = 0
    for _ in range(80):
        damaged = bytearray(data)
        for _ in range(4):
            damaged[int(len(data) * dice.random() ** 3)] = dice.randrange(256)
        try:
            check_image(Image.from_bytes(bytes(damaged)))
        except ImageError:
            found += 1
    assert found > 0


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("colour", ["black", "white", "#808080"])
def test_an_image_of_one_colour_is_blank(image_format: str, colour: str) -> None:
    assert check_image(Image.from_bytes(encode_picture(PILImage.new("RGB", (64, 64), colour), image_format))).blank


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_one_other_pixel_is_enough_not_to_be_blank(mode: str) -> None:
    drawn = PILImage.new("RGBA", (16, 16), "black").convert(mode)
    assert check_image(Image.from_bytes(encode_picture(drawn, "PNG"))).blank
    drawn.putpixel((3, 3), {"RGBA": (255, 255, 255, 255), "LA": (255, 255)}.get(mode, (255,)))
    assert not check_image(Image.from_bytes(encode_picture(drawn, "PNG"))).blank


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes"),
        (b"<!DOCTYPE html><html><body>Bad gateway</body></html>", "an HTML page of 52 bytes"),
        (b"\n<html></html>", "an HTML page"),
        (b'{"error": "no"}', "JSON of 15 bytes"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"\x00\x01\x02 nothing known", "of something else"),
    ],
)
def test_bytes_that_are_no_image_are_described(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        Image.from_bytes(data)


def test_a_format_that_is_not_taken_is_refused() -> None:
    buffer = io.BytesIO()
    picture().save(buffer, "PPM")
    with pytest.raises(ImageError, match="not an image"):
        Image.from_bytes(buffer.getvalue())


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_decompression_bomb_is_refused_by_its_header(action: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error" if action == "error" else "ignore")
        with pytest.raises(ImageError, match=r"pixels|px"):
            Image.from_bytes(bomb())
    assert MAX_PIXELS < 20_000 * 20_000


def test_a_notebook_shows_the_picture_itself() -> None:
    image = Image.from_bytes(encoded("WEBP"))
    shown = image._repr_mimebundle_()
    start = 'src="data:image/webp;base64,'
    assert shown["text/html"].partition(start)[2].partition('"')[0] == image.to_base64()
    assert shown["text/plain"] == "Image(format='WEBP', width=60, height=40)"


def test_bytes_behind_a_reader_are_read_only_when_asked_for() -> None:
    reads: list[int] = []

    def read() -> bytes:
        reads.append(1)
        return encoded("PNG")

    image = Image(read, format="PNG", width=60, height=40)
    assert "60" in repr(image)
    assert not reads
    assert image.to_pil().size == (60, 40)
    assert len(reads) == 1


def test_an_image_is_made_of_whatever_holds_one() -> None:
    data = encoded("JPEG")
    for value in (data, bytearray(data), memoryview(data), _plain(data), "data:image/jpeg;base64," + _plain(data)):
        image = as_image(value)
        assert image is not None
        assert image.data == data
    drawn = as_image(picture())
    assert drawn is not None
    assert drawn.format == "PNG"


@pytest.mark.parametrize("value", [None, 7, "a red bicycle", "/9j/" + "A" * 100, b"bytes", "A" * 200])
def test_what_holds_no_image_gives_none(value: object) -> None:
    assert as_image(value) is None


SIDE = 50_000
TIFF_OF = ((258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1))
ENORMOUS = {
    "PNG": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)),
    "JPEG": b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", SIDE, SIDE) + b"\3\1\x11\0\2\x11\1\3\x11\1\xff\xda",
    "GIF": b"GIF89a" + struct.pack("<HH", SIDE, SIDE) + b"\0\0\0,\0\0\0\0" + struct.pack("<HH", SIDE, SIDE) + b"\0\2",
    "BMP": b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
    "TIFF": tiff((256, 4, 1, SIDE), (257, 4, 1, SIDE), *TIFF_OF, (273, 4, 1, 99), (279, 4, 1, 9)),
    "WEBP": b"RIFF\x12\0\0\0WEBPVP8L\5\0\0\0\x2f\xff\xff\xff\x0f\0",
}


@pytest.mark.parametrize("image_format", ENORMOUS)
def test_a_header_of_50000_pixels_is_refused_before_any_is_decoded(image_format: str) -> None:
    with pytest.raises(ImageError):
        Image.from_bytes(ENORMOUS[image_format] + bytes(200))


@pytest.mark.parametrize(("name", "start"), [(b"zTXt", b"k\0\0"), (b"iCCP", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0")])
def test_a_png_with_a_packed_bomb_beside_its_pixels_is_refused(name: bytes, start: bytes) -> None:
    with pytest.raises(ImageError, match="too large"):
        Image.from_bytes(png_with(name, start, 5))


ABSURD = {
    "a tile of 60,000 px": tiff(
        (256, 4, 1, 64), (257, 4, 1, 64), *TIFF_OF,
        (322, 4, 1, 60_000), (323, 4, 1, 60_000), (324, 4, 1, 200), (325, 4, 1, 90_000),
        data=bytes(76) + zlib.compress(bytes(9_000_000)),
    ),
    "a strip of 4 GB": tiff(
        (256, 4, 1, 64), (257, 4, 1, 64), *TIFF_OF, (273, 4, 1, 200), (278, 4, 1, 2**32 - 1), (279, 4, 1, 2**32 - 9),
        data=bytes(90) + zlib.compress(bytes(9_000_000)),
    ),
    "60,000 bands": tiff(
        (256, 4, 1, 900), (257, 4, 1, 900), *TIFF_OF[:3], (273, 4, 1, 99), (277, 3, 1, 60_000), (279, 4, 1, 99)
    ),
    "2 billion widths": tiff((256, 4, 2**31 - 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (700, 7, 2**32 - 9, 8)),
}  # fmt: skip


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize("what", ABSURD)
def test_a_tiff_with_absurd_tags_is_refused(what: str, action: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error" if action == "error" else "ignore")
        with pytest.raises(ImageError):
            check_image(Image.from_bytes(ABSURD[what]))


def animation(image_format: str) -> bytes:
    """Six frames of 64 × 64 px."""
    drawn = [PILImage.new("RGB", (64, 64), (40 * number, 250 - 40 * number, 9)) for number in range(6)]
    buffer = io.BytesIO()
    drawn[0].save(buffer, image_format, save_all=True, append_images=drawn[1:], duration=40)
    return buffer.getvalue()


def with_canvas(data: bytes, image_format: str, side: int) -> bytes:
    """The animation with its frames on a canvas of so many px on each side."""
    if image_format == "GIF":
        return data[:6] + struct.pack("<HH", side, side) + data[10:]
    if image_format == "WEBP":
        return data[:24] + 2 * struct.pack("<I", side - 1)[:3] + data[30:]
    return data[:8] + chunk(b"IHDR", struct.pack(">II", side, side) + data[24:29]) + data[33:]


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_of_too_many_pixels_is_refused(image_format: str) -> None:
    data = animation(image_format)
    check_image(Image.from_bytes(data))
    with pytest.raises(ImageError, match="an animation of 6 frames of 4000 × 4000 px"):
        check_image(Image.from_bytes(with_canvas(data, image_format, 4000)))


@pytest.mark.parametrize("image_format", ["GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.1, 0.3, 0.7, 0.95])
def test_other_formats_cut_short_are_found(image_format: str, kept: float) -> None:
    data = encoded(image_format)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError):
            check_image(Image.from_bytes(data[: int(len(data) * kept)]))
