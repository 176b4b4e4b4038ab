"""The placeholder model: legible, honest, and the same every time."""

from __future__ import annotations

import colorsys
import hashlib
import io
import itertools
import random
import subprocess
import sys

import pytest
from PIL import Image as PILImage

from imagetask.drawing.lettering import font, printable, text_width
from imagetask.drawing.scenery import SCENES, Scene, colour_of, colours_in, contrast, palette_for, rgb, sky
from imagetask.errors import GenerationError
from imagetask.images import Image, check_image
from imagetask.models import ImageRequest, load_model
from imagetask.models.placeholder import PlaceholderImageGeneration, _plate_and_ink

PAGE = "A crimson fox beside a silver river paints the sky, again and again. " * 60


def draw(prompt: str, **fields: object) -> Image:
    request = ImageRequest(prompt, **{"seed": 1, **fields})  # type: ignore[arg-type]
    [outcome] = PlaceholderImageGeneration().generate([request])
    assert isinstance(outcome, Image)
    return outcome


def share_of_hue(image: Image, colour: tuple[int, int, int]) -> float:
    """Share of the pixels that have the colour's hue (± 20 degrees) and are not pale."""
    hue = colorsys.rgb_to_hsv(*colour)[0] * 255
    bands = image.to_pil().resize((96, 96)).convert("HSV").split()
    near = [
        abs((h - hue + 128) % 256 - 128) < 14 and s > 100
        for h, s in zip(bands[0].tobytes(), bands[1].tobytes(), strict=True)
    ]
    return sum(near) / len(near)


def test_prompt_seed_and_size_decide_every_byte_in_any_process() -> None:
    code = (
        "import sys; from imagetask.models import load_model, ImageRequest as R\n"
        "[image] = load_model('placeholder').generate([R('a red fox', seed=5, width=200, height=120)])\n"
        "sys.stdout.write(image.sha256)"
    )
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    data = draw("a red fox", seed=5, width=200, height=120).data
    assert hashlib.sha256(data).hexdigest() == fresh


@pytest.mark.parametrize("side", [16, 40, 128])
def test_other_seeds_and_other_prompts_give_other_bytes_at_any_size(side: int) -> None:
    images = [draw(p, seed=s, width=side, height=side).data for p in ("a cat", "a dog") for s in range(12)]
    assert len(set(images)) == 24


def test_other_seeds_look_different_and_not_only_at_the_foot() -> None:
    tops = [draw("a lighthouse", seed=seed).to_pil().crop((0, 0, 512, 480)).tobytes() for seed in range(8)]
    assert len(set(tops)) == 8


def test_size_is_512_px_unless_the_request_says_otherwise() -> None:
    assert (draw("a cat").width, draw("a cat").height) == (512, 512)
    tall = draw("a cat", width=300, height=700)
    assert (tall.width, tall.height) == tall.to_pil().size == (300, 700)


@pytest.mark.parametrize("size", [(16, 16), (4096, 16), (16, 4096), (57, 57), (1024, 64), (64, 1024), (4096, 512)])
@pytest.mark.parametrize("prompt", ["cat", PAGE])
def test_every_allowed_size_gives_a_whole_picture(size: tuple[int, int], prompt: str) -> None:
    image = draw(prompt, width=size[0], height=size[1])
    assert image.to_pil().size == size
    assert not check_image(image).blank


@pytest.mark.parametrize("size", [(15, 512), (512, 4097), (-1, 512), (0, 512)])
def test_a_size_that_is_none_is_invalid_input(size: tuple[int, int]) -> None:
    request = ImageRequest("a cat", width=size[0], height=size[1], seed=1)
    good = ImageRequest("a cat", seed=1)
    first, second = PlaceholderImageGeneration().generate([request, good])
    assert isinstance(first, GenerationError)
    assert first.kind == "invalid_input"
    assert f"{size[0]} × {size[1]}" in first.message
    assert isinstance(second, Image)


@pytest.mark.parametrize("prompt", ["black", "white on white", "a cat", "grey fog, gray stone", "#000000", "…", "?"])
def test_no_picture_is_ever_one_flat_colour(prompt: str) -> None:
    for seed in range(6):
        assert not check_image(draw(prompt, seed=seed, width=24, height=24)).blank


