"""A real HTTP server on loopback that plays the Hugging Face Hub for its own clients. See `HubServer`."""

from tests.hub_server.remote import client_environment, start_hub_server
from tests.hub_server.repository import Commit, File
from tests.hub_server.server import HubServer, Seen
from tests.hub_server.state import SIGNATURE, Upload

__all__ = ["SIGNATURE", "Commit", "File", "HubServer", "Seen", "Upload", "client_environment", "start_hub_server"]
