"""Tasks: what is asked for each row, and what becomes of the answer."""

from __future__ import annotations

from imagetask.tasks.base import ImageTask
from imagetask.tasks.image_generation import ImageGeneration

__all__ = ["ImageGeneration", "ImageTask"]
