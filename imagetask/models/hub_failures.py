"""What went wrong in a call made through huggingface_hub: by the exception, the answers, and how far the call came."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httpx2
from huggingface_hub.errors import HfHubHTTPError
from PIL import UnidentifiedImageError

from imagetask.errors import GenerationError
from imagetask.images import Image
from imagetask.models.classify import classify_exception, classify_response
from imagetask.models.hub_answers import failure_told, filtered_image, is_filtered, is_read, without_image
from imagetask.models.watched_call import WatchedCall
from imagetask.redact import one_line, safe_cause

_BAD_LINK = (httpx2.InvalidURL, httpx2.TooManyRedirects, httpx2.UnsupportedProtocol)
_LOST = (httpx2.HTTPError, ConnectionError, TimeoutError)
_BARE_503 = re.compile(r"HTTP 503: (?:503 )?Service (?:Temporarily )?Unavailable", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class HubFailures:
    """Classifies for one model.

    by_provider: a provider makes the images, by its own code in huggingface_hub, in place of a URL. secrets: what is
    in no message. key_variable: as in `classify_exception`.
    """

    by_provider: bool
    secrets: tuple[str, ...]
    key_variable: str | None

    def of_look_up(self, error: Exception) -> GenerationError:
        """As for a call, but a plain ValueError says that the provider does not serve the model."""
        if isinstance(error, ValueError) and not hasattr(error, "response"):
            return GenerationError("config", one_line(str(error), self.secrets))
        return self._of_exception(error)

    def of_call(self, error: Exception, watch: WatchedCall, again: Callable[[], Awaitable[Image]]) -> GenerationError:
        """The failure of a call.

        Of kind "download", with `again`, wherever the model's own answer was good and its result may be there all
        the same: the image is paid for.
        """
        if isinstance(error, IndexError):
            return GenerationError("refused", "the provider's answer has no image")
        if isinstance(error, _BAD_LINK) and watch.succeeded:
            return GenerationError("download", f"the link to the image cannot be followed: {type(error).__name__}")
        if self.by_provider and self._is_not_fetched(error, watch):
            return _not_fetched(error, watch, again)
        if isinstance(error, GenerationError):
            return error
        told = failure_told(watch.answers, by_provider=self.by_provider, secrets=self.secrets)
        if told is not None:
            return told
        if isinstance(error, UnidentifiedImageError):
            return without_image(watch.answers, by_provider=self.by_provider, secrets=self.secrets)
        return self._by_answer(error, watch)

    def cause(self, error: Exception, watch: WatchedCall) -> BaseException | None:
        """What the failure of a call is raised from. The link, which may be signed, is shown no more than the key."""
        if isinstance(error, GenerationError):
            return error.__cause__
        if isinstance(error, _BAD_LINK) and watch.succeeded:
            return None
        return safe_cause(error, (*self.secrets, *([] if watch.link is None else [str(watch.link)])))

    def _is_not_fetched(self, error: Exception, watch: WatchedCall) -> bool:
        if not (watch.succeeded and is_read(watch.answers[-1])):
            return False
        if watch.link is not None:
            return isinstance(error, _LOST) or (isinstance(error, GenerationError) and error.kind == "timeout")
        is_of_poll = isinstance(error, httpx2.HTTPError | HfHubHTTPError)
        return is_of_poll and self._of_exception(error).kind in ("server", "rate_limited")

    def _by_answer(self, error: Exception, watch: WatchedCall) -> GenerationError:
        """By the answer itself where the client could not read it (huggingface_hub 2.4, an error that is no text)."""
        failure = self._of_exception(error)
        if failure.kind == "unknown" and watch.answers and watch.answers[-1].is_error:
            answer = watch.answers[-1]
            return classify_response(answer.status_code, answer.headers, answer.text, secrets=self.secrets)
        return failure

    def _of_exception(self, error: Exception) -> GenerationError:
        failure = classify_exception(error, secrets=self.secrets, key_variable=self.key_variable)
        if failure.kind == "server" and not self.by_provider and _BARE_503.fullmatch(failure.message):
            # What Inference Endpoints answer while they come up from zero replicas, with nothing else said.
            failure.kind = "loading"
        return failure


def _not_fetched(error: Exception, watch: WatchedCall, again: Callable[[], Awaitable[Image]]) -> GenerationError:
    if any(is_filtered(answer) for answer in watch.answers):
        return filtered_image()
    response = getattr(error, "response", None)
    why = type(error).__name__ if response is None else f"HTTP {response.status_code}"
    what = "was made but" if watch.link is not None else "is in the making, and"
    return GenerationError("download", f"the image {what} could not be fetched: {why}", again=again)
