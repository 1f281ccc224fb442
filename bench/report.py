"""Tables and plots of what `run` measured."""

import datetime
import json
import math
import os
import pathlib
import platform
import statistics

REFERENCE = "wireline"
# The crates among which the best Rust crate is found.
RUST = {"fastwebsockets", "tokio-websockets", "sockudo-ws", "yawc", "tokio-tungstenite"}
GROWTH_TITLE = "echo of 20 bytes, over more and more connections"
# What a line of a plot is drawn in; the reference has the first one.
COLOURS = ["#2a6f97", "#c1666b", "#6a994e", "#8a6fb0", "#d4a017"]
# The system's default congestion control.
CONGESTION = pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control")
# Below this share of its core the server was not what limited the throughput.
BUSY_PERCENT = 95.0
# Above this share of waiting for its core, a side was disturbed by other work on the machine.
DISTURBED_PERCENT = 4.0


def line(scenario, run):
    """One run, while the others are still to come."""
    if run["exit_status"]:
        return f"  {scenario.name:16} {run['server']:18} FAILED: {run['error']}"
    busy = ", ".join(f"{side} {run['figures'].get(f'{side}_busy_percent', 0):5.1f}%" for side in scenario.sides)
    noise = f", waited {run['waited_percent']:.1f}%" if run["waited_percent"] > 1 else ""
    return f"  {scenario.name:16} {run['server']:18} {number(run['value']):>9}   {busy}{noise}"


class Row:
    """One server or client in one scenario, all rounds together."""

    def __init__(self, scenario, server, runs, all_runs):
        own, other = scenario.sides
        self.server = server
        self.values = [run["value"] for run in runs if run["value"] is not None]
        self.failures = sum(1 for run in runs if run["exit_status"])
        self.median = statistics.median(self.values) if self.values else None
        self.figures = {
            name: median_figure(runs, name)
            for name in (
                "messages_per_second", "handshakes_per_second", f"{own}_busy_percent", f"{other}_busy_percent",
                f"{other}_cpu_us_per_message", f"{other}_cpu_us_per_handshake", "latency_p50_us", "latency_p99_9_us",
            )
        }
        self.shares_cores = any(run.get("shares_cores") for run in runs)
        self.waited_percent = max((run["waited_percent"] for run in runs), default=0.0)
        self.ratios = paired_ratios(all_runs, server)
        # What the ratio may be at most, if there is a target.
        self.target = None
        self.remarks = list(self.find_remarks(scenario))

    @property
    def spread_percent(self):
        """Between the quartiles, as a share of the median."""
        if not self.median:
            return 0.0
        lower, upper = quartiles(self.values)
        return 100.0 * (upper - lower) / self.median

    @property
    def ratio(self):
        """The median of the ratios, and between which values half of them lie."""
        if not self.ratios:
            return "-"
        lower, upper = quartiles(self.ratios)
        return f"{statistics.median(self.ratios):.2f} ({lower:.2f}-{upper:.2f})"

    @property
    def verdict(self):
        """Whether the median of the ratios, as it is written, reaches the target; and whether half of them do not."""
        if self.target is None or not self.ratios:
            return ""
        lower, upper = quartiles(self.ratios)
        is_reached = round(statistics.median(self.ratios), 2) <= self.target
        is_close = lower <= self.target < upper
        return f"{'reached' if is_reached else 'missed'}{', within the spread' if is_close else ''}"

    def find_remarks(self, scenario):
        if self.failures:
            yield f"{self.failures} failed"
        if self.shares_cores:
            yield "shares two cores with the load"
            return
        if scenario.saturates and (self.figures[f"{scenario.sides[0]}_busy_percent"] or 0) < BUSY_PERCENT:
            yield "core not full"
        if scenario.is_timed and self.waited_percent > DISTURBED_PERCENT:
            yield f"waited {self.waited_percent:.0f}%"


def rows(scenario, runs):
    """The servers of a scenario, the best first."""
    own = [run for run in runs if run["scenario"] == scenario.name]
    servers = list(dict.fromkeys(run["server"] for run in own))
    table = [Row(scenario, server, [run for run in own if run["server"] == server], own) for server in servers]
    table.sort(key=lambda row: (row.median is None, row.median))
    for rival, most in scenario.targets.items():
        names = RUST if rival == "rust" else {rival}
        best = next((row for row in table if row.server in names and row.ratios), None)
        if best:
            best.target = most
    return table


def paired_ratios(runs, server):
    """The reference's cost as a multiple of the server's, within each round."""
    ratios = []
    for number_of_round in {run["round"] for run in runs}:
        of_round = {run["server"]: run["value"] for run in runs if run["round"] == number_of_round}
        if of_round.get(REFERENCE) and of_round.get(server):
            ratios.append(of_round[REFERENCE] / of_round[server])
    return ratios


def quartiles(values):
    """Between which values half of the values lie; of fewer than four, all."""
    if len(values) < 4:
        return min(values), max(values)
    lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, upper


