"""Keeps what a benchmark found: numbers, machine, versions and commit, as JSON beside it."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from kezuri.artifact.atomic import write_json
from kezuri.artifact.manifest import environment, now

RESULTS = Path(__file__).with_name("results")


def record(name: str, findings: Any, **conditions: Any) -> Path:
    """Writes `results/<name>.json`."""
    told = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    content = {
        "benchmark": name,
        "when": now(),
        "commit": told.stdout.strip() or None,
        **environment(),
        "conditions": conditions,
        "findings": findings,
    }
    path = RESULTS / f"{name}.json"
    write_json(path, content)
    return path


def spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation`, of percentages given as fractions."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{100 * mean(values):.2f} ± {100 * deviation:.2f}"
