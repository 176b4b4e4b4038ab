"""A scorer: `imagetask score out/cats --scorer brightness_scorer:brightness`, from the folder of this file."""

from PIL import Image, ImageStat


def brightness(pictures: list[Image.Image]) -> dict[str, list[float]]:
    """Mean and spread of the grey levels of each picture (0 to 255)."""
    statistics = [ImageStat.Stat(picture.convert("L")) for picture in pictures]
    return {
        "brightness": [each.mean[0] for each in statistics],
        "contrast": [each.stddev[0] for each in statistics],
    }
