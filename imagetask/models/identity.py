"""What makes a generation this one and no other: its key, and the seeds of its attempts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from imagetask.models.attempts import Ask
from imagetask.models.base import ImageGenerationModel, ImageRequest
from imagetask.store import generation_key


@dataclass(frozen=True, slots=True)
class Identity:
    """A model and a run's seed, as keys name them. No secret and no path is in it.

    url: where no model id names the model. seed_first: the run's seed goes before one that a request has.
    """

    backend: str
    model_name: str
    url: str | None
    seed: int
    seed_first: bool = False

    @classmethod
    def of(cls, model: ImageGenerationModel, seed: int, *, seed_first: bool = False) -> Identity:
        return cls(model.backend, model.model_name, model.key_url, seed, seed_first)

    def describe(self, request: ImageRequest) -> dict[str, Any]:
        """What decides the pixels, but for seed, ordinal and number."""
        return {
            "backend": self.backend,
            "model": self.model_name,
            **({"url": self.url} if self.url else {}),
            "prompt": request.prompt,
            "parameters": request.parameters(),
        }

    def ask(self, request: ImageRequest, described: Mapping[str, Any], ordinal: int, number: int) -> Ask:
        """The `number`-th generation of a request, the `ordinal`-th of its equals. described: by `describe`."""
        own = None if self.seed_first else request.seed
        base = self.seed if own is None else own

        def seed_of(again: int) -> int:
            return _derived_seed([base, described, ordinal, number, *([again] if again else [])])

        seed = own if own is not None and number == 0 else seed_of(0)
        key = generation_key({**described, "seed": seed, "ordinal": ordinal, "generation": number})
        return Ask(request, key, seed, number, ordinal, seed_again=seed_of)


def _derived_seed(parts: list[Any]) -> int:
    """A seed of 31 bits, which every backend takes, from everything that tells one generation from another."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1
