"""`kezuri bench`: how fast models really are on this machine."""

import shlex
from pathlib import Path
from typing import Annotated

import typer


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
    from rich.table import Table

    from kezuri.core.errors import UsageError
    from kezuri.core.measurement import runtime_title
    from kezuri.measure.latency import compare_latency
    from kezuri.report.numbers import milliseconds, size
    from kezuri.runtime.runner import file_runner

    if threads != "all" and not threads.isdigit():
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
    table = Table(
        title=f"{runtime_title(runtime)}, batch {batch}, {threads} thread(s)", title_justify="left", box=None
    )
    for heading in ("model", "ms a call", "p10–p90", "speed", "p10–p90", "file", "calls"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name, path in files.items():
        ms, speed = raced.latencies[name], raced.speedups[name]
        table.add_row(
            name,
            milliseconds(ms.value),
            f"{milliseconds(ms.low)}–{milliseconds(ms.high)}",
            f"{speed.value:.2f}×",
            f"{speed.low:.2f}–{speed.high:.2f}",
            size(path.stat().st_size),
            str(ms.samples),
        )
    Console(soft_wrap=True, highlight=False).print(table)


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
    for model in models:
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
            files[name if len(models) == 1 else f"{model.name}/{name}"] = path
    return files
