"""A wire to a server, that counts what goes over it and can be cut."""

import contextlib
import select
import socket
import threading


class Wire:
    """A wire to a server.

    Attributes:
        address: where it begins.
        sent: the bytes that went to the server.
        received: the bytes that came from it.
    """

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends = []
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent = self.received = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Break all connections off; new ones can be made."""
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        """Break all connections off, and let no more be made."""
        self.end()
        self.cut()

    def end(self):
        """Let no more connections be made."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # closing alone does not wake who accepts
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near):
        host, _, port = self._target.rpartition(":")
        with contextlib.suppress(OSError), near, socket.create_connection((host, int(port))) as far:
            self._ends += [near, far]
            while True:
                for end in select.select([near, far], [], [])[0]:
                    data = end.recv(2**16)
                    if not data:
                        return
                    if end is near:
                        self.sent += len(data)
                        far.sendall(data)
                    else:
                        self.received += len(data)
                        near.sendall(data)
