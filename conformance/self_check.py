#!/usr/bin/env python3
"""Does the harness go red when it should? It judges what must not pass, and checks that it says so."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from autobahn import SECTIONS, Run, judge
from harness import Checks

HERE = Path(__file__).resolve().parent


def report(count, **changes):
    """An index.json of section 7 with `count` cases, all OK but for the changes."""
    ok = {"behavior": "OK", "behaviorClose": "OK", "remoteCloseCode": 1000}
    cases = {f"7.1.{n}": ok for n in range(1, count + 1)}
    for case, behavior in changes.items():
        cases[case.replace("_", ".").removeprefix("case")] = ok | behavior
    return {"testee": cases}


def verdict(index, run=Run(7, SECTIONS[7]), details=None):
    """How many failures the judge sees in a report, which should have section 7's cases."""
    checks = Checks()
    with contextlib.redirect_stdout(io.StringIO()):
        judge(checks, run, index, details)
    return checks.failed


def compressed_verdict(agreed, **result):
    """The same of a report whose one case is 3.4, with compression."""
    with tempfile.TemporaryDirectory() as details:
        head = "HTTP/1.1 101 Switching Protocols\r\n" + ("Sec-WebSocket-Extensions: permessage-deflate" if agreed else "")
        (Path(details) / "case.json").write_text(json.dumps({"httpResponse": head, "result": "as a test wants it"}))
        index = {"testee": {"3.4": {"behavior": "OK", "reportfile": "case.json"} | result}}
        return verdict(index, Run(3, 1, is_compressed=True), Path(details))


def check_judge(checks):
    whole = SECTIONS[7]
    informational = {"behavior": "INFORMATIONAL", "behaviorClose": "INFORMATIONAL"}
    rows = [
        ("a flawless report", report(whole), False),
        ("an informational case", report(whole, case7_1_6=informational), False),
        ("no report at all", {}, True),
        ("a report without cases", {"testee": {}}, True),
        ("a case too few", report(whole - 1), True),
        ("a case too many", report(whole + 1), True),
        ("two agents", report(whole) | {"other": {}}, True),
    ]
    for behavior in ("NON-STRICT", "FAILED", "ERROR", "UNIMPLEMENTED", "INFORMATIONAL", "a new word"):
        rows.append((f"a case that is {behavior}", report(whole, case7_1_5={"behavior": behavior}), True))
    for close in ("WRONG CODE", "UNCLEAN", "FAILED BY CLIENT", "FAILED", "INFORMATIONAL"):
        rows.append((f"a close that is {close}", report(whole, case7_1_5={"behaviorClose": close}), True))
    rows.append(("an informational case that failed", report(whole, case7_1_6={"behavior": "FAILED"}), True))
    for name, index, red in rows:
        checks.check(f"judge: {name} is {'red' if red else 'green'}", (verdict(index) > 0) == red)
    wrong_code = {"behaviorClose": "WRONG CODE"}
    for name, agreed, result, red in (
        ("RSV1 that is no DEFLATE, closed with 1007", True, wrong_code | {"remoteCloseCode": 1007}, False),
        ("the same without an agreement", False, wrong_code | {"remoteCloseCode": 1007}, True),
        ("the same closed with 1000", True, wrong_code | {"remoteCloseCode": 1000}, True),
        ("the same echoed", True, wrong_code | {"remoteCloseCode": 1007, "behavior": "FAILED"}, True),
    ):
        verdict_is_red = compressed_verdict(agreed, **result) > 0
        checks.check(f"judge: {name} is {'red' if red else 'green'}", verdict_is_red == red)


def failures(script, *arguments, **environment):
    """The names of the checks that fail when a part meets these stand-ins."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=HERE,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    return done.returncode, [line.removeprefix("FAIL ") for line in lines if line.startswith("FAIL ")]


def check_stand_ins(checks):
    """npm `ws` is good but finds bad UTF-8 late; without its check it does not find it at all."""
    stand_in = str(HERE / "stand-in.mjs")
    peers = {"WIRELINE": stand_in, "AUTOBAHN_CLIENT": stand_in}
    nothing = {"WIRELINE": "/bin/false", "AUTOBAHN_CLIENT": "/bin/false"}
    late = {f"6.4.{n}" for n in range(1, 5)}
    for role in ("server", "client"):
        status, failed = failures("autobahn.py", role, "--plain", "--section=6", **peers)
        cases = {line.split()[1] for line in failed if line.startswith("case ")}
        checks.check(f"{role}: NON-STRICT is red", status == 1 and cases == late, ", ".join(sorted(cases)))
        fault = {"STAND_IN_FAULT": "no-utf8-check"}
        status, failed = failures("autobahn.py", role, "--plain", "--section=6", **fault, **peers)
        cases = {line.split()[1] for line in failed if line.startswith("case ")}
        checks.check(f"{role}: no UTF-8 check is red", status == 1 and len(cases) > 50, f"{len(cases)} cases failed")
        status, failed = failures("autobahn.py", role, "--plain", "--section=6", **nothing)
        checks.check(f"{role}: a program that does nothing is red", status == 1 and failed)


def check_bad_input(checks):
    """`ws` refuses less than wireline does: these rows at least must see it, and others must not."""
    status, failed = failures("bad_input.py", WIRELINE=str(HERE / "stand-in.mjs"))
    red = {line.split(" (")[0] for line in failed}
    for name in (
        "GET / is the page",
        "version 8: refused",
        "no Host: refused",
        "a body with Content-Length: refused",
        "Origin null: refused",
        "a 16-bit length for 5 bytes: 1002",
        "a length of 2^63: 1002",
        "bad UTF-8 in a frame that has not ended: 1007",
        "a header one byte over the limit: 1009",
        "a head that drips: 408 or dropped",
        "interrupted: 1001 to everyone, exit 0",
    ):
        checks.check(f"bad input: on ws red is: {name}", name in red)
    for name in ("no key: refused", "no Origin: accepted", "an unmasked frame: 1002", "Close code 1000: echoed"):
        checks.check(f"bad input: on ws green is: {name}", status == 1 and name not in red)


def main():
    checks = Checks()
    check_judge(checks)
    check_stand_ins(checks)
    check_bad_input(checks)
    checks.finish()


if __name__ == "__main__":
    main()
