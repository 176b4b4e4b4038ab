"""`python -m tests.hub_server FOLDER`: prints the URL on its first line, then serves until it is killed."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tests.hub_server.server import HubServer


def main() -> None:
    """Reads the options and serves."""
    parser = argparse.ArgumentParser(prog="python -m tests.hub_server", description="A Hugging Face Hub on loopback.")
    parser.add_argument("folder", type=Path, help="where the content of files is kept")
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--user", action="append", default=[], metavar="NAME:TOKEN", help="who may write")
    parser.add_argument("--while-stdin-is-open", action="store_true", help="end when the standard input is closed")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt), HubServer(options.folder, port=options.port) as server:
        for user in options.user:
            server.add_user(*user.split(":", 1))
        print(server.url, flush=True)
        if options.while_stdin_is_open:
            sys.stdin.buffer.read()
        else:
            threading.Event().wait()


if __name__ == "__main__":
    main()
