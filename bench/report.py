"""Tables and plots of what `run` measured."""

import datetime
import json
import os
import pathlib
import platform
import statistics

REFERENCE = "wireline"
# Below this share of its core the server was not what limited the throughput.
BUSY_PERCENT = 95.0
# Above this share of waiting for its core, a side was disturbed by other work on the machine.
DISTURBED_PERCENT = 4.0


def line(scenario, run):
    """One run, while the others are still to come."""
    if run["exit_status"]:
        return f"  {scenario.name:16} {run['server']:18} FAILED: {run['error']}"
    figures = run["figures"]
    busy = f"server {figures.get('server_busy_percent', 0):5.1f}%, load {figures.get('load_busy_percent', 0):5.1f}%"
    noise = f", waited {run['waited_percent']:.1f}%" if run["waited_percent"] > 1 else ""
    return f"  {scenario.name:16} {run['server']:18} {number(run['value']):>9}   {busy}{noise}"


class Row:
    """One server in one scenario, all rounds together."""

    def __init__(self, scenario, server, runs, all_runs):
        self.server = server
        self.values = [run["value"] for run in runs if run["value"] is not None]
        self.failures = sum(1 for run in runs if run["exit_status"])
        self.median = statistics.median(self.values) if self.values else None
        self.figures = {
            name: median_figure(runs, name)
            for name in (
                "messages_per_second", "handshakes_per_second", "server_busy_percent", "load_busy_percent",
                "load_cpu_us_per_message", "load_cpu_us_per_handshake", "latency_p50_us", "latency_p99_9_us",
            )
        }
        self.waited_percent = max((run["waited_percent"] for run in runs), default=0.0)
        self.ratios = paired_ratios(all_runs, server)
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

    def find_remarks(self, scenario):
        if self.failures:
            yield f"{self.failures} failed"
        if scenario.saturates and (self.figures["server_busy_percent"] or 0) < BUSY_PERCENT:
            yield "core not full"
        if self.waited_percent > DISTURBED_PERCENT:
            yield f"waited {self.waited_percent:.0f}%"


def rows(scenario, runs):
    """The servers of a scenario, the best first."""
    own = [run for run in runs if run["scenario"] == scenario.name]
    servers = list(dict.fromkeys(run["server"] for run in own))
    table = [Row(scenario, server, [run for run in own if run["server"] == server], own) for server in servers]
    return sorted(table, key=lambda row: (row.median is None, row.median))


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
    yield "server", lambda row: row.server
    yield scenario.unit, lambda row: number(row.median)
    yield "spread", lambda row: f"{row.spread_percent:.0f}%"
    yield f"{REFERENCE} / server", lambda row: row.ratio
    if scenario.name == "latency":
        yield "p50 us", lambda row: number(row.figures["latency_p50_us"])
        yield "p99.9 us", lambda row: number(row.figures["latency_p99_9_us"])
    if scenario.name != "idle":
        yield "a second", lambda row: number(
            row.figures["messages_per_second"] or row.figures["handshakes_per_second"])
        yield "server busy", lambda row: percent(row.figures["server_busy_percent"])
        yield "load's own us", lambda row: number(
            row.figures["load_cpu_us_per_message"] or row.figures["load_cpu_us_per_handshake"])
        yield "load busy", lambda row: percent(row.figures["load_busy_percent"])
    yield "remarks", lambda row: ", ".join(row.remarks)


def table(scenario, runs):
    heads = list(columns(scenario))
    cells = [[head for head, _ in heads]] + [[cell(row) for _, cell in heads] for row in rows(scenario, runs)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def terminal(scenarios, runs):
    measured = [scenario for scenario in scenarios if any(run["scenario"] == scenario.name for run in runs)]
    return "\n".join(f"\n{scenario.name}: {scenario.title}\n\n{table(scenario, runs)}" for scenario in measured)


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
        f" the median of {environment['rounds']} rounds of {environment['seconds']:g} s, server and load on a core"
        " each. Written by `bench/run`. Less is better; a ratio below 1 says that wireline needs less.",
    ]
    for scenario in scenarios:
        table_rows = rows(scenario, runs)
        if not any(row.median is not None for row in table_rows):
            continue
        (directory / f"{scenario.name}.svg").write_text(plot(scenario, table_rows))
        text += ["", f"## {scenario.name}: {scenario.title}", "", table(scenario, runs), "",
                 f"![{scenario.title}]({scenario.name}.svg)"]
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
