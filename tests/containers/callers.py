"""Callers that go on asking for a gradient and check every answer; as a program, until SIGTERM.

python callers.py TARGET        tells what was answered so far, a line a tenth of a second; then what failed
"""

from __future__ import annotations

import json
import signal
import sys
import threading

import numpy as np

import gradwire as gw

CALLER_COUNT = 4
_INTERVAL_S = 0.1
_PATIENCE_S = 120


class Callers:
    """Threads that ask until they are stopped.

    Args:
        target: address of the service.
        settings: settings of their clients.

    Attributes:
        answered_count: how many right answers there were.
        failures: what else there was.
    """

    def __init__(self, target, **settings):
        self.answered_count = 0
        self.failures = []
        self._target = target
        self._settings = settings
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLER_COUNT)]

    def start(self):
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self):
        """Answer what is asked, and end."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_PATIENCE_S)

    def _call(self):
        x = np.linspace(0.1, 1.0, 50)
        with gw.connect(self._target, **self._settings) as client:
            slope = client.grad(lambda x: np.sum(np.sin(x)))
            while not self._stopping.is_set():
                try:
                    assert np.allclose(slope(x), np.cos(x))
                except Exception as error:  # noqa: BLE001  # whatever it is, it is what a test counts
                    self.failures.append(f"{type(error).__name__}: {error}")
                else:
                    self.answered_count += 1


def main():
    """Call until SIGTERM."""
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    callers = Callers(sys.argv[1])
    callers.start()
    while not stopping.wait(_INTERVAL_S):
        print(json.dumps([callers.answered_count, callers.failures]), flush=True)
    callers.stop()
    print(json.dumps([callers.answered_count, callers.failures]), flush=True)


if __name__ == "__main__":
    main()
