"""What the Python parts share: checks that are counted, and processes that are started and ended.

A part is a program that prints one line a check, ends with `N passed, N failed` and exits non-zero
when anything failed. harness.mjs says the same in JavaScript.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "target" / "conformance"


class Checks:
    """Counts what was checked and says each on a line of its own."""

    def __init__(self):
        self.passed = self.failed = 0

    def check(self, name, ok, detail=""):
        if ok:
            self.passed += 1
        else:
            self.failed += 1
        note = f" ({detail})" if detail else ""
        print(f"{'ok  ' if ok else 'FAIL'} {name}{note}", flush=True)
        return ok

    def finish(self):
        """Prints the closing line; a part in which nothing was checked has failed."""
        if self.passed + self.failed == 0:
            self.check("anything was checked at all", False)
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)


class Process:
    """A program that prints the loopback port it listens on, ended when its `with` block ends."""

    def __init__(self, command, log, start_timeout=10, **popen):
        log = REPORTS / log
        log.parent.mkdir(parents=True, exist_ok=True)
        self.command, self.log, self.port = command, log, None
        self._listening = threading.Event()
        self._child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **popen,
        )
        # The output is read to its end, so that a chatty program never blocks on a full pipe.
        threading.Thread(target=self._copy_output, daemon=True).start()
        if not self._listening.wait(start_timeout) or self.port is None:
            self.stop()
            raise RuntimeError(f"{command[0]} did not say where it listens; see {os.path.relpath(log, ROOT)}")

    def _copy_output(self):
        with self.log.open("w") as log:
            for line in self._child.stdout:
                log.write(line)
                log.flush()
                address = re.search(r"(?:127\.0\.0\.1|localhost):(\d+)", line)
                if address and self.port is None:
                    self.port = int(address[1])
                    self._listening.set()
        self._listening.set()

    def alive(self):
        return self._child.poll() is None

    def cpu_seconds(self):
        """Processor time it has used so far."""
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def interrupt(self):
        """What ctrl-C does."""
        self._child.send_signal(signal.SIGINT)

    def hang_up(self):
        """What has a server read its certificates again."""
        self._child.send_signal(signal.SIGHUP)

    def wait(self, timeout):
        """The exit status, or None while it still runs after `timeout` seconds."""
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self):
        if self.alive():
            self._child.terminate()
            if self.wait(5) is None:
                self._child.kill()
                self._child.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def wireline():
    """The program under test: `$WIRELINE`, or what cargo built last of release and debug."""
    if "WIRELINE" in os.environ:
        return os.environ["WIRELINE"]
    return built("release/wireline", "debug/wireline")


def peer_client():
    """The client that checks its echoes: `$PEER_CLIENT`, or the example."""
    return os.environ.get("PEER_CLIENT") or built("release/examples/peer_client", "debug/examples/peer_client")


def built(*candidates):
    """The first of these files under target/ that exists; the first of all when none does."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    paths = [target / candidate for candidate in candidates]
    return str(next((path for path in paths if path.exists()), paths[0]))


def serve(*options, log, **popen):
    """A running `wireline serve` on a free port of the loopback interface."""
    return Process([wireline(), "serve", "127.0.0.1:0", *options], log, **popen)
