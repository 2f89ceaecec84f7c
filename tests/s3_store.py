"""A store with the interface of S3 on loopback, in the test's process: moto, with faults that are asked for."""

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from pyarrow.fs import S3FileSystem
from werkzeug.serving import make_server

ACCESS_KEY = "AKIAONLYFORTHETESTS1"
SECRET_KEY = "s3cr3t/only+for/the/tests"

Fault = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Store:
    """Serves until it is closed. `requests` are the method and the path of each, `num_bytes` the answered ones."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self._lock = threading.Lock()
        self._faults: list[tuple[str, Fault]] = []
        self.endpoint = f"http://127.0.0.1:{self._server.port}"
        self.requests: list[str] = []
        self.num_bytes = 0
        self.num_buckets = 0

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def new_bucket(self) -> str:
        """The location of an empty bucket."""
        self.num_buckets += 1
        name = f"bucket-{self.num_buckets}"
        S3FileSystem(endpoint_override=self.endpoint, allow_bucket_creation=True).create_dir(name)
        return f"s3://{name}"

    def forget(self) -> None:
        """Forgets the requests so far and the faults to come."""
        self._faults.clear()
        self.requests.clear()
        self.num_bytes = 0

    @property
    def num_faults(self) -> int:
        """The faults that are still to come."""
        return len(self._faults)

    def fail(self, times: int, fault: Fault, requests: str = "") -> None:
        """Answers the next requests whose method and path contain a text with a fault."""
        self._faults += [(requests, fault)] * times

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}"
        with self._lock:
            self.requests.append(request)
            fault = next((one for one in self._faults if one[0] in request), None)
            if fault:
                self._faults.remove(fault)
        if fault:
            return fault[1](environment, start)
        if f"Credential={ACCESS_KEY}/" not in environment.get("HTTP_AUTHORIZATION", ""):
            return refuse("403 Forbidden", "InvalidAccessKeyId")(environment, start)
        answer: list[bytes] = list(self._moto(environment, start))
        self.num_bytes += sum(map(len, answer))
        return answer


def refuse(status: str, code: str) -> Fault:
    """An answer with an error, in the words of S3, which name the key that was used."""

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        message = f"<Code>{code}</Code><Message>about {ACCESS_KEY}</Message><RequestId>1</RequestId>"
        body = b"" if environment["REQUEST_METHOD"] == "HEAD" else f"<Error>{message}</Error>".encode()
        start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    return answer


def break_off(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """An answer whose connection ends before the answer does."""
    start("200 OK", [("Content-Length", "1000"), ("ETag", '"x"'), ("Last-Modified", "Sat, 01 Feb 2025 00:00:00 GMT")])
    return [b"the first bytes"]
