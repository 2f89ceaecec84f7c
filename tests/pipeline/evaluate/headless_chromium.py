"""Opens a page in headless Chromium and drives it over the DevTools protocol."""

import asyncio
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TIMEOUT_SECONDS = 60


class OpenPage:
    """A page as a person sees it; `requests` are the addresses that it asked for, `errors` what its console says."""

    def __init__(self, path: Path, width_pixels: int = 1200, *, has_script: bool = True) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._path, self._width_pixels, self._has_script = path, width_pixels, has_script
        self._loop = asyncio.new_event_loop()
        self._num_calls = 0

    def __enter__(self) -> Self:
        assert CHROMIUM
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0")
        offline = ("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={self._profile.name}")
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, *offline, "about:blank"], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._open(), TIMEOUT_SECONDS))
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.run_until_complete(self._session.close())
        self._stop()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, which must be one that JSON can hold."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, **({"text": text} if kind == "keyDown" else {}))

    async def _open(self) -> None:
        assert self._process.stderr
        lines = iter(self._process.stderr.readline, "")
        address = next(line.split()[-1] for line in lines if "DevTools listening on" in line)
        self._session = aiohttp.ClientSession()
        self._socket = await self._session.ws_connect(address, max_msg_size=0)
        self._target = ""
        target = (await self._send("Target.createTarget", url="about:blank"))["targetId"]
        self._target = (await self._send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self._send(f"{domain}.enable")
        is_phone = self._width_pixels < 600
        size = {"width": self._width_pixels, "height": 900, "deviceScaleFactor": 1, "mobile": is_phone}
        await self._send("Emulation.setDeviceMetricsOverride", **size)
        await self._send("Emulation.setScriptExecutionDisabled", value=not self._has_script)
        self._is_loaded = False
        await self._send("Page.navigate", url=self._path.as_uri())
        while not self._is_loaded:
            self._note(await self._socket.receive_json())

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, **parameters), TIMEOUT_SECONDS))

    async def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._num_calls += 1
        session = {"sessionId": self._target} if self._target else {}
        await self._socket.send_json({"id": self._num_calls, "method": method, "params": parameters, **session})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == self._num_calls:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])
            case "Log.entryAdded" if told["entry"]["level"] == "error":
                self.errors.append(told["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning"):
                self.errors.append(str(told["args"]))
            case "Page.loadEventFired":
                self._is_loaded = True

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr:
            self._process.stderr.close()
        self._loop.close()
        self._profile.cleanup()
