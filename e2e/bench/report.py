"""What a bench prints and keeps: progress, tables, bars with pass or miss, JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from e2e.bench.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One figure that is asked for. `wanted` is the limit; `at_least`: from below, else from above. `valid` False: the
    load generator was too late to judge."""

    name: str
    measured: float
    wanted: float
    at_least: bool
    unit: str = ""
    valid: bool = True

    @property
    def passed(self) -> bool:
        """Is it met?"""
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted


@dataclass(slots=True, kw_only=True)
class Report:
    """Collects while it prints."""

    quick: bool = False
    bars: list[Bar] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(width=max(140, Console().width)))
    _began: float = field(default_factory=time.monotonic)

    def progress(self, text: str) -> None:
        """One line on standard error."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", file=sys.stderr, flush=True)

    def ran(self, section: str, what: str, run: Run, target_s: float, **facts: Any) -> Run:
        """Note one run; the progress line says what became of it."""
        record = {"section": section, "what": what, **summary(run, target_s), **facts}
        self.records.append(record)
        besides = f"; others used {facts['other_cores']:.2f} cores" if "other_cores" in facts else ""
        self.progress(f"{what}: {one_line(run, target_s)}{besides}")
        return run

    def bar(self, bar: Bar) -> None:
        """Note one bar."""
        self.bars.append(bar)

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table."""
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(header):
            table.add_column(name, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*(_text(cell) for cell in row))
        self.console.print(table)
        self.records.append({"table": title, "header": list(header), "rows": [list(map(_text, row)) for row in rows]})

    def show_bars(self) -> bool:
        """Print all bars; True if all are met."""
        rows = []
        for bar in self.bars:
            verdict = "pass" if bar.passed else "MISS"
            sign = ">=" if bar.at_least else "<="
            wanted = f"{sign} {bar.wanted:.4g} {bar.unit}"
            rows.append((bar.name, f"{bar.measured:.4g} {bar.unit}", wanted, verdict if bar.valid else f"{verdict} *"))
        if rows:
            self.table("Bars" + (" (quick: fewer seconds than asked for)" if self.quick else ""), HEADER, rows)
        if not all(bar.valid for bar in self.bars):
            self.console.print("* the load generator sent 1 % of the requests late: measure again on a quieter machine")
        return all(bar.passed for bar in self.bars)

    def write(self, path: Path) -> None:
        """Everything as JSON."""
        facts = {"machine": platform.machine(), "cpus": os.cpu_count(), "load": os.getloadavg(), "quick": self.quick}
        whole = {**facts, "bars": [{**asdict(bar), "passed": bar.passed} for bar in self.bars], "records": self.records}
        path.write_text(json.dumps(whole, indent=1, default=str))


HEADER = ("what", "measured", "asked for", "")


def summary(run: Run, target_s: float) -> dict[str, Any]:
    """One run in figures."""
    return {
        "rate": run.rate,
        "seconds": run.seconds,
        "requests": run.count,
        "in_time_share": round(run.in_time_share(target_s), 5),
        "in_time_per_s": round(run.in_time_rate(target_s), 2),
        "answered_per_s": round(run.answered_rate(), 2),
        "refused": run.refused,
        "failed": run.failed,
        "p50_ms": _rounded(run.answered_latency_ms(0.5)),
        "p99_ms": _rounded(run.answered_latency_ms(0.99)),
        "lateness_p99_ms": _rounded(run.lateness_ms(0.99)),
        "late_share": round(run.late_share, 5),
        "valid": run.valid,
    }


def one_line(run: Run, target_s: float) -> str:
    """For progress."""
    asked = f"{run.rate:g}/s" if run.rate else "closed loop"
    line = (
        f"{asked} for {run.seconds:g} s: {run.in_time_share(target_s):.2%} in time "
        f"({run.in_time_rate(target_s):.1f}/s), p50 {run.answered_latency_ms(0.5):.1f} "
        f"p99 {run.answered_latency_ms(0.99):.1f} ms, refused {run.refused}, "
        f"failed {run.failed}; sent late p99 {run.lateness_ms(0.99):.2f} ms"
    )
    return line if run.valid else f"{line} INVALID"


def _rounded(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.1f}" if math.isfinite(cell) else "-"
    return str(cell)
