#!/usr/bin/env python3
"""Autobahn in both roles over another wire than HTTP/1.1: `autobahn_wire.py http2` or `http3`; see autobahn.py."""

import sys

from autobahn import main
from harness import Checks

wire, *options = sys.argv[1:]
checks = Checks()
for role in ("server", "client"):
    main(role, f"--wire={wire}", *options, checks=checks)
checks.finish()