def test_a_picture_has_the_colours_that_its_prompt_names() -> None:
    for seed in range(12):
        image = draw("a red bicycle against a blue wall", seed=seed)
        assert share_of_hue(image, rgb("#2c68d4")) > 0.05
        assert share_of_hue(image, rgb("#dc2b36")) > 0.045


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("a red bicycle against a blue wall", ["red", "blue"]),
        ("Light blue sky over a dark green, GOLDEN field", ["lightblue", "darkgreen", "golden"]),
        ("blue-green algae, reddish sand and two blues", ["blue", "green", "red", "sand"]),
        ("a train to Peru with a tanned reader", []),
        ("", []),
    ],
)
def test_colours_are_found_in_prompts_in_their_order(prompt: str, names: list[str]) -> None:
    assert colours_in(prompt) == [colour_of(name) for name in names]


def test_text_stands_out_from_its_plate_whatever_the_prompt_says() -> None:
    words = ["red", "yellow", "white", "black", "navy", "grey", "lime", "night", "snow", "cat"]
    for pair in itertools.product(words, repeat=2):
        plate, ink = _plate_and_ink(palette_for(" on ".join(pair), random.Random(3)))
        assert contrast(plate, ink) >= 7


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_every_scene_can_be_drawn_in_every_shape(scene: object) -> None:
    assert callable(scene)
    for size in ((64, 64), (512, 8), (8, 512)):
        dice = random.Random(11)
        palette = palette_for("a red barn", dice)
        canvas = sky(size, palette, dice)
        before = canvas.tobytes()
        scene(Scene(canvas, palette, dice))
        assert canvas.tobytes() != before


def test_the_foot_says_that_it_is_a_placeholder() -> None:
    image = draw("a cat", seed=1234)
    assert b"imagetask placeholder, seed 1234" in image.data
    foot = image.to_pil().crop((0, 488, 512, 512)).convert("L")
    dark, light = foot.getextrema()
    assert isinstance(dark, int)
    assert isinstance(light, int)
    assert light - dark > 120


@pytest.mark.parametrize(
    "prompt",
    ["桜の木の下で", "🚲🚲🚲", "كلب أحمر", "\u200d\u0301", "a\x00b\ud800c", "Ελλάδα", "x" * 5000, "\n a \t b "],
)
def test_text_that_the_font_cannot_draw_does_no_harm(prompt: str) -> None:
    assert not check_image(draw(prompt, negative_prompt=prompt)).blank


def test_accented_letters_are_kept_and_unknown_ones_become_blocks() -> None:
    assert printable("Café  piñata\nŁódź — “Straße”") == "Café piñata Lódź - “Strasse”"
    assert printable("桜🌸 x") == "\ufffd\ufffd x"
    assert text_width("é", 40) == text_width("e", 40)


def test_an_accent_changes_the_picture() -> None:
    plain, accented = (draw(text).to_pil().crop((0, 0, 512, 480)) for text in ("cafe", "cafe\u0301"))
    assert plain.tobytes() != accented.tobytes()


def test_a_negative_prompt_is_part_of_the_picture() -> None:
    assert draw("a cat", negative_prompt="blurry").data != draw("a cat").data


def test_a_blank_prompt_is_invalid_input() -> None:
    [outcome] = PlaceholderImageGeneration().generate([ImageRequest(" \n", seed=1)])
    assert isinstance(outcome, GenerationError)
    assert outcome.kind == "invalid_input"


def test_files_are_small() -> None:
    prompts = ["a red bicycle against a blue wall", "an owl at night", "a jar of stars on a shelf, oil painting"]
    sizes = [len(draw(prompt, seed=seed).data) for prompt in prompts for seed in range(4)]
    assert 10_000 < sum(sizes) / len(sizes) < 60_000


def test_the_model_goes_by_the_name_it_was_given() -> None:
    assert load_model("placeholder").model_name == "placeholder"
    assert load_model("placeholder:anything").model_name == "anything"
    assert load_model("placeholder").backend == "placeholder"


def test_pictures_are_jpegs_of_full_colour() -> None:
    with PILImage.open(io.BytesIO(draw("a cat").data)) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")


def test_layout_does_not_hang_on_what_the_system_has_installed() -> None:
    assert font(20).layout_engine == 0
