# SPDX-License-Identifier: MIT
"""What the suite says: ratios and their spread, targets, a table, a plot.

A ratio is of two measurements of one round. Data is in bytes a second, and more
is better; all else is time an operation, and less is better. The spread is the
quartiles of the rounds."""

import os
import platform
import re
import statistics
from pathlib import Path

from suite_systems import OURS, RIVALS

# (a pattern of rows, over io_uring, over /dev/fuse), with passthrough, by one
# client; the first that fits.
TARGETS = (
    (r"(rand)?read .* buffered ", 0.97, 0.95),
    (r"(rand)?(read|write) .* mmap", 0.97, 0.95),
    (r"(rand)?write 4k buffered ", 0.80, 0.75),
    (r".* direct .* d1$", 0.92, 0.90),
    (r"create$", 4.0, 6.0),
    (r"unlink$", 2.0, 3.0),
    (r"rename$", 2.3, 3.5),
    (r"open\+read\+close$", 5.5, 10.0),
    (r"stat (warm|absent)$", 1.4, 2.0),
    (r"find -size cold$", 3.3, 7.0),
    (r"find -size warm$", 1.1, 1.2),
    (r"untar$", 4.0, 7.0),
    (r"git status warm$", 2.4, 4.0),
)

# The row that tells what a request costs by itself: a GETATTR.
REQUEST = "a request"
# Nobody waits for the answer.
UNAWAITED = "RELEASE", "RELEASEDIR", "FORGET", "BATCH_FORGET"


def is_data(row):
    return re.match(r"(rand)?(read|write) ", row) is not None


def target(row, system):
    """The ratio to reach, or None."""
    if system not in ("uring", "dev"):
        return None
    for pattern, uring, dev in TARGETS:
        if re.match(pattern, row):
            return uring if system == "uring" else dev
    return None


def quartiles(numbers):
    numbers = sorted(numbers)
    if len(numbers) < 3:
        return numbers[0], statistics.median(numbers), numbers[-1]
    return tuple(statistics.quantiles(numbers, n=4, method="inclusive"))


def ratios(values, system, to):
    """Of the rounds in which both were measured."""
    return [a / b for a, b in zip(values.get(system, ()), values.get(to, ()))
            if a and b]


def slower_than(row, values, system):
    """The rivals in the same run that are faster, by more than the spread: at
    least three of four rounds, and the median by 3 %."""
    found = []
    for rival in RIVALS:
        got = ratios(values, system, rival)
        if not got:
            continue
        low, mid, high = quartiles(got)
        if high < 1 and mid < 0.97 if is_data(row) else low > 1 and mid > 1.03:
            found.append(rival)
    return found


def judge(row, values, cpu, clients):
    """{system: what is to be said of it}."""
    said = {}
    for system in values:
        got = ratios(values, system, "bare")
        if not got or system == "bare":
            continue
        low, mid, high = quartiles(got)
        it = {"ratio": mid, "lower_quartile": low, "upper_quartile": high,
              "rounds": len(got), "cpu": None}
        by_cpu = ratios(cpu, system, "bare")
        if by_cpu:
            it["cpu"] = statistics.median(by_cpu)
        goal = target(row, system) if clients == 1 else None
        if goal:
            it["target"] = goal
            it["reached"] = mid >= goal if is_data(row) else mid <= goal
        if system in OURS:
            it["slower_than"] = slower_than(row, values, system)
        said[system] = it
    return said


