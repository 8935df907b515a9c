"""A cable between a client and a server on this machine. Cut, it lets nothing through, and tells nobody."""

from __future__ import annotations

import contextlib
import socket
import threading


class Cable:
    """Forwards TCP connections. Use as a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._whole = threading.Event()
        self._whole.set()
        self._ends: list[socket.socket] = []
        self._near: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Cable:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.join()
        self._drop()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        """From now on nothing arrives at either end."""
        self._whole.clear()

    def join(self) -> None:
        """What connects from now on is forwarded; what was held up is lost."""
        if not self._whole.is_set():
            self._drop()
            self._whole.set()

    def _drop(self) -> None:
        for each in self._ends:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._ends.clear()
        self._near.clear()

    def say(self, words: bytes) -> None:
        """Say this to every client, as if the server had, and let nothing more through."""
        self.cut()
        for each in self._near:
            each.sendall(words)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self._ends.append(near)
            self._near.append(near)
            threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _forward(self, near: socket.socket) -> None:
        try:
            self._whole.wait()
            far = socket.create_connection(self._to)
        except OSError:
            near.close()
            return
        self._ends.append(far)
        back = threading.Thread(target=self._pump, args=(far, near), daemon=True)
        back.start()
        self._pump(near, far)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._whole.wait()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
