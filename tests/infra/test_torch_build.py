"""Checks which build of torch the set-up chooses, and that asking PyTorch's index cannot hold it up."""

import importlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "infra"))  # scripts, not a package
torch_build: Any = importlib.import_module("torch_build")

PIN = "2.13.0"
CPU_LOCK = ["numpy==2.4.6", "fbgemm-gpu-cpu==1.8.0", "torch==2.13.0"]
CUDA_LOCK = ["numpy==2.4.6", "fbgemm-gpu==1.8.0", "nvidia-nccl-cu13==2.29.7", "torch==2.13.0", "triton==3.7.1"]


def never_asked() -> bool:
    raise AssertionError("PyTorch's index was asked, and the answer does not matter")


@pytest.mark.parametrize(
    ("accelerator", "offered", "index_answers", "system", "source"),
    [
        ("cpu", "2.13.0+cpu", never_asked, "Linux", "as offered"),
        ("cpu", "2.13.0", never_asked, "Darwin", "as offered"),
        ("cpu", "2.13.0", lambda: True, "Linux", "cpu index"),
        ("cpu", "2.13.0", lambda: False, "Linux", "cuda build"),
        ("cpu", "2.13.0+cu130", lambda: True, "Linux", "cpu index"),
        ("cpu", "2.13.0+cu130", lambda: False, "Linux", "cuda build"),
        ("cpu", None, lambda: True, "Linux", "cpu index"),
        ("cuda", "2.13.0", never_asked, "Linux", "as offered"),
        ("cuda", "2.13.0+cu130", never_asked, "Linux", "as offered"),
        ("cuda", "2.13.0+cpu", never_asked, "Linux", "exact"),
    ],
)
def test_the_build_of_torch_follows_from_what_pip_offers(
    accelerator: str, offered: str | None, index_answers: Callable[[], bool], system: str, source: str
) -> None:
    choice = torch_build.choose_torch(accelerator, PIN, offered, index_answers, system)
    assert choice.source == source
    assert choice.sentence.startswith("torch 2.13.0")
    assert "\n" not in choice.sentence


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_no_torch_anywhere_is_one_line(accelerator: str) -> None:
    with pytest.raises(torch_build.SetUpError, match=r"pip finds no torch 2\.13\.0"):
        torch_build.choose_torch(accelerator, PIN, None, lambda: False, "Linux")


@pytest.mark.parametrize(
    ("available", "preferred"),
    [
        (["2.15.0", "2.13.0", "2.13.0+cpu", "2.12.1"], "2.13.0+cpu"),
        (["2.13.0+cpu", "2.13.0+cu130", "2.13.0"], "2.13.0+cu130"),
        (["2.15.0", "2.13.0"], "2.13.0"),
        (["2.15.0+cpu", "2.12.1"], None),
        ([], None),
    ],
)
def test_pip_prefers_a_local_build_of_the_pinned_version(available: list[str], preferred: str | None) -> None:
    assert torch_build.preferred_version(available, PIN) == preferred


def test_the_cuda_build_on_a_cpu_comes_with_its_libraries_but_not_with_a_second_fbgemm() -> None:
    pins = torch_build.pins_for(torch_build.TorchChoice("cuda build", ""), CPU_LOCK, CUDA_LOCK)
    assert pins == [*CPU_LOCK, "nvidia-nccl-cu13==2.29.7", "triton==3.7.1"]


def test_the_public_build_is_pinned_so_that_a_local_one_does_not_match() -> None:
    pins = torch_build.pins_for(torch_build.TorchChoice("exact", ""), CUDA_LOCK, CUDA_LOCK)
    assert "torch===2.13.0" in pins
    assert len(pins) == len(CUDA_LOCK)


@pytest.mark.parametrize("source", ["as offered", "cpu index"])
def test_other_choices_install_the_lock_as_it_is(source: str) -> None:
    assert torch_build.pins_for(torch_build.TorchChoice(source, ""), CPU_LOCK, CUDA_LOCK) == CPU_LOCK


# --- the probe


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/torch/" else 404)
        self.end_headers()
        self.wfile.write(b"<a>torch</a>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def server_that_trickles(*, seconds_between_bytes: float | None) -> Iterator[str]:
    """A server that accepts and then says nothing, or one byte of its headers now and then."""
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while not over.wait(seconds_between_bytes or 60):
                connection.sendall(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/torch/"
        finally:
            over.set()
            thread.join(5)


def test_a_page_is_an_answer_and_an_error_or_a_closed_port_is_not(index_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert torch_build.answers(f"{index_url}/torch/")
    assert not torch_build.answers(f"{index_url}/nothing/")
    assert not torch_build.answers(f"http://127.0.0.1:{port}/torch/")
    assert not torch_build.answers("no address")


@pytest.mark.parametrize("seconds_between_bytes", [None, 0.2], ids=["silent", "one byte at a time"])
def test_a_server_that_never_answers_is_given_up_within_the_limit(seconds_between_bytes: float | None) -> None:
    with server_that_trickles(seconds_between_bytes=seconds_between_bytes) as url:
        started = time.monotonic()
        assert not torch_build.answers(url, limit_seconds=1.0)
        assert time.monotonic() - started < 2.0


def test_the_limit_of_the_probe_is_5_seconds() -> None:
    assert torch_build.PROBE_SECONDS == 5.0
