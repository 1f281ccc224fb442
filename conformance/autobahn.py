#!/usr/bin/env python3
"""The Autobahn TestSuite, through its runner kosoku, against one of wireline's two roles.

    autobahn.py server      kosoku is the client, `wireline serve` is tested
    autobahn.py client      kosoku is the server, $AUTOBAHN_CLIENT is tested

--compression runs what concerns permessage-deflate alone: the two sections on it, and all others again with
compression agreed on. --section=N (repeatable) runs only that section, --plain nothing compressed. Without --full,
--compression or its name section 13 is left out: the parameters of compression, five minutes a role.

--wire=http2 and --wire=http3 put a bridge between, since the suite speaks HTTP/1.1 only: sections 1 to 7, and with
--full 12, by way of somebody else's HTTP/2 (Node's) or HTTP/3 (aioquic's).

Stricter than the suite's own exit status, which lets NON-STRICT pass: each case must be OK, and
there must be as many as the suite has, so that a run that tested little cannot pass.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness import REPORTS, ROOT, Checks, Process, built, serve
from proxies import certificates

# Cases in each section of the suite.
SECTIONS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1}
# permessage-deflate and its parameters, for a server with `--deflate`: about eight minutes a role.
COMPRESSION_SECTIONS = {12: 90, 13: 126}

# The suite judges nothing in these: what a peer does is not fixed by the RFC. A message and a Close
# in one burst (7.1.6), close codes out of range (7.13.1, 7.13.2). What was seen is printed.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

# Once compression is agreed on, RSV1 stands for it (RFC 7692 section 6): what comes with it in case 3.4 breaks
# no rule of frames, but is no DEFLATE either, so that 1007 is right where the suite knows 1002 only. RSV2 and
# RSV3, alone or with RSV1, stay what they were in cases 3.1 to 3.7.
CLOSED_OTHERWISE_IF_COMPRESSED = {"3.4": 1007}

# Sections 9.1 to 9.6 send messages of up to 16 MiB.
MAX_MESSAGE = 64 * 1024 * 1024
AGENT = "wireline"
HERE = Path(__file__).resolve().parent
# Sections 1 to 10 take well under a minute together, 12 some minutes; a hanging case must not hang the run.
SECTION_TIMEOUT = 900
# Over HTTP/3 section 12 is 90 times some seconds of aioquic's.
HTTP3_SECTION_TIMEOUT = 3600

KOSOKU = [ROOT / ".tools" / "conformance" / "bin" / "python3", HERE / "kosoku_run.py"]


@dataclass
class Run:
    """One section in one way."""

    section: int
    case_count: int
    # The cases of sections 1 to 10 again, with compression agreed on in each.
    is_compressed: bool = False

    @property
    def name(self):
        return f"section {self.section}" + (" compressed" if self.is_compressed else "")

    @property
    def directory(self):
        return self.name.replace(" ", "-")

    @property
    def suite_options(self):
        return ["-i", f"{self.section}.*", *(["--deflate"] if self.is_compressed else [])]

    @property
    def wants_deflate(self):
        return self.is_compressed or self.section in COMPRESSION_SECTIONS


@dataclass
class Wire:
    """What lies between the suite and its testee."""

    name: str = "http1"
    # Options of `wireline serve` and of the client, and the bridge before a port in either direction.
    serving: tuple = ()
    connecting: tuple = ()
    to: tuple = ()
    back: tuple = ()

    @staticmethod
    def named(name):
        if name == "http2":
            bridge = ("node", HERE / "bridge_http2.mjs")
            return Wire(name, ("--http2",), ("--http2",), (*bridge, "to"), (*bridge, "from"))
        ca, cert, key = certificates(fresh(REPORTS / "autobahn-http3-tls"))
        bridge = (ROOT / ".tools" / "http-peers" / "bin" / "python", HERE / "bridge_http3.py")
        serving = ("--http3", "--tls-cert", cert, "--tls-key", key)
        return Wire(name, serving, ("--http3", ca), (*bridge, "to", ca), (*bridge, "from", cert, key))

    @contextlib.contextmanager
    def bridged(self, command, port, log):
        """The port to use instead of this one."""
        if not command:
            yield port
            return
        program, script, direction, *files = command
        with Process([program, script, direction, port, *files], log) as bridge:
            yield bridge.port

    @property
    def section_timeout(self):
        return HTTP3_SECTION_TIMEOUT if self.name == "http3" else SECTION_TIMEOUT

    def reports(self, role):
        return "autobahn-" + role + ("" if self.name == "http1" else f"-{self.name}")


def judge(checks, run, report, details):
    """Checks one section of an index.json: every case OK, none missing.

    `details` is the directory with the suite's report of each case, which says more in words.
    """
    if len(report) > 1:
        checks.check(f"{run.name}: one agent", False, ", ".join(report))
    cases = {
        case: result
        for agent in report.values()
        for case, result in agent.items()
        if case.split(".")[0] == str(run.section)
    }
    strictly_ok = agreed = 0
    for case, result in sorted(cases.items(), key=lambda item: numbers(item[0])):
        told = json.loads((details / result["reportfile"]).read_text()) if details else {}
        agreed += "permessage-deflate" in told.get("httpResponse", "")
        seen = (result["behavior"], result["behaviorClose"])
        if seen == ("OK", "OK"):
            strictly_ok += 1
            continue
        close_code = result.get("remoteCloseCode")
        informational = case in INFORMATIONAL and set(seen) <= {"OK", "INFORMATIONAL"}
        otherwise = run.is_compressed and CLOSED_OTHERWISE_IF_COMPRESSED.get(case)
        closed_otherwise = bool(otherwise) and (*seen, close_code) == ("OK", "WRONG CODE", otherwise)
        detail = f"behavior {seen[0]}, close {seen[1]}, close code {close_code}: {told.get('result')}"
        note = " (informational)" if informational else " (another code is right)" if closed_otherwise else ""
        way = " compressed" if run.is_compressed else ""
        checks.check(f"case {case}{way}{note}", informational or closed_otherwise, detail)
    checks.passed += strictly_ok
    if run.wants_deflate:
        checks.check(f"{run.name}: compression was agreed on in each case", agreed == len(cases), f"in {agreed}")
    checks.check(
        f"{run.name}: all {run.case_count} cases ran",
        len(cases) == run.case_count,
        f"{len(cases)} ran, {strictly_ok} strictly OK",
    )


def numbers(case):
    return [int(part) for part in case.split(".")]


def read_report(directory):
    """The suite's index.json, which it writes only when a run came to its end."""
    index = directory / "index.json"
    return json.loads(index.read_text()) if index.exists() else {}


