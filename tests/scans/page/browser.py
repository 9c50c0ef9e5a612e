"""A headless Chromium that a test drives over the DevTools protocol; nothing but the standard library."""

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 30.0  # seconds, for anything that the browser has to do
KEYS = {"Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13}


def find_chromium() -> str | None:
    """Return the path of Chromium or Chrome, if the machine has one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class WebSocket:
    """The client's side of RFC 6455, as far as DevTools needs it: text messages, whole or in fragments."""

    def __init__(self, host: str, port: int, path: str) -> None:
        self._socket = socket.create_connection((host, port), timeout=PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade"
        lines += f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""
        self._socket.sendall("\r\n".join(lines).encode())
        self._stream = self._socket.makefile("rb")
        status = self._stream.readline()
        if b" 101 " not in status:
            raise ConnectionError(f"no web socket: {status!r}")
        while self._stream.readline().strip():
            pass

    def send(self, text: str) -> None:
        data, mask = text.encode(), os.urandom(4)
        short = len(data) < 126
        size = bytes([0x80 | len(data)]) if short else bytes([0x80 | 127]) + len(data).to_bytes(8, "big")
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
        self._socket.sendall(b"\x81" + size + mask + masked)

    def receive(self) -> str:
        parts = []
        while True:
            first, second = self._read(2)
            size = second & 0x7F
            if size > 125:
                size = int.from_bytes(self._read(2 if size == 126 else 8), "big")
            data = self._read(size)
            if first & 0x0F in (0, 1):  # not a ping or the like
                parts.append(data)
                if first & 0x80:
                    return b"".join(parts).decode()

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise ConnectionError("the browser closed the connection")
        return data

    def close(self) -> None:
        self._stream.close()
        self._socket.close()


class Browser:
    """One page of a headless Chromium; a context manager.

    Parameters
    ----------
    executable : str
    profile : Path
        An empty folder.
    size : tuple of int
        Of the page, CSS pixels.
    """

    def __init__(self, executable: str, profile: Path, size: tuple[int, int] = (1280, 800)) -> None:
        self.problems: list[str] = []  # errors and warnings on the page's console
        self.requests: list[str] = []  # addresses that the page asks for, its own first
        self._number = 0
        options = ["--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-dev-shm-usage"]
        options += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        # Chromium refuses its sandbox to root, which is who runs tests in a container.
        options += ["--no-sandbox"] if os.geteuid() == 0 else []
        options += [f"--window-size={size[0]},{size[1]}", "about:blank"]
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([executable, *options], **silent)
        try:
            port = self._port(profile / "DevToolsActivePort")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", "/json/list")
            pages = json.loads(connection.getresponse().read())
            connection.close()
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            self._socket = WebSocket("127.0.0.1", port, "/" + address.split("/", 3)[3])
        except BaseException:
            self._stop()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        self.resize(*size)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close()
        self._stop()

    def command(self, method: str, **parameters):
        """Send one command and wait for its answer."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (message := json.loads(self._socket.receive())).get("id") != self._number:
            self._note(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def open(self, path: Path, until: str) -> float:
        """Open a file and wait until an expression is true; returns the seconds that took."""
        started = time.perf_counter()
        self.command("Page.navigate", url=path.resolve().as_uri())
        self.wait(until)
        return time.perf_counter() - started

    def evaluate(self, expression: str):
        """Return the value of an expression in the page."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description", "exception"))
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}; problems: {self.problems}")
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Return the text that a reader sees in an element."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def move(self, x: float, y: float) -> None:
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def click(self, x: float, y: float) -> None:
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def wheel(self, x: float, y: float, delta: float) -> None:
        self.command("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=delta)
        self.settle()

    def touch(self, kind: str, *fingers: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
        self.command("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.settle()

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])
        self.settle()

    def resize(self, width: int, height: int, density: float = 1.0) -> None:
        settings = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **settings)

    def dark(self, dark: bool) -> None:
        value = "dark" if dark else "light"
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])
        self.settle()

    def screenshot(self, path: Path, whole: bool = False) -> None:
        answer = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def settle(self) -> None:
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def _note(self, message: dict) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                details = told["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description", details["text"]))
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.problems.append(f"console: {[value.get('value') for value in told['args']]}")
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.problems.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])

    def _port(self, file: Path) -> int:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            if self._process.poll() is not None:
                raise RuntimeError(f"the browser ended at once, with {self._process.returncode}")
            time.sleep(0.05)
        raise TimeoutError("the browser opened no port")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
