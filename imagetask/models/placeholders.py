"""The same bytes for different prompts, seen while a run goes on."""

from __future__ import annotations

from collections import OrderedDict

PROMPTS = 3
"""So many different prompts with the same bytes: a picture that stands for none of them."""
_REMEMBERED = 1_000


class PlaceholderWatch:
    """Remembers for the last 1,000 pictures for which prompts they came, three of each at most."""

    def __init__(self) -> None:
        self._prompts: OrderedDict[str, set[int]] = OrderedDict()

    def note(self, sha256: str, prompt: str) -> bool:
        """Takes a picture; True where it now came for three or more different prompts."""
        prompts = self._prompts.setdefault(sha256, set())
        self._prompts.move_to_end(sha256)
        if len(self._prompts) > _REMEMBERED:
            self._prompts.popitem(last=False)
        if len(prompts) < PROMPTS:
            prompts.add(hash(prompt))
        return len(prompts) >= PROMPTS
