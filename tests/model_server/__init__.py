"""A real HTTP model server on loopback, which tests and benchmarks talk to. See `ModelServer`."""

from tests.model_server.answers import SIGNATURE
from tests.model_server.chaos import Chaos
from tests.model_server.faults import BROKEN, FAILURES, SLOW, SPOILED, Fault
from tests.model_server.ledger import Call, Counts
from tests.model_server.remote import RemoteModelServer, start_model_server
from tests.model_server.server import ModelServer

__all__ = [
    "BROKEN",
    "FAILURES",
    "SIGNATURE",
    "SLOW",
    "SPOILED",
    "Call",
    "Chaos",
    "Counts",
    "Fault",
    "ModelServer",
    "RemoteModelServer",
    "start_model_server",
]