def median_figure(runs, name):
    values = [run["figures"][name] for run in runs if name in run["figures"]]
    return statistics.median(values) if values else None


def columns(scenario):
    """The heads of a scenario's table, and what stands under them."""
    own, other = scenario.sides
    yield own, lambda row: row.server
    if scenario.name == "latency":
        yield "p50 us", lambda row: number(row.figures["latency_p50_us"])
        yield "p99 us", lambda row: number(row.median)
        yield "p99.9 us", lambda row: number(row.figures["latency_p99_9_us"])
    else:
        yield scenario.unit, lambda row: number(row.median)
    yield "spread", lambda row: f"{row.spread_percent:.0f}%"
    yield f"{REFERENCE} / {own}", lambda row: row.ratio
    if scenario.targets:
        yield "target", lambda row: f"at most {row.target:.2f}: {row.verdict}" if row.verdict else ""
    if scenario.is_timed:
        yield "a second", lambda row: number(
            row.figures["messages_per_second"] or row.figures["handshakes_per_second"])
        yield f"{own} busy", lambda row: percent(row.figures[f"{own}_busy_percent"])
        yield f"{other}'s own us", lambda row: number(
            row.figures[f"{other}_cpu_us_per_message"] or row.figures[f"{other}_cpu_us_per_handshake"])
        yield f"{other} busy", lambda row: percent(row.figures[f"{other}_busy_percent"])
    yield "remarks", lambda row: ", ".join(row.remarks)


def table(scenario, runs):
    heads = list(columns(scenario))
    return aligned([[head for head, _ in heads]] + [[cell(row) for _, cell in heads] for row in rows(scenario, runs)])


def aligned(cells):
    """A table in Markdown; the first row is its head."""
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def targets(scenarios, runs):
    """All targets whose scenario was measured, and how many are reached; None if there is none."""
    cells = [
        [scenario.name, row.server, f"{row.target:.2f}", row.ratio, row.verdict]
        for scenario in scenarios for row in rows(scenario, runs) if row.verdict
    ]
    if not cells:
        return None
    reached = sum(1 for cell in cells if cell[-1].startswith("reached"))
    heads = ["scenario", "against", "at most", f"{REFERENCE} / server", "verdict"]
    return f"{reached} of {len(cells)} targets reached.\n\n{aligned([heads, *cells])}"


def growing(scenarios, runs):
    """The growth scenarios that were measured, and of each server its row in each of them."""
    measured = [(scenario, rows(scenario, runs)) for scenario in scenarios if scenario.growth]
    measured = [(scenario, table_rows) for scenario, table_rows in measured if table_rows]
    servers = list(dict.fromkeys(row.server for _, table_rows in measured for row in table_rows))
    lines = {
        server: [next((row for row in table_rows if row.server == server and row.values), None)
                 for _, table_rows in measured]
        for server in servers
    }
    return [scenario for scenario, _ in measured], lines


def growth_table(scenarios, runs):
    """What a message costs over more and more connections, and between which values half of the rounds lie."""
    measured, lines = growing(scenarios, runs)
    if not measured:
        return None

    def cell(row):
        if not row:
            return "-"
        lower, upper = quartiles(row.values)
        return f"{number(row.median)} ({number(lower)}-{number(upper)})"

    heads = ["us of server CPU a message, connections:", *(f"{scenario.growth:,}" for scenario in measured)]
    return aligned([heads, *([server, *map(cell, line)] for server, line in lines.items())])


def terminal(scenarios, runs):
    measured = [scenario for scenario in scenarios if any(run["scenario"] == scenario.name for run in runs)]
    parts = [f"{scenario.name}: {scenario.title}\n\n{table(scenario, runs)}" for scenario in measured]
    parts += filter(None, [growth_table(scenarios, runs), targets(scenarios, runs)])
    return "\n" + "\n\n".join(parts)


def number(value):
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def percent(value):
    return "-" if value is None else f"{value:.0f}%"


def environment(options, runs):
    """What a reader needs to know to compare these numbers with others."""
    model = next(
        (text.split(":")[1].strip() for text in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
         if text.startswith("model name")), platform.machine())
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "congestion_control": CONGESTION.read_text().strip(),
        "rounds": options.rounds,
        "seconds": options.duration,
        "failed_runs": sum(1 for run in runs if run["exit_status"]),
    }


