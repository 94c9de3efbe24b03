"""docs/benchmarks.md, written from the results of a run."""

from __future__ import annotations

from typing import Any

HEAD = """# What paceline costs

<!-- Written by `python -m benchmarks` from benchmarks/results.json; do not edit. -->

{machine}

Speeds are compared as ratios of pairs that were taken turn by turn in one run (ABC CBA ABC ...), because the machine
drifts by more than the differences that are looked for. Each row gives the median, the quartiles and how many values
(or pairs) there were. Every process computes
with one thread and with the allocator settings with which paceline starts its ranks, on both sides; both sides compute
the same, which is checked before they are timed. A row without a goal is there to compare with; a verdict
is withheld where the same loop compared with itself is further from 1 than the result is from its goal.
{warning}"""
TABLE = "| what | goal | measured | quartiles | values | reached |\n|---|---|---|---|---|---|\n"


def page(results: dict[str, Any]) -> str:
    """The whole page."""
    quick = "\n**This is a smoke test with tiny sizes (`--quick`): its numbers mean nothing.**\n"
    parts = [HEAD.format(machine=_machine(results["machine"]), warning=quick if results["quick"] else "")]
    for name, found in results["benchmarks"].items():
        parts.append(f"## {found['title']}\n\n{found['how']} (`python -m benchmarks {name}`)\n")
        parts.append(_table(found["rows"]) if found["rows"] else f"It failed:\n\n```\n{found['error']}\n```\n")
    return "\n".join(parts)


def _machine(machine: dict[str, Any]) -> str:
    return (
        f"{machine['date']}: {machine['processor']}, {machine['num_cores']} cores, torch {machine['torch']}, "
        f"Python {machine['python']}; load average {machine['load_before']:.1f} before and "
        f"{machine['load_after']:.1f} after."
    )


def _table(rows: list[dict[str, Any]]) -> str:
    return TABLE + "".join(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
    median, low, high = (f"{row[key]:,.{row['digits']}f}" for key in ("median", "low", "high"))
    reached = {None: "within the noise", True: "yes", False: "**no**"}[row["reached"]] if row["goal"] else ""
    measured = f"{median} {row['unit']}".strip()
    return f"| {row['what']} | {row['goal']} | {measured} | {low} – {high} | {row['count']} | {reached} |\n"
