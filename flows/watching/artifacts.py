"""What one sees of a run in Prefect's UI while it goes on: how far it is, and its newest images."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType

from imagetask.errors import ImageTaskError, RunStopped, StorageError
from imagetask.layout import write_whole
from imagetask.models.redact import one_line
from imagetask.settings import RunSettings

from ..monitoring import Progress
from .contact_sheets import SHOWN_NEWEST, NewestImages
from .markdown import code, picture, text
from .posting import REFUSALS, RunArtifact, artifact_key, impatient_client
from .progress_text import progress_text

logger = logging.getLogger(__name__)

_REST = 10.0
_LONGEST_REST = 120.0
"""After an update there is a rest of so many times what it took, but no longer than this (seconds)."""


@dataclass(frozen=True, slots=True)
class Seconds:
    """progress, images, state: between two updates, and two looks at the run's state, where the server is quick.

    moment: between two looks at how far the run is. answer: what one answer of the server may take. end: what the end
    of the run waits for the last updates, at most.
    """

    progress: float = 3.0
    images: float = 15.0
    state: float = 5.0
    moment: float = 1.0
    answer: float = 5.0
    end: float = 5.0


_SECONDS = Seconds()


@contextmanager
def live_artifacts(
    settings: RunSettings,
    progress: Progress,
    on_cancel: Callable[[], None] = lambda: None,
    seconds: Seconds = _SECONDS,
) -> Iterator[None]:
    """Keeps the run's artifacts up to date, from a thread of its own: its progress, and its newest images.

    on_cancel: called once, in that thread, when the run is cancelled on the server.
    A server that is slow or gone gets fewer updates, and does the run no harm.
    """
    live = _Live(settings, progress, on_cancel, seconds)
    thread = threading.Thread(target=copy_context().run, args=(live.keep_up,), name="imagetask-artifacts", daemon=True)
    thread.start()
    try:
        yield
    except BaseException as error:
        live.end(_told(error))
        raise
    else:
        live.end("**Finished**")
    finally:
        thread.join(seconds.end)


def _told(error: BaseException) -> str:
    if isinstance(error, RunStopped):
        return f"**Stopped** ({text(error.kind)}): {text(error.message, 500)}"
    if isinstance(error, ImageTaskError):
        return f"**Failed**: {text(error, 500)}"
    return f"**Ended** by {text(type(error).__name__)}"


class _Live:
    """The thread's work."""

    def __init__(
        self, settings: RunSettings, progress: Progress, on_cancel: Callable[[], None], seconds: Seconds
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._on_cancel = on_cancel
        self._seconds = seconds
        self._outcome: str | None = None
        self._ended = threading.Event()
        self._images = NewestImages()
        self._shown: list[str] = []
        name = settings.out.name
        self._text = RunArtifact(progress.run, artifact_key("progress", name), "How far the run is")
        self._pictures = RunArtifact(progress.run, artifact_key("images", name), "The newest images of the run")

    def end(self, outcome: str) -> None:
        """outcome: how the run ended; markdown."""
        self._outcome = outcome
        self._ended.set()

    def keep_up(self) -> None:
        """Updates until the run ends, and then once more."""
        seconds = self._seconds
        with impatient_client(seconds.answer) as client:
            shown = [
                _Repeated(seconds.progress, lambda: self._put_text(client)),
                _Repeated(seconds.images, lambda: self._put_images(client)),
            ]
            state = _Repeated(seconds.state, lambda: self._look_at_state(client))
            while not self._ended.wait(seconds.moment):
                self._progress.note_moment()
                for work in (*shown, state):
                    if not self._ended.is_set():
                        work.do_if_due()
            self._progress.note_moment()
            all(work.do() for work in shown)  # the second only where the server took the first

    def _put_text(self, client: SyncPrefectClient) -> bool:
        self._text.put(client, progress_text(self._settings, self._progress, self._outcome))
        return True

    def _put_images(self, client: SyncPrefectClient) -> bool:
        newest = self._progress.newest(SHOWN_NEWEST)
        keys = [one.key for one in newest]
        sheet = self._images.sheet(newest) if keys != self._shown else None
        if sheet is None:
            return False
        path = self._settings.layout.newest
        write_whole(path, sheet)
        made, store = self._progress.images, self._settings.store_url
        meaning = f"Contact sheet of the {len(newest):,} newest of {made:,} images"
        below = f"The {len(newest):,} newest of {made:,} images, the newest first."
        places = f"This picture: {code(path)}; all images in full size: {code(store)}"
        self._pictures.put(client, f"{picture(sheet, meaning)}\n\n{below} {places}\n")
        self._shown = keys
        return True

    def _look_at_state(self, client: SyncPrefectClient) -> bool:
        state = client.read_flow_run(UUID(self._progress.run)).state
        if (
            not self._progress.cancelled
            and state is not None
            and state.type in (StateType.CANCELLING, StateType.CANCELLED)
        ):
            self._progress.cancelled = True
            self._on_cancel()
        return True


class _Repeated:
    """Something to be done every so many seconds; more rarely where it takes long, and skipped where it fails.

    work: gives whether there was something to do; where not, it is asked again the next time.
    """

    def __init__(self, seconds: float, work: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._work = work
        self._due = 0.0
        self._warned = False

    def do_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self.do()

    def do(self) -> bool:
        """Does it now; gives whether it went well."""
        started, did, well = time.monotonic(), True, True
        try:
            did = self._work()
        except (*REFUSALS, StorageError) as error:
            well = False
            level = logging.DEBUG if self._warned else logging.WARNING
            logger.log(level, "an artifact was not updated: %s", one_line(str(error)))
            self._warned = True
        ended = time.monotonic()
        if did:
            self._due = ended + max(self._seconds, min(_REST * (ended - started), _LONGEST_REST))
        return well
