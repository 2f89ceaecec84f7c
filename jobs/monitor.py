"""`gatehouse monitor`: what runs have written, as metrics for Prometheus."""

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.options import ConfigPath, Overrides
from pipeline.errors import UsageError
from pipeline.run_config import load_run_config

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

MAX_PORT = 65535
SIGNAL_EXIT_CODE = 128

Listen = Annotated[str, typer.Option("--listen", help="Where to serve /metrics.", metavar="HOST:PORT")]
Once = Annotated[bool, typer.Option("--once", help="Print the metrics and end; for node exporter's text files.")]


def main(config: ConfigPath, set_: Overrides = None, listen: Listen = "127.0.0.1:9464", once: Once = False) -> None:
    """Export losses, speed, the champion's age and the gate's decisions for Prometheus, until SIGTERM."""
    run_config = load_run_config(config, tuple(set_ or ()))
    host, port = _parse_address(listen)
    from prometheus_client import CollectorRegistry, generate_latest

    from pipeline.monitor.collector import Monitor

    metrics = CollectorRegistry()
    metrics.register(Monitor(run_config, _say))
    if once:
        print(generate_latest(metrics).decode(), end="")
    else:
        _serve(metrics, host, port)


def _serve(metrics: "CollectorRegistry", host: str, port: int) -> None:
    from prometheus_client import start_http_server

    # Before a thread is started: all of them inherit it, and the signal is left to this one.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        server, _ = start_http_server(port, host, metrics)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"--listen {host}:{port} cannot be used: {reason}", "give another address or port") from error
    print(f"monitor: http://{host}:{server.server_port}/metrics", flush=True)
    ended_by = signal.sigwait(ends)
    # Nothing is written here, and an ordinary end would wait for a storage that does not answer.
    os._exit(0 if ended_by == signal.SIGTERM else SIGNAL_EXIT_CODE + ended_by)


def _parse_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise UsageError(f"--listen {text!r} is no HOST:PORT", "write it as 127.0.0.1:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _say(problem: str) -> None:
    print(f"monitor: {problem}", file=sys.stderr, flush=True)
