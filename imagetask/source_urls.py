"""Which URLs name a source."""

from __future__ import annotations

from urllib.parse import urlsplit

HUB = "hf"
OBJECT_STORES = ("s3", "gs", "az")


def check_source_url(url: str) -> None:
    """Raises `ValueError`, which repeats no more of the URL than its kind, where it names no source."""
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ValueError("the URL holds credentials or a query: give them in the environment, not in the URL")
    if parts.scheme == HUB and not url.startswith("hf://datasets/"):
        raise ValueError("expected hf://datasets/OWNER/NAME, with @REVISION or a path after it where you like")
    if parts.scheme not in (HUB, *OBJECT_STORES):
        raise ValueError(
            f"{parts.scheme}://… is no URL of a source (hf://datasets/…, s3://…, gs://… or az://…): download it first, "
            "and give the file"
        )
