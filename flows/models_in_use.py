"""The models of the runs in this process: one for each run and model, shared by all of the run's chunks.

Where a run has several processes, each has its share of the run's limits; see `worker_processes`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from imagetask.errors import RunStopped, StopReason
from imagetask.models import split_model
from imagetask.models.breakers import Breakers
from imagetask.models.budget import Budget
from imagetask.models.event_loop import event_loop
from imagetask.models.identity import Identity
from imagetask.models.managed import ManagedModel
from imagetask.models.pacing import Pace
from imagetask.models.tally import Tally
from imagetask.parts import finished_chunks
from imagetask.retry_settings import Retry
from imagetask.runs import Counts
from imagetask.settings import RunSettings
from imagetask.store import GenerationStore

from .accounts import Account, account_of, make_model, managed_model, named_model
from .shares import WHOLE, Share, Told

_lock = threading.Lock()
_models: dict[tuple[str, str], ManagedModel] = {}
_paces: dict[tuple[str, str], tuple[Account, Pace]] = {}
"""Of a run and a backend: its models are asked with one account, and share what that bears."""
_budgets: dict[str, Budget] = {}
"""Of a run: what all of its models together may spend."""
_stopped: dict[str, tuple[StopReason, str]] = {}
"""For good: a chunk of a stopped run that is still under way opens no model anew."""
_shares: dict[str, Share] = {}
"""Of a run that has several processes: what this one has of its limits."""
_told: dict[str, dict[str, Told]] = {}
"""Of a run: what its other processes told last, each by its name."""
_closed: dict[str, Told] = {}
"""Of the runs that were closed last."""
_REMEMBERED = 8
_TURN = 0.001
"""How long a thread may keep the interpreter while another one waits for it (seconds). With the usual 5 ms the event
loop waits so long for threads that write parts that 16 calls of 50 ms had nine tenths of this throughput."""


def open_model(settings: RunSettings, model: str, run: str, retry: Retry | None = None) -> ManagedModel:
    """The run's model in this process, opened at first use. Raises `UsageError`, `RunStopped`, `StorageError`."""
    with _lock:
        managed = _models.get((run, model))
        if managed is None and retry is not None and retry.elsewhere:
            managed = _opened(_unasked(settings, model, retry, _other(settings, model, run, retry)), run, model)
        elif managed is None:
            managed = _opened(_asked(settings, model, run), run, model)
        return managed


def _opened(managed: ManagedModel, run: str, name: str) -> ManagedModel:
    if run in _stopped:
        raise RunStopped(*_stopped[run])
    _models[run, name] = managed
    sys.setswitchinterval(min(_TURN, sys.getswitchinterval()))
    managed.load()
    return managed


def _asked(settings: RunSettings, model: str, run: str) -> ManagedModel:
    account = account_of(settings, model)
    return managed_model(
        settings,
        model,
        account,
        pace=_pace_of(run, split_model(model)[0], account),
        budget=_budget_of(run, settings),
        proven=_gave_images(settings, model),
    )


def _other(settings: RunSettings, model: str, run: str, retry: Retry) -> ManagedModel:
    """What is asked in place of a run's model: one for all of the run's models for which it is the same."""
    identity = identity_instead(settings, model, retry)
    name = f"instead: {identity}"
    managed = _models.get((run, name))
    if managed is None:
        managed = _asked(retry.settings_for(settings, model), retry.model or model, run)
        managed.identity = identity
    return _opened(managed, run, name)


def _unasked(settings: RunSettings, model: str, retry: Retry, other: ManagedModel) -> ManagedModel:
    """The run's own model, of which only what it made before is looked up."""
    return ManagedModel(
        named_model(settings, model, retry),
        store=GenerationStore(settings.store_url),
        seed=settings.seed,
        breakers=Breakers(proven=_gave_images(settings, model)),
        other=other,
    )


def identity_instead(settings: RunSettings, model: str, retry: Retry) -> Identity:
    """What names the model and the seed that failed rows of a run's model are tried again with."""
    changed = retry.settings_for(settings, model)
    return Identity.of(make_model(changed, changed.model[0]), changed.seed, seed_first=retry.seed is not None)


def _pace_of(run: str, backend: str, account: Account) -> Pace:
    if (run, backend) not in _paces:
        _paces[run, backend] = account, account.pace(_shares.get(run, WHOLE))
    return _paces[run, backend][1]


def _budget_of(run: str, settings: RunSettings) -> Budget:
    if run not in _budgets:
        _budgets[run] = budget_of(settings, shared=run in _shares)
        if run in _stopped:
            _budgets[run].stop(partial(RunStopped, *_stopped[run]))
    return _budgets[run]