def fresh(directory):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def test_server(checks, runs, wire):
    reports = fresh(REPORTS / wire.reports("server"))
    for name, options in (("wireline", []), ("wireline-deflate", ["--deflate"])):
        chosen = [run for run in runs if run.wants_deflate == bool(options)]
        if not chosen:
            continue
        options = ["--max-message", MAX_MESSAGE, *options, *wire.serving]
        with (
            serve(*options, log=f"{reports.name}/{name}.log") as server,
            wire.bridged(wire.to, server.port, f"{reports.name}/{name}-bridge.log") as port,
        ):
            for run in chosen:
                out = reports / run.directory
                command = [*KOSOKU, "-m", "fuzzingclient", *run.suite_options, "-o", out]
                log = reports / f"{run.directory}.log"
                run_logged([*command, f"127.0.0.1:{port}"], log, wire.section_timeout)
                judge(checks, run, read_report(out), out)
            checks.check("the server still runs", server.alive())
            if wire.name != "http1":
                over = f"opened over HTTP/{wire.name[-1]}: echo"
                checks.check(f"the server was spoken to in {wire.name}", over in server.log.read_text())


def test_client(checks, runs, wire):
    reports = fresh(REPORTS / wire.reports("client"))
    client = os.environ.get("AUTOBAHN_CLIENT") or built(
        "release/examples/autobahn_client", "debug/examples/autobahn_client"
    )
    for run in runs:
        out = reports / run.directory
        command = [*KOSOKU, "-m", "fuzzingserver", *run.suite_options, "-o", out, "127.0.0.1:0"]
        with (
            Process(command, f"{reports.name}/{run.directory}.log") as suite,
            wire.bridged(wire.back, suite.port, f"{reports.name}/{run.directory}-bridge.log") as port,
        ):
            url = f"wss://localhost:{port}" if wire.name == "http3" else f"ws://127.0.0.1:{port}"
            # Section 13 wants a client that can do without context takeover, and the others one that need not.
            options = [*wire.connecting, *(["--no-context-takeover"] if run.section == 13 else [])]
            log = reports / f"client-{run.directory}.log"
            status = run_logged([client, url, AGENT, *options], log, wire.section_timeout)
            # The client's call of updateReports ends the suite, which then writes its report.
            if status == 0:
                suite.wait(30)
        judge(checks, run, read_report(out), out)
        checks.check(f"{run.name}: the client ended well", status == 0, f"status {status}")


def run_logged(command, log, timeout):
    """Runs a command to its end, or to the time limit; its exit status, None at the limit."""
    with log.open("w") as output:
        try:
            return subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            ).returncode
        except (subprocess.TimeoutExpired, OSError) as error:
            output.write(f"{error}\n")
            return None


def main(role, *options, checks):
    runs = [Run(section, count) for section, count in (SECTIONS | COMPRESSION_SECTIONS).items()]
    runs += [Run(section, count, is_compressed=True) for section, count in SECTIONS.items()]
    if "--compression" in options:
        runs = [run for run in runs if run.wants_deflate]
    if "--plain" in options:
        runs = [run for run in runs if not run.wants_deflate]
    wanted = {int(option.split("=")[1]) for option in options if option.startswith("--section=")}
    if wanted:
        runs = [run for run in runs if run.section in wanted]
    elif not {"--full", "--compression"} & set(options):
        runs = [run for run in runs if run.section != 13]
    wire = Wire()
    if named := [option.split("=")[1] for option in options if option.startswith("--wire=")]:
        wire = Wire.named(named[0])
        sections = [*range(1, 8), *([12] if "--full" in options else [])]
        runs = [run for run in runs if run.section in sections and not run.is_compressed]
    try:
        {"server": test_server, "client": test_client}[role](checks, runs, wire)
    except (RuntimeError, OSError) as error:
        checks.check("the suite and its testee started", False, str(error))


if __name__ == "__main__":
    counted = Checks()
    main(*sys.argv[1:], checks=counted)
    counted.finish()
