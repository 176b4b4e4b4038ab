"""The HTTP clients of huggingface_hub, which are those of the whole process: what we need of them, and no more."""

from __future__ import annotations

import huggingface_hub

from imagetask.models.connections import open_client, with_hooks
from imagetask.models.watched_call import after_blocking_answer, before_blocking_request


def prepare_clients() -> None:
    """Makes the async clients of huggingface_hub wide, and has our calls watched.

    Their default of 100 connections makes healthy calls time out. It can be set for the whole process only;
    everything else that was set for them (hooks) stays.
    """
    hooks = huggingface_hub.get_async_session().event_hooks
    huggingface_hub.set_async_client_factory(lambda: open_client(event_hooks=hooks, timeout=None))


def watch_session() -> None:
    """Has the session that huggingface_hub's providers fetch results with watched, within our calls alone.

    It is the session of the whole process, and may be made anew at any time, so this is done before each call.
    """
    session = huggingface_hub.get_session()
    if before_blocking_request not in session.event_hooks["request"]:
        session.event_hooks = with_hooks(session.event_hooks, before_blocking_request, after_blocking_answer)
