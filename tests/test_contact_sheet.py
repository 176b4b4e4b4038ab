"""Contact sheets: every cell in its place, with its caption."""

from __future__ import annotations

import pytest
from PIL import Image as PILImage

from imagetask.drawing.contact_sheet import FAILED, PAPER, contact_sheet, thumbnail
from imagetask.images import Image, encode_picture

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (128, 128)) -> PILImage.Image:
    return PILImage.new("RGB", size, colour)


def centre(sheet: PILImage.Image, column: int, row: int, tile: int = 128) -> object:
    """The colour in the middle of a tile; the gap is 8 px, the caption of type 9 px takes 27 px."""
    return sheet.getpixel((8 + column * (tile + 8) + tile // 2, 8 + row * (tile + 8 + 27) + tile // 2))


def test_cells_stand_in_reading_order() -> None:
    cells = [(flat(RED), "a"), (flat(GREEN), "b"), (flat(BLUE), "c")]
    sheet = contact_sheet(cells, columns=2, tile=128)
    assert [centre(sheet, 0, 0), centre(sheet, 1, 0), centre(sheet, 0, 1)] == [RED, GREEN, BLUE]
    assert centre(sheet, 1, 1) == PAPER


def test_our_images_and_pillows_are_both_taken() -> None:
    ours = Image.from_bytes(encode_picture(flat(GREEN), "PNG"))
    sheet = contact_sheet([(ours, "ours"), (flat(RED), "Pillow's")], columns=2, tile=128)
    assert [centre(sheet, 0, 0), centre(sheet, 1, 0)] == [GREEN, RED]


def test_a_missing_picture_is_a_grey_tile_with_its_reason() -> None:
    reason = contact_sheet([(None, "refused: by the safety system")], tile=128)
    other = contact_sheet([(None, "timeout: no answer in 300 s")], tile=128)
    assert reason.getpixel((10, 10)) == FAILED
    assert reason.tobytes() != other.tobytes()


def test_a_reason_without_words_still_says_failed() -> None:
    assert contact_sheet([(None, "")]).tobytes() == contact_sheet([(None, "failed")]).tobytes()


def test_a_wide_picture_is_shown_whole_in_the_middle_of_its_tile() -> None:
    sheet = contact_sheet([(flat(RED, (400, 100)), "wide")], tile=128)
    assert centre(sheet, 0, 0) == RED
    assert sheet.getpixel((8 + 2, 8 + 64)) == RED
    assert sheet.getpixel((8 + 64, 8 + 30)) == PAPER


def test_a_transparent_picture_shows_the_paper() -> None:
    clear = PILImage.new("RGBA", (128, 128), (255, 0, 0, 0))
    assert centre(contact_sheet([(clear, "clear")], tile=128), 0, 0) == PAPER


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA"])
def test_pictures_of_every_mode_are_drawn(mode: str) -> None:
    sheet = contact_sheet([(flat((255, 255, 255)).convert("RGB").convert("L").convert(mode), mode)], tile=128)
    assert centre(sheet, 0, 0) == (255, 255, 255)


def test_a_long_caption_stays_within_its_two_lines() -> None:
    long, row = "a very long prompt, told in far too many words " * 30, [(flat(RED), ""), (flat(GREEN), "")]
    sheet = contact_sheet([(flat(RED), long), *row, (flat(BLUE), "")], columns=2, tile=128)
    blank = contact_sheet([(flat(RED), ""), *row, (flat(BLUE), "")], columns=2, tile=128)
    under, beside = (8, 8 + 128, 8 + 128 + 4, 8 + 128 + 8 + 27), (8 + 128 + 4, 0, *sheet.size)
    assert sheet.crop(under).tobytes() != blank.crop(under).tobytes()
    assert sheet.crop(beside).tobytes() == blank.crop(beside).tobytes()
    next_row = (0, 8 + 128 + 8 + 27, *sheet.size)
    assert sheet.crop(next_row).tobytes() == blank.crop(next_row).tobytes()


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (6, 3), (12, 4), (24, 6)])
def test_columns_are_chosen_so_that_few_places_stay_empty(count: int, columns: int) -> None:
    sheet = contact_sheet([(None, "x")] * count, tile=64)
    assert sheet.width == 6 + columns * 70


def test_no_more_columns_than_cells() -> None:
    assert contact_sheet([(None, "x")], columns=9, tile=64).width == 6 + 70


def test_a_sheet_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one cell"):
        contact_sheet([])


@pytest.mark.parametrize(("columns", "tile"), [(0, 256), (2, 8)])
def test_impossible_measures_are_an_error(columns: int, tile: int) -> None:
    with pytest.raises(ValueError, match="at least 1 column"):
        contact_sheet([(None, "x")], columns=columns, tile=tile)


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("PNG", "RGBA"), ("PNG", "LA")])
def test_a_thumbnail_fits_its_square_and_keeps_colours_and_shape(kind: str, mode: str) -> None:
    picture = flat(GREEN, (1600, 800)).convert(mode)
    small = thumbnail(Image.from_bytes(encode_picture(picture, kind)), 100)
    assert small.size == (100, 50)
    wanted = picture.convert("RGB").getpixel((0, 0))
    assert isinstance(wanted, tuple)
    assert small.convert("RGB").getpixel((50, 25)) == pytest.approx(wanted, abs=3)


def test_a_small_picture_is_its_own_thumbnail() -> None:
    assert thumbnail(Image.from_bytes(encode_picture(flat(RED, (40, 30)), "PNG")), 100).size == (40, 30)


def test_captions_can_be_set_in_larger_type() -> None:
    cells = [(flat(RED), "a caption")]
    assert contact_sheet(cells, tile=128, type_size=14).height > contact_sheet(cells, tile=128).height