def machine():
    """What numbers mean nothing without."""
    cpu = re.search(r"model name\s*: (.*)",
                    Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    memory = re.search(r"MemTotal:\s+(\d+)",
                       Path("/proc/meminfo").read_text(encoding="ascii"))
    return {"cpu": cpu[1] if cpu else platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "ram_gib": round(int(memory[1]) / (1 << 20), 1),
            "kernel": platform.release(),
            "load": [round(n, 2) for n in os.getloadavg()]}


def title(result):
    """How a row is called in tables."""
    if result["clients"] == 1:
        return result["row"]
    return f"{result['row']}, {result['clients']} clients"


def absolute(row, number):
    if is_data(row):
        return f"{number / (1 << 20):.0f} MiB/s"
    return f"{number * 1e6:.2f} us"


def cell(result, system):
    said = result["systems"].get(system)
    if not said:
        return "failed" if system in result["failed"] else "-"
    text = (f"{said['ratio']:.2f} ({said['lower_quartile']:.2f}-"
            f"{said['upper_quartile']:.2f})")
    if said["cpu"]:
        text += f" cpu {said['cpu']:.2f}"
    if "target" in said:
        text += f" / {said['target']:.2f}{'' if said['reached'] else ' MISSED'}"
    if said.get("slower_than"):
        text += f" < {', '.join(said['slower_than'])}"
    return text


def counted(result):
    """Requests an operation, of the first of ours that was counted."""
    for system in OURS:
        counts = result["requests"].get(system)
        if counts is not None:
            return " ".join(f"{kind.lower()} {n:.2f}" for kind, n in sorted(
                counts.items(), key=lambda item: -item[1]) if n >= 0.01) or "0"
    return "-"


def table(fs, results, systems):
    """Markdown."""
    others = [s for s in systems if s != "bare"]
    lines = [f"{fs}: ratios to the bare front: median (quartiles), of CPU time, "
             "/ target; < what is faster",
             "",
             "| " + " | ".join(["row", "bare", *others,
                                "requests an operation"]) + " |",
             "| " + " | ".join(["---"] * (len(others) + 3)) + " |"]
    for result in results:
        bare = [v for v in result["values"].get("bare", ()) if v]
        lines.append("| " + " | ".join(
            [title(result), absolute(result["row"], statistics.median(bare))
             if bare else "failed",
             *(cell(result, s) for s in others), counted(result)]) + " |")
    return "\n".join(lines)


def floors(results):
    """Of what was missed, what the requests alone take: [a line of text]."""
    lines = []
    # Of one client, as are all that has a target.
    alone = {system: statistics.median(v) for r in results
             if r["row"] == REQUEST and r["clients"] == 1
             for system, v in r["values"].items() if v}
    for r in results:
        for system, said in r["systems"].items():
            cost = alone.get(system)
            counts = r["requests"].get(system)
            if (is_data(r["row"]) or said.get("reached", True) or not cost
                    or not counts):
                continue
            bare = statistics.median(v for v in r["values"]["bare"] if v)
            waits = sum(n for kind, n in counts.items()
                        if kind not in UNAWAITED)
            lines.append(
                f"- {title(r)}, {system}: {said['ratio']:.2f} for "
                f"{said['target']:.2f}; {waits:.2f} requests that are waited "
                f"for, of {cost * 1e6:.1f} us, and the bare front's "
                f"{bare * 1e6:.1f} us are {(waits * cost + bare) / bare:.2f}")
    return lines


def plot(path, everything, systems):
    """Speed in terms of the bare front's, a bar each; False without matplotlib."""
    try:
        import matplotlib  # pylint: disable=import-outside-toplevel
        matplotlib.use("Agg")
        from matplotlib import pyplot  # pylint: disable=C0415
    except ImportError:
        return False
    others = [s for s in systems if s != "bare"]
    shown = [r for results in everything.values() for r in results
             if r["systems"]]
    if not shown or not others:
        return True
    figure, axes = pyplot.subplots(
        figsize=(9, 1 + len(shown) * (0.1 * len(others) + 0.08)))
    height = 0.85 / len(others)
    for i, system in enumerate(others):
        at, width, spread = [], [], ([], [])
        for n, result in enumerate(shown):
            said = result["systems"].get(system)
            if not said:
                continue
            data = is_data(result["row"])
            three = [said[k] if data else 1 / said[k] for k in
                     ("lower_quartile", "ratio", "upper_quartile")]
            at.append(n + i * height)
            width.append(three[1])
            spread[0].append(max(0, three[1] - min(three)))
            spread[1].append(max(0, max(three) - three[1]))
        axes.barh(at, width, height, xerr=spread, label=system,
                  error_kw={"linewidth": 0.5})
    axes.set_yticks([n + 0.4 for n in range(len(shown))],
                    [f"{title(r)} ({r['fs']})" for r in shown], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("speed, the bare front's = 1")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    return True
