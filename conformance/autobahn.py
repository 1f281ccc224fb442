#!/usr/bin/env python3
"""The Autobahn TestSuite, through its runner kosoku, against one of wireline's two roles.

    autobahn.py server      kosoku is the client, `wireline serve` is tested
    autobahn.py client      kosoku is the server, $AUTOBAHN_CLIENT is tested

--compression runs the two sections on permessage-deflate alone, --section=N (repeatable) only that section.

Stricter than the suite's own exit status, which lets NON-STRICT pass: each case must be OK, and
there must be as many as the suite has, so that a run that tested little cannot pass.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness import REPORTS, ROOT, Checks, Process, built, serve

# Cases in each section of the suite.
SECTIONS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 9: 54, 10: 1}
# permessage-deflate and its parameters, for a server with `--deflate`: about eight minutes a role.
COMPRESSION_SECTIONS = {12: 90, 13: 126}

# The suite judges nothing in these: what a peer does is not fixed by the RFC. A message and a Close
# in one burst (7.1.6), close codes out of range (7.13.1, 7.13.2). What was seen is printed.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

# Sections 9.1 to 9.6 send messages of up to 16 MiB.
MAX_MESSAGE = 64 * 1024 * 1024
AGENT = "wireline"
HERE = Path(__file__).resolve().parent
# Sections 1 to 10 take well under a minute together, 12 some minutes; a hanging case must not hang the run.
SECTION_TIMEOUT = 900

KOSOKU = [ROOT / ".tools" / "conformance" / "bin" / "python3", HERE / "kosoku_run.py"]


def judge(checks, section, expected_count, report, details):
    """Checks one section of an index.json: every case OK, none missing.

    `details` is the directory with the suite's report of each case, which says more in words.
    """
    if len(report) > 1:
        checks.check(f"section {section}: one agent", False, ", ".join(report))
    cases = {
        case: result
        for agent in report.values()
        for case, result in agent.items()
        if case.split(".")[0] == str(section)
    }
    strictly_ok = 0
    for case, result in sorted(cases.items(), key=lambda item: numbers(item[0])):
        seen = (result["behavior"], result["behaviorClose"])
        if seen == ("OK", "OK"):
            strictly_ok += 1
            continue
        informational = case in INFORMATIONAL and set(seen) <= {"OK", "INFORMATIONAL"}
        detail = f"behavior {seen[0]}, close {seen[1]}, close code {result.get('remoteCloseCode')}"
        if details:
            detail += ": " + json.loads((details / result["reportfile"]).read_text())["result"]
        checks.check(f"case {case}" + (" (informational)" if informational else ""), informational, detail)
    checks.passed += strictly_ok
    checks.check(
        f"section {section}: all {expected_count} cases ran",
        len(cases) == expected_count,
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


def test_server(checks, sections):
    reports = fresh(REPORTS / "autobahn-server")
    for name, options in (("wireline", []), ("wireline-deflate", ["--deflate"])):
        chosen = {
            section: count
            for section, count in sections.items()
            if (section in COMPRESSION_SECTIONS) == bool(options)
        }
        if not chosen:
            continue
        with serve("--max-message", MAX_MESSAGE, *options, log=f"autobahn-server/{name}.log") as server:
            for section, count in chosen.items():
                out = reports / f"section-{section}"
                command = [*KOSOKU, "-m", "fuzzingclient", "-i", f"{section}.*", "-o", out]
                run_logged([*command, f"127.0.0.1:{server.port}"], reports / f"section-{section}.log")
                judge(checks, section, count, read_report(out), out)
            checks.check("the server still runs", server.alive())


def test_client(checks, sections):
    reports = fresh(REPORTS / "autobahn-client")
    client = os.environ.get("AUTOBAHN_CLIENT") or built(
        "release/examples/autobahn_client", "debug/examples/autobahn_client"
    )
    for section, count in sections.items():
        out = reports / f"section-{section}"
        command = [*KOSOKU, "-m", "fuzzingserver", "-i", f"{section}.*", "-o", out, "127.0.0.1:0"]
        with Process(command, f"autobahn-client/section-{section}.log") as suite:
            url = f"ws://127.0.0.1:{suite.port}"
            # Section 13 wants a client that can do without context takeover, and section 12 one that need not.
            options = ["--no-context-takeover"] if section == 13 else []
            status = run_logged([client, url, AGENT, *options], reports / f"client-{section}.log")
            # The client's call of updateReports ends the suite, which then writes its report.
            if status == 0:
                suite.wait(30)
        judge(checks, section, count, read_report(out), out)
        checks.check(f"section {section}: the client ended well", status == 0, f"status {status}")


def run_logged(command, log):
    """Runs a command to its end, or to the time limit; its exit status, None at the limit."""
    with log.open("w") as output:
        try:
            return subprocess.run(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=SECTION_TIMEOUT,
            ).returncode
        except (subprocess.TimeoutExpired, OSError) as error:
            output.write(f"{error}\n")
            return None


def main(role, *options):
    sections = COMPRESSION_SECTIONS if "--compression" in options else SECTIONS | COMPRESSION_SECTIONS
    if wanted := [int(option.split("=")[1]) for option in options if option.startswith("--section=")]:
        sections = {section: sections[section] for section in wanted}
    checks = Checks()
    try:
        {"server": test_server, "client": test_client}[role](checks, sections)
    except (RuntimeError, OSError) as error:
        checks.check("the suite and its testee started", False, str(error))
    checks.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
