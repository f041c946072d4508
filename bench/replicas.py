"""Two replicas beside one: how many more requests are answered, when each may use half a core and the generator has one of its own.

Replicas are containers of the image `gradwire` on the first core, which the engine lets have half of it each; the generator runs
on the others. Both go before whatever else the machine does, as far as this process may say so. Requests are values and gradients
in a closed loop, which reach both replicas in turn. One replica, the other, and both are measured by turns, since machines are not
equally fast all the time.

A replica that has used its half of a tenth of a second stands still for the rest of it, while requests go to it in turn as before.
So many are under way that the other does not run out of work meanwhile. Each is much work for little data: what the kernel does to
carry it is on no replica's account, and two replicas that use a whole core leave it no time there, where one leaves it half.

    make image && .venv/bin/python bench/replicas.py
    .ci/engine sh -c 'deploy/build && .venv/bin/python bench/replicas.py'     where no engine answers
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

DOCKER = os.environ.get("DOCKER", "docker")
AT_LEAST = 1.8
SHARES = "262144"  # the most there is; a process that nobody favours has 1024
FAVOURED = -15
IN_FLIGHT = 128
PORT = 50051
PATIENCE_S = 120
SCENARIO = """title = "Replicas"
mode = "unary"
warmup_s = 2
check = 0
slo = "errors=0"
arrivals = { kind = "closed", in_flight = 16 }

[[mix]]
name = "gradient"
program = "potential"
sizes = { n = 500 }
want = ["value", "grad"]
"""
ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"


def docker(*arguments: str) -> str:
    """Run the client of the engine; return what it printed."""
    return subprocess.run([DOCKER, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def obstacle() -> str:
    """What keeps this from being measured here; empty if nothing does."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        return f"two cores, got {len(cores)}"
    if shutil.which(DOCKER) is None or subprocess.run([DOCKER, "info"], capture_output=True, check=False).returncode:
        return "a container engine, got none that answers"
    if not docker("images", "-q", "gradwire"):
        return "the image gradwire, got none: make image"
    return ""


@contextlib.contextmanager
def replica(core: int, share: float) -> Iterator[str]:
    """Run a replica on a core, of which it may have a share; yield where it serves."""
    bounds = ["--cpus", str(share), "--cpuset-cpus", str(core), "--cpu-shares", SHARES, "--memory", "1g"]
    if docker("info", "--format", "{{.CgroupDriver}}") == "cgroupfs":
        bounds += ["--cgroup-parent", "/"]  # else its share would be of what all containers get together
    settings = ["--workers", "1", "--spare-workers", "0", "--max-queue-s", "30"]  # what is throttled makes others wait, not go
    name = docker("run", "--detach", *bounds, "--health-interval", "1s", "gradwire", *settings)
    try:
        end_s = time.monotonic() + PATIENCE_S
        while docker("inspect", "--format", "{{.State.Health.Status}}", name) != "healthy":
            if time.monotonic() > end_s:
                sys.exit(f"needed a healthy replica, got: {docker('logs', name)}")
            time.sleep(0.2)
        yield f"{docker('inspect', '--format', ADDRESS, name)}:{PORT}"
    finally:
        docker("rm", "--force", name)


def rate(addresses: list[str], seconds: float, folder: Path) -> float:
    """Return the requests a second that replicas answer, so many being under way at each."""
    path, scenario = folder / "result.json", folder / "replicas.toml"
    scenario.write_text(SCENARIO)
    command = [sys.executable, "-m", "gradwire", "load", "run", str(scenario), "--target", f"ipv4:{','.join(addresses)}"]
    command += ["--in-flight", str(IN_FLIGHT * len(addresses)), "--duration", str(seconds), "--quiet", "--json", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"needed every request answered, got:\n{done.stdout}{done.stderr}")
    return float(json.loads(path.read_text())["requests"]["answered_per_s"])


def main() -> None:
    """Measure, and print the ratio; exit with 1 if it is too small."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default: 10)")
    parser.add_argument("--rounds", type=int, default=3, help="of measurements (default: 3)")
    parser.add_argument("--share", type=float, default=0.5, help="of a core that each replica may have (default: 0.5)")
    options = parser.parse_args()
    found = obstacle()
    if found:
        print(f"not measured: needed {found}")
        return
    first, *others = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, others)  # and so of all that is started here; containers are started by the engine
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, FAVOURED)
    ones: list[float] = []
    twos: list[float] = []
    with tempfile.TemporaryDirectory() as folder, replica(first, options.share) as a, replica(first, options.share) as b:
        for each in range(options.rounds):
            ones += [rate([a], options.seconds, Path(folder)), rate([b], options.seconds, Path(folder))]
            twos.append(rate([a, b], options.seconds, Path(folder)))
            print(f"round {each + 1}: one {ones[-2]:.0f} and {ones[-1]:.0f}, both {twos[-1]:.0f} requests a second", flush=True)
    ratio = statistics.median(twos) / statistics.median(ones)
    print(f"two replicas of {options.share:g} core answer {ratio:.2f} x the requests of one; at least {AT_LEAST} is wanted")
    sys.exit(ratio < AT_LEAST)


if __name__ == "__main__":
    main()
