"""Tries lists of models, each in a process of its own: `python -m tests.zoo.run --list hard`.

A model that crashes or does not end is a line in the table, not the end of it. Models whose outcome is in the
JSON file already are not tried again unless asked for.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from .graph import Graph
from .trial import CHECKS, Outcome, try_graph

LISTS = ("hard", "torchvision", "timm")
HOMES = {"hard": "hard", "torchvision": "torchvision_models", "timm": "timm_models"}


def graphs_of(which: str) -> dict[str, Graph]:
    """The models of a list, by name."""
    home = import_module(f".{HOMES[which]}", __package__)
    graphs: dict[str, Graph] = home.hard if which == "hard" else home.all_models()
    return graphs


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.child:
        return _child(arguments)
    records = _read(arguments.json)
    for which in LISTS if arguments.list == "all" else (arguments.list,):
        names = [name for name in graphs_of(which) if fnmatch(name, arguments.only)]
        names = [name for name in names if _wanted(records.get(f"{which}/{name}"), arguments)]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for record in as_completed(pool.submit(_tried, which, name, arguments) for name in names):
                outcome = Outcome.from_json(dict(record.result()["outcome"]))
                records[f"{which}/{outcome.name}"] = record.result()
                _write(arguments.json, records)
                print(outcome.line(), flush=True)
        print(_total(which, records), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.zoo.run", description=__doc__)
    parser.add_argument("--list", choices=(*LISTS, "all"), default="hard")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names of models, with * and ?")
    parser.add_argument("--json", type=Path, default=Path("runs/zoo.json"), metavar="FILE")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="models at a time, a thread each")
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS", help="for each model")
    parser.add_argument("--memory", type=float, default=14, metavar="GB", help="for each model")
    parser.add_argument("--without", default="", metavar="CHECKS", help=f"some of {','.join(CHECKS)}")
    parser.add_argument("--again", action="store_true", help="models with a known outcome too")
    parser.add_argument("--failed", action="store_true", help="models that failed too")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser


def _wanted(record: dict | None, arguments: argparse.Namespace) -> bool:
    if record is None or arguments.again:
        return True
    return arguments.failed and bool(Outcome.from_json(dict(record["outcome"])).failures)


def _tried(which: str, name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """The outcome, from a process that may die or be ended."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "outcome.json"
        command = [
            sys.executable,
            "-m",
            "tests.zoo.run",
            "--list",
            which,
            "--only",
            name,
            "--child",
            str(answer),
        ]
        command += ["--without", arguments.without, "--memory", str(arguments.memory)]
        ended = ""
        try:
            process = subprocess.run(command, capture_output=True, text=True, timeout=arguments.limit)
            if process.returncode:
                last = (process.stderr.strip().splitlines() or ["no message"])[-1]
                ended = f"the process ended with {process.returncode}: {last}"
        except subprocess.TimeoutExpired:
            ended = f"no answer in {arguments.limit:.0f} s"
        outcome = _read(answer) or Outcome(name).to_json()
    if ended:
        wanted = [check for check in CHECKS if check not in arguments.without.split(",")]
        doing = next((check for check in wanted if check not in outcome["checks"]), wanted[-1])
        outcome["checks"][doing] = {"state": "failed", "reason": ended[:300], "seconds": 0.0}
    return {"list": which, "seconds": round(time.perf_counter() - start, 1), "outcome": outcome}


def _child(arguments: argparse.Namespace) -> int:
    import torch

    _limit_memory(arguments.memory)
    torch.set_num_threads(1)
    torch.fx.config.do_not_emit_stack_traces = True  # nobody reads the line of every operation
    graph = graphs_of(arguments.list)[arguments.only]
    without = [check for check in arguments.without.split(",") if check]
    outcome = try_graph(
        graph, without=without, progress=lambda so_far: _write(arguments.child, so_far.to_json())
    )
    _write(arguments.child, outcome.to_json())
    return 0


def _limit_memory(gigabytes: float) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    size = int(gigabytes * 1e9)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _total(which: str, records: dict[str, dict]) -> str:
    outcomes = [Outcome.from_json(dict(r["outcome"])) for r in records.values() if r["list"] == which]
    failed = Counter(check for outcome in outcomes for check in outcome.failures)
    passed = sum(not outcome.failures for outcome in outcomes)
    why = ", ".join(f"{check} {count}" for check, count in failed.most_common())
    return f"{which}: {passed} of {len(outcomes)} without a failure{f' (failed: {why})' if why else ''}"


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1), encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
