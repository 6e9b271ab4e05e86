"""A web server of one folder that gives ranges of bytes, and fails when it is told to."""

from __future__ import annotations

import http.server
import re
import threading
from collections import deque
from pathlib import Path
from typing import Any


class RangeServer:
    """Serves the files of a folder on the loopback interface.

    Attributes:
        url: of the folder.
        faults: what goes wrong with the next requests for parts of files, one each: "503", "close" (no answer),
            "truncate" (the connection ends within the answer), "short" (a whole answer of fewer bytes), "wrong" (a byte
            differs).
        always: a fault of every such request, when there are no others.
        ranges: (name, first byte, byte after the last) of every answered one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.faults, self.always = folder, deque[str](), ""
        self.ranges: list[tuple[str, int, int]] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"owner": self}))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: RangeServer
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one piece: else each answer waits 40 ms for the other side

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        file = self.owner.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        file = self.owner.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        with open(file, "rb") as opened:
            start = int(wanted[1]) if wanted else 0
            opened.seek(start)
            data = opened.read(int(wanted[2]) + 1 - start if wanted else -1)
        fault = (self.owner.faults.popleft() if self.owner.faults else self.owner.always) if wanted else ""
        if fault == "503":
            self.send_error(503)
            return
        if fault == "close":
            self.close_connection = True
            return
        if fault == "short":
            data = data[:-7]
        if fault == "wrong":
            data = data[:5] + bytes([data[5] ^ 1]) + data[6:]
        if wanted and not fault:
            self.owner.ranges.append((file.name, start, start + len(data)))
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{file.stat().st_size}")
        self.end_headers()
        if fault == "truncate":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)
