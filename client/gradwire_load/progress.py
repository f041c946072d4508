"""What a terminal shows of a run: a line that is written over while it goes on, and a summary at its end."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, TextIO

from gradwire_load.runner import Attempt, Trial
from gradwire_load.search import Outcome

REDRAW_S = 0.25
PLAIN_S = 5.0  # between lines, where the output is no terminal
BLOCKS = " ▁▂▃▄▅▆▇█"
TRACE = 16  # seconds of throughput shown


class Progress:
    """Shows how a run goes.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_live = self._stream.isatty()
        self._last_s = 0.0
        self._is_open = False

    def tell(self, text: str) -> None:
        """Say what is being done."""
        if self._is_live:
            self._write_over(f"… {text}")

    def show(self, trial: Trial) -> None:
        """Show how a trial goes, if it is time to."""
        now_s = time.monotonic()
        if now_s - self._last_s < (REDRAW_S if self._is_live else PLAIN_S) or (now_s < trial.began_s and not self._is_live):
            return
        self._last_s = now_s
        line = progress_line(trial, now_s)
        if self._is_live:
            self._write_over(line)
        else:
            print(line, file=self._stream, flush=True)

    def tell_attempt(self, attempt: Attempt) -> None:
        """Show what came of a trial of the search."""
        mark = {Outcome.HELD: "holds", Outcome.FAILED: "fails", Outcome.UNSENT: "not sent in time"}[attempt.outcome]
        self.line(
            f"  {attempt.rate:8.1f}/s  {mark:<16}  p50 {attempt.p50_s * 1e3:8.2f} ms  p99 {attempt.p99_s * 1e3:8.2f} ms  "
            f"errors {attempt.error_share:.2%}"
        )

    def line(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        print(text, file=self._stream, flush=True)

    def clear(self) -> None:
        """Take the line away that is written over."""
        if self._is_open:
            self._stream.write("\r\x1b[2K")
            self._is_open = False

    def _write_over(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[2K{text[:width]}")
        self._stream.flush()
        self._is_open = True


def progress_line(trial: Trial, now_s: float) -> str:
    """Return a line on a trial: how far it is, a trace of the answers of each second, rate, latency, errors."""
    tally = trial.tally
    second = now_s - trial.began_s
    if second < 0:
        return f"warm-up {-second:4.0f} s   {tally.in_flight} under way"
    counts = [item.answered for item in tally.seconds[: max(int(second), 0)]][-TRACE:]
    latency = tally.latency
    failed = sum(tally.failed.values())
    rate = counts[-1] if counts else 0
    parts = [
        f"{min(second, trial.arrivals.duration_s):5.0f}/{trial.arrivals.duration_s:.0f} s",
        f"{sparkline(counts):{TRACE}}",
        f"{rate:6.0f}/s",
        f"p50 {latency.percentile_s(50.0) * 1e3:.2f}",
        f"p99 {latency.percentile_s(99.0) * 1e3:.2f} ms",
        f"{failed} failed",
        f"{tally.in_flight} under way",
    ]
    if not tally.is_valid:
        parts.append(f"{tally.late_share:.1%} sent late")
    return "  ".join(parts)


def sparkline(values: list[int]) -> str:
    """Return a bar for each value, the highest as high as the largest."""
    most = max(values, default=0) or 1
    return "".join(BLOCKS[round(value / most * (len(BLOCKS) - 1))] for value in values)


def summary_text(result: dict[str, Any]) -> str:
    """Return the summary of a result, for a terminal."""
    requests, settings, offered = result["requests"], result["settings"], result["requests"]["offered_per_s"]
    of = f" of {offered:.1f}/s offered" if offered is not None else ""
    lines = [
        f"{result['scenario']['title']} at {result['target']}: {settings['mode']}, {settings['duration_s']:.0f} s",
        f"  answered    {requests['answered']} requests, {requests['answered_per_s']:.1f}/s{of}",
        f"  latency     {_times_text(result['latency_ms'])}, from when requests were due",
        f"  service     {_times_text(result['service_ms'])}, from when they were sent",
        f"  checked     {requests['checked']} answers against the embedded engine",
    ]
    lines += [
        f"  failed      {item['count']} ({item['share']:.2%}) {item['reason']}: {(item['texts'] or [''])[0][:90]}"
        for item in result["errors"]
    ]
    lines += [
        f"  objective   {item['objective']}: {item['measured']}, {'met' if item['met'] else 'MISSED'}" for item in result["slo"]
    ]
    if result["search"]:
        search = result["search"]
        end = "the generator could send no more" if search["is_limited_by_generator"] else "the server's saturation point"
        lines.append(f"  find-max    {search['rate']:.1f}/s holds; {end}")
    if result["metrics"] and result["metrics"]["problem"]:
        lines.append(f"  metrics     not all read: {result['metrics']['problem']}")
    return "\n".join([*lines, f"  {result['verdict']['text']}"])


def _times_text(times: dict[str, float]) -> str:
    shown = "   ".join(f"{name} {times[name]:.2f}" for name in ("p50", "p90", "p99", "p99.9", "max"))
    return f"{shown} ms"
