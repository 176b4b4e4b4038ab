"""An object store that speaks S3 on loopback (moto's server), in a process of its own, with a bucket.

`python -m tests.s3_server` prints its URL on its first line, then serves until its standard input is closed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

_ROOT = Path(__file__).parents[1]
_OWN = "/_stand_in/"
_BUCKET = "images"
KEY_ID = "AKIAIMAGETASKTEST"
SECRET = "canary/of-the-object-store+4711"
_REFUSAL = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message>{request}</Error>"
_REQUEST = "<CanonicalRequest>{}</CanonicalRequest>"


class S3Server:
    """The server as a test sees it. It takes requests that are signed with `KEY_ID`, by whatever secret."""

    def __init__(self, url: str, process: subprocess.Popen[str]) -> None:
        self.url = url
        self.bucket = _BUCKET
        self._process = process
        self._wakers: list[threading.Timer] = []

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a client finds the server, as AWS's own clients take them."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def store_url(self, prefix: str) -> str:
        """What `--store` takes, for a folder of the bucket."""
        return f"s3://{self.bucket}/{prefix}"

    def requests(self) -> Counter[str]:
        """How many requests came since the last time that this was asked, by method; refused ones too."""
        with urlopen(f"{self.url}{_OWN}requests", timeout=30) as answer:
            return Counter(json.load(answer))

    def refuse(self, status: int, code: str = "") -> None:
        """Answers every request so, and repeats its headers as S3 does for a wrong signature; status 0: no longer."""
        self._set({"status": status, "code": code})

    def delay(self, seconds: float) -> None:
        """Answers each request so much later, as a store does that is a network away."""
        self._set({"seconds": seconds})

    def _set(self, settings: dict[str, Any]) -> None:
        urlopen(Request(f"{self.url}{_OWN}set", json.dumps(settings).encode(), method="POST"), timeout=30).close()

    def silence(self, seconds: float) -> None:
        """Takes connections and answers nothing for so long; comes back at once."""
        os.kill(self._process.pid, signal.SIGSTOP)
        waker = threading.Timer(seconds, os.kill, (self._process.pid, signal.SIGCONT))
        self._wakers.append(waker)
        waker.start()

    def close(self) -> None:
        """Forgets what was to wake the server later: its process id may be another's then."""
        for waker in self._wakers:
            waker.cancel()
            waker.join()


@contextmanager
def start_s3_server() -> Iterator[S3Server]:
    """Runs a server with the bucket `images` in another process, which ends with the block, or with this process."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.s3_server"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise RuntimeError(f"the S3 server did not start; it ended with {process.wait(10)}")
            signed = {"authorization": f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/us-east-1/s3/aws4_request"}
            urlopen(Request(f"{url}/{_BUCKET}", headers=signed, method="PUT"), timeout=30).close()
            server = S3Server(url, process)
            try:
                server.requests()
                yield server
            finally:
                server.close()
        finally:
            process.kill()


class _Front:
    """Counts the requests of an application, and refuses them when it is told to."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._requests: Counter[str] = Counter()
        self._settings: dict[str, Any] = {"status": 0, "code": "", "seconds": 0.0}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == f"{_OWN}requests":
            told, self._requests = self._requests, Counter()
            return _answer(start_response, "200 OK", json.dumps(told).encode())
        if path == f"{_OWN}set":
            self._settings |= json.loads(_body(environ))
            return _answer(start_response, "200 OK", b"")
        self._requests[environ["REQUEST_METHOD"]] += 1
        time.sleep(self._settings["seconds"])
        if self._settings["status"]:
            return _refused(environ, start_response, self._settings["status"], self._settings["code"])
        if f"Credential={KEY_ID}/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return _refused(environ, start_response, 403, "InvalidAccessKeyId")
        return self._application(environ, start_response)


def _refused(environ: dict[str, Any], start_response: Callable[..., Any], status: int, code: str) -> list[bytes]:
    _body(environ)
    headers = "\n".join(f"{name}:{value}" for name, value in environ.items() if name.startswith("HTTP_"))
    text = _REFUSAL.format(code=code, request=_REQUEST.format(headers))
    return _answer(start_response, f"{status} Refused", text.encode())


def _body(environ: dict[str, Any]) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _answer(start_response: Callable[..., Any], status: str, body: bytes) -> list[bytes]:
    start_response(status, [("content-type", "application/xml"), ("content-length", str(len(body)))])
    return [body]


def main() -> None:
    """Serves until the standard input is closed."""
    import logging

    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = _Front(create_backend_app("s3"))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
