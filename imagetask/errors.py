"""The errors of imagetask, and the closed set of kinds that a failed generation can have.

ImageTaskError
├── UsageError            what the user gave is wrong: the message names it, and says what to do
│   ├── SourceError       the table of prompts cannot be read, or lacks a column
│   └── DatasetError      the dataset folder is not one, or holds something else
│       └── RowIndexError a dataset has no such row; also an IndexError
├── ImageError            bytes or text that are no (whole) image; also a ValueError
├── GenerationError       one image was not generated; has an `ErrorKind`
├── RunStopped            no more calls may be made; has the `StopReason`
├── TaskError             a task broke its contract; names the task
├── HubError              the Hub refused for now, or could not be reached
└── StorageError          the store or the disk did not do what it must
    └── LostImage         an image that the store had is gone from it, or damaged
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

ErrorKind = Literal[
    "auth",
    "billing",
    "account_blocked",
    "rate_limited",
    "loading",
    "server",
    "timeout",
    "refused",
    "blank_image",
    "corrupt_image",
    "placeholder_image",
    "download",
    "config",
    "invalid_input",
    "task",
    "storage",
    "unknown",
]
"""What a failure is. What it gets is decided by `imagetask.models.treatments.TREATMENTS` alone."""


StopReason = ErrorKind | Literal["interrupted", "max_failed"]
"""Why a run stopped before its end: a failure, or a person, or more failed rows than allowed."""


class ImageTaskError(Exception):
    """Root of every error that imagetask raises on purpose."""


class UsageError(ImageTaskError):
    """Something the user gave is wrong; the message is one sentence fit to be shown alone."""


class SourceError(UsageError):
    """The source table cannot be read, is empty, or lacks a column that the task needs."""


class DatasetError(UsageError):
    """The folder is no dataset of ours, or already holds something else."""


class RowIndexError(DatasetError, IndexError):
    """The dataset has no row of this number."""


class ImageError(ImageTaskError, ValueError):
    """Bytes or text that are not one whole image."""


class TaskError(ImageTaskError):
    """A task broke its contract, for example by yielding another number of rows than it was given."""


class HubError(ImageTaskError):
    """The Hub refused for now (429, 5xx), or could not be reached: nothing is lost, and the same command goes on.

    retry_after: seconds that it asked to wait, or None.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageError(ImageTaskError):
    """The store or the disk refused: full, read-only, unreachable. Nothing is marked done that is not durable."""


class LostImage(StorageError):
    """An image that the store had is gone from it, or its bytes are no longer those that were kept."""


class GenerationError(ImageTaskError):
    """One image was not generated.

    Raised by backends, which classify; what happens next depends on `kind` alone.

    kind: one of `ErrorKind`.
    message: one line for people; never holds a key, a token or a signed URL.
    retry_after: seconds that the backend asked to wait, or None.
    fatal: the sign says that no further call can work (a paused endpoint, a refused connection).
    again: for kind "download": fetches the image that was already paid for once more.
    info: what the backend said beside the failure, JSON-able.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        retry_after: float | None = None,
        fatal: bool = False,
        again: Callable[[], Awaitable[Any]] | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.message = message
        self.retry_after = retry_after
        self.fatal = fatal
        self.again = again
        self.info = info or {}

    def __reduce__(self) -> tuple[Any, ...]:
        """To and from another process; `again` stays behind."""
        make = partial(type(self), retry_after=self.retry_after, fatal=self.fatal, info=self.info)
        return make, (self.kind, self.message)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


class RunStopped(ImageTaskError):
    """No more calls may be made: an account, a setting or a backend needs a person first.

    kind: the `StopReason`. The message says what to fix.
    """

    def __init__(self, kind: StopReason, message: str) -> None:
        super().__init__(kind, message)
        self.kind: StopReason = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"