def budget_of(settings: RunSettings, *, shared: bool = False) -> Budget:
    """What the dataset may still cost. The caller, or the run that it is part of, holds its folder.

    shared: other processes of the run spend at the same time. Raises `StorageError`.
    """
    return Budget(
        max_images=settings.max_images, max_cost=settings.max_cost, ledger=settings.layout.spent, shared=shared
    )


def budget_reached(run: str) -> bool:
    """Whether the run has left a call unmade since it might have cost more than the budget."""
    if run in _closed:
        return _closed[run].budget_reached
    here = run in _budgets and _budgets[run].reached
    return here or any(told.budget_reached for told in list(_told.get(run, {}).values()))


def _gave_images(settings: RunSettings, model: str) -> bool:
    """Whether the folder has images of the model."""
    parts = (manifest for chunk, manifest in finished_chunks(settings.layout) if chunk.model == model)
    return any(Counts.of([manifest]).done for manifest in parts)


def stop_models(run: str, kind: StopReason, message: str) -> None:
    """No new calls by the run in this process."""
    _stopped[run] = (kind, message)
    if (budget := _budgets.get(run)) is not None:
        budget.stop(partial(RunStopped, kind, message))
    for (owner, _), managed in list(_models.items()):
        if owner == run:
            managed.stop(kind, message)


def stopped(run: str) -> tuple[StopReason, str] | None:
    """Why no more calls by the run may be made in this process, as `stop_models` or one of its models says; or None."""
    errors = (managed.stopped for (owner, _), managed in list(_models.items()) if owner == run)
    own = ((error.kind, error.message) for error in errors if error is not None)
    return _stopped.get(run) or next(own, None)


def begin_share(run: str, share: Share) -> None:
    """As `take_share`, the first time; what an earlier try of the same run left here no longer counts."""
    _stopped.pop(run, None)
    _closed.pop(run, None)
    take_share(run, share)


def take_share(run: str, share: Share, reserved_elsewhere: int = 0) -> None:
    """From here on this process has so much of the run's limits. reserved_elsewhere: calls of its other processes.

    It waits for nothing: a model may just be loading.
    """
    _shares[run] = share
    if (budget := _budgets.get(run)) is not None:
        budget.note_elsewhere(reserved_elsewhere)
    for (owner, _), (account, pace) in list(_paces.items()):
        if owner == run:
            event_loop().loop.call_soon_threadsafe(pace.change, *account.limits(share))


def share_of(run: str) -> Share | None:
    """What this process has of the limits of a run that has several; None before it was told."""
    return _shares.get(run)


def within_share(run: str) -> bool:
    """Whether no more calls are under way than the share allows, nor will be: they may, just after it was cut."""
    share = _shares.get(run, WHOLE)
    own = [(account.limits(share)[0], pace) for (owner, _), (account, pace) in list(_paces.items()) if owner == run]
    return all(pace.max_concurrency <= places and pace.in_flight <= places for places, pace in own)


def reserved(run: str) -> int:
    """Calls under way in this process for which the run's budget is reserved."""
    return _budgets[run].reserved if run in _budgets else 0


def take_told(run: str, process: str, told: Told) -> None:
    """Takes what another process of the run told, in place of what it told before."""
    _told.setdefault(run, {})[process] = told


@contextmanager
def closing_models(run: str) -> Iterator[None]:
    """Closes all of the run's models in this process at its end. Raises `RunStopped` where one cannot be closed."""
    try:
        yield
    finally:
        close_models(run)


def close_models(run: str) -> None:
    """As `closing_models` at its end."""
    with _lock:
        _closed[run] = Told(tallies(run), budget_reached(run))
        closing = [_models.pop(key) for key in list(_models) if key[0] == run]
        for key in [key for key in _paces if key[0] == run]:
            del _paces[key]
        for of_run in (_budgets, _shares, _told):
            of_run.pop(run, None)
        for old in list(_closed)[:-_REMEMBERED]:
            del _closed[old]
    with ExitStack() as each:
        for managed in closing:
            each.callback(managed.unload)


def tallies(run: str) -> list[Tally]:
    """What became of the run's generations, one tally for each of its models and processes."""
    if run in _closed:
        return _closed[run].tallies
    here = [managed.tally for (owner, _), managed in list(_models.items()) if owner == run]
    return here + [tally for told in list(_told.get(run, {}).values()) for tally in told.tallies]
