"""`kezuri bench`: how fast models really are on this machine."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kezuri.measure.latency import Comparison
    from kezuri.report.grid import Grid


def bench(
    models: Annotated[list[Path], typer.Argument(help="ONNX files, or folders of runs.", show_default=False)],
    *,
    batch: Annotated[int, typer.Option(min=1, help="Images a call.")] = 1,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="onnxruntime or openvino (default: that of the runs, or onnxruntime).", show_default=False
        ),
    ] = None,
    threads: Annotated[str, typer.Option(help="A number, or all.")] = "1",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure, in all.")] = 5.0,
) -> None:
    """Times models against each other, call by call; a run stands for its two models."""
    from rich.console import Console

    from kezuri.core.errors import UsageError
    from kezuri.core.measurement import runtime_title
    from kezuri.measure.latency import compare_latency
    from kezuri.report.grid import show
    from kezuri.runtime.runner import file_runner

    if threads != "all" and not (threads.isascii() and threads.isdigit()):
        raise UsageError(f"--threads is a number, or all; got {threads!r}")
    files = _files(models)
    runtime = runtime or _runtime(models)
    runner = file_runner(runtime)
    sessions = {
        name: runner.prepare(path, threads="all" if threads == "all" else int(threads))
        for name, path in files.items()
    }
    shapes = {_image_shape(path) for path in files.values()}
    if len(shapes) > 1:
        raise UsageError(f"models that take different images cannot be compared: {sorted(map(str, shapes))}")
    shape = shapes.pop()
    raced = compare_latency(sessions, shape, batch=batch, budget_seconds=seconds)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{runtime_title(runtime)}, batch {batch}, {threads} thread(s)")
    show(table_of(raced, files), console)


def table_of(raced: "Comparison", files: dict[str, Path]) -> "Grid":
    """One line a model; what fits least is left out first, never the names."""
    from kezuri.report.grid import Cell, Column, Grid
    from kezuri.report.numbers import milliseconds, size

    columns = (
        Column("model", "model", align="left"),
        Column("latency", "ms a call"),
        Column("latency_spread", "p10–p90", spare=2),
        Column("speed", "speed"),
        Column("speed_spread", "p10–p90", spare=1),
        Column("size", "file", spare=3),
        Column("calls", "calls", spare=4),
    )
    rows = []
    for name, path in files.items():
        ms, speed, held = raced.latencies[name], raced.speedups[name], path.stat().st_size
        around = f"{milliseconds(ms.low).removesuffix(' ms')}–{milliseconds(ms.high)}"
        rows.append(
            (
                Cell.word(name),
                Cell(milliseconds(ms.value), ms.value),
                Cell(around),
                Cell(f"{speed.value:.2f}×", speed.value),
                Cell(f"{speed.low:.2f}–{speed.high:.2f}"),
                Cell(size(held), held),
                Cell(str(ms.samples), ms.samples),
            )
        )
    return Grid("", columns, tuple(rows), ("speed: against the first, call by call",))


def _runtime(models: list[Path]) -> str:
    """Where the runs among them ship."""
    from kezuri.artifact.atomic import read_json
    from kezuri.artifact.folder import RunFolder
    from kezuri.core.errors import UsageError

    recipes = [read_json(RunFolder.open(model).recipe) for model in models if model.suffix != ".onnx"]
    held = {recipe.get("goal", {}).get("runtime", "onnxruntime") for recipe in recipes} or {"onnxruntime"}
    if len(held) > 1:
        raise UsageError(f"the runs ship on {' and '.join(sorted(held))}: say --runtime, one for all")
    return str(held.pop())


def _image_shape(path: Path) -> tuple[int, ...]:
    """What an image must look like, (C, H, W) for most; the file is known to load."""
    import onnx

    wanted = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape.dim
    return tuple(size.dim_value for size in wanted[1:])


def _files(models: list[Path]) -> dict[str, Path]:
    """The ONNX files meant, by the name to print."""
    from kezuri.artifact.folder import RunFolder
    from kezuri.artifact.manifest import Manifest
    from kezuri.core.errors import CorruptArtifact, DataError

    files: dict[str, Path] = {}
    titles = _titles(models)
    for model in dict.fromkeys(models):
        if model.suffix == ".onnx":
            files[str(model)] = model
            continue
        run = RunFolder.open(model)
        damaged = Manifest(run).damaged()
        for name in ("dense", "final"):
            path = run.model(name) / "model.onnx"
            again = f"kezuri resume {shlex.quote(str(model))}"
            if (what := damaged.get(f"models/{name}/model.onnx")) is not None:
                raise CorruptArtifact(f"{path}: {what}; `{again}` makes it again")
            if not path.is_file():
                raise DataError(f"{model} has no {name} model yet; `{again}` finishes it")
            files[name if len(models) == 1 else f"{titles[model]}/{name}"] = path
    return files


def _titles(models: list[Path]) -> dict[Path, str]:
    """The folders' names, with as much of their paths as tells them apart."""
    parts = {model: model.resolve().parts[1:] for model in models}
    titles = {}
    for model, own in parts.items():
        others = [other for other in parts.values() if other != own]
        lengths = (n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others))
        length = next(lengths, len(own))
        titles[model] = "/".join(own[-length:])
    return titles
