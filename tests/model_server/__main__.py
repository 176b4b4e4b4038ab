"""`python -m tests.model_server`: prints the URL on its first line, then serves until it is killed."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import suppress

from tests.model_server.chaos import Chaos
from tests.model_server.pictures import FORMATS
from tests.model_server.server import ModelServer


def main() -> None:
    """Reads the options and serves."""
    parser = argparse.ArgumentParser(prog="python -m tests.model_server", description="A model server on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0 for any that is free")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that a picture takes")
    parser.add_argument("--image-kib", type=int, help="what each file weighs; small where not given")
    parser.add_argument("--format", choices=FORMATS, default="png")
    parser.add_argument("--answers", choices=("auto", "b64_json", "url"), default="auto")
    parser.add_argument("--admit", type=int, help="calls at a time; the others get 429")
    parser.add_argument("--chaos", type=float, metavar="RATE", help="share of the calls that fail, in any way, 0 to 1")
    parser.add_argument("--chaos-seed", type=int, default=0)
    parser.add_argument("--chaos-lasting", type=float, default=0.0, help="share of those that fail for ever")
    parser.add_argument("--while-stdin-is-open", action="store_true", help="end when the standard input is closed")
    options = parser.parse_args()
    server = ModelServer(
        latency=options.latency,
        format=options.format,
        answers=options.answers,
        image_kib=options.image_kib,
        port=options.port,
    )
    server.admit(options.admit)
    if options.chaos is not None:
        server.chaos(Chaos(options.chaos, options.chaos_seed, options.chaos_lasting))
    if options.while_stdin_is_open:
        threading.Thread(target=_stop_with_stdin, args=(server,), daemon=True).start()
    with suppress(KeyboardInterrupt):
        server.serve(lambda: print(server.url, flush=True))


def _stop_with_stdin(server: ModelServer) -> None:
    sys.stdin.buffer.read()
    server.stop()


if __name__ == "__main__":
    main()