def write(directory, scenarios, runs, environment):
    """`results.md`, `results.json`, and a plot for each scenario."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps({"environment": environment, "runs": runs}, indent=1) + "\n")
    text = [
        "# Results",
        "",
        f"{environment['date']}; {environment['cpu']}, {environment['cores']} cores, Linux {environment['kernel']};"
        f" {environment['congestion_control']} by default; the median of {environment['rounds']} rounds of"
        f" {environment['seconds']:g} s, server and load on a core each. Written by `bench/run`. Less is better; a"
        " ratio below 1 says that wireline needs less, and in brackets stands where half of the ratios lie.",
    ]
    if targets(scenarios, runs):
        text += ["", "## Targets", "", targets(scenarios, runs)]
    if growth_table(scenarios, runs):
        (directory / "growth.svg").write_text(growth_plot(*growing(scenarios, runs)))
        text += ["", f"## Growth: {GROWTH_TITLE}", "", growth_table(scenarios, runs), "",
                 f"![{GROWTH_TITLE}](growth.svg)"]
    for scenario in scenarios:
        table_rows = rows(scenario, runs)
        if not any(row.median is not None for row in table_rows):
            continue
        text += ["", f"## {scenario.name}: {scenario.title}", "", table(scenario, runs)]
        if not scenario.growth:
            (directory / f"{scenario.name}.svg").write_text(plot(scenario, table_rows))
            text += ["", f"![{scenario.title}]({scenario.name}.svg)"]
    (directory / "results.md").write_text("\n".join(text) + "\n")


def plot(scenario, table_rows):
    """A bar for each server, and a whisker between its quartiles."""
    drawn = [row for row in table_rows if row.median is not None]
    left, width, bar, gap, top = 150, 480, 18, 10, 44
    greatest = max(quartiles(row.values)[1] for row in drawn) or 1
    height = top + len(drawn) * (bar + gap) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 110}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="18" font-weight="bold">{scenario.title}</text>',
        f'<text x="12" y="34" fill="#555">{scenario.unit}; less is better</text>',
    ]
    for index, row in enumerate(drawn):
        y = top + index * (bar + gap)
        middle = y + bar / 2
        scale = width / greatest
        colour = "#2a6f97" if row.server == REFERENCE else "#a9b8c2"
        least, most = (value * scale + left for value in quartiles(row.values))
        parts += [
            f'<text x="{left - 8}" y="{middle + 4}" text-anchor="end">{row.server}</text>',
            f'<rect x="{left}" y="{y}" width="{row.median * scale:.1f}" height="{bar}" fill="{colour}"/>',
            f'<path d="M{least:.1f} {middle}H{most:.1f}M{least:.1f} {middle - 4}v8M{most:.1f} {middle - 4}v8"'
            ' stroke="#333" fill="none"/>',
            f'<text x="{max(most, left + row.median * scale) + 8:.1f}" y="{middle + 4}">{number(row.median)}</text>',
        ]
    return "\n".join(parts) + "\n</svg>\n"


def growth_plot(measured, lines):
    """A line for each server, whiskers between its quartiles; both scales are logarithmic."""
    left, width, top, height = 60, 520, 52, 300
    drawn = [(server, line) for server, line in lines.items() if any(line)]
    drawn.sort(key=lambda item: item[0] != REFERENCE)
    ends = [value for _, line in drawn for row in line if row for value in quartiles(row.values)]
    ticks = [step * 10 ** power for power in range(-3, 7) for step in (1, 2, 5)]
    ticks = ticks[max(i for i, tick in enumerate(ticks) if tick <= min(ends)):]
    ticks = ticks[:1 + next(i for i, tick in enumerate(ticks) if tick >= max(ends))]
    counts = [scenario.growth for scenario in measured]

    def place(value, least, most):
        """Where a value lies, from 0 to 1."""
        return math.log(value / least) / math.log(most / least) if most > least else 0.5

    def x(connections):
        return left + 20 + (width - 40) * place(connections, min(counts), max(counts))

    def y(value):
        return top + height * (1 - place(value, ticks[0], ticks[-1]))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 180}" height="{top + height + 44}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="18" font-weight="bold">{GROWTH_TITLE}</text>',
        f'<text x="12" y="34" fill="#555">{measured[0].unit}, against connections; less is better</text>',
        f'<path d="M{left} {top}v{height}h{width}" stroke="#333" fill="none"/>',
    ]
    for tick in ticks:
        parts.append(f'<path d="M{left} {y(tick):.1f}h{width}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for count in counts:
        parts.append(f'<text x="{x(count):.1f}" y="{top + height + 18}" text-anchor="middle">{count:,}</text>')
    for index, (server, line) in enumerate(drawn):
        colour = COLOURS[index % len(COLOURS)]
        # A little apart, so that whiskers at the same place can be told.
        points = [(x(count) + 4 * index, row) for count, row in zip(counts, line) if row]
        path = " ".join(f"{at:.1f},{y(row.median):.1f}" for at, row in points)
        parts.append(f'<polyline points="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        for at, row in points:
            lower, upper = quartiles(row.values)
            parts.append(f'<path d="M{at:.1f} {y(lower):.1f}V{y(upper):.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{at:.1f}" cy="{y(row.median):.1f}" r="3" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 12}" y="{top + 14 + 18 * index}" fill="{colour}">{server}</text>')
    return "\n".join(parts) + "\n</svg>\n"
