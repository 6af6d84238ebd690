"""`kezuri inspect`: what of a model can go, what cannot and why, and what a channel costs."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kezuri.artifact.inspection import Inspection
    from kezuri.measure.channel_latency import ChannelTimer
    from kezuri.recipe.subject import Subject

WIDEST = 100  # characters of a line of text
HEADING = 9


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A zoo name, file.py:function, timm:name, torchvision:name, or the folder of a saved model "
            "or a run.",
            show_default=False,
        ),
    ],
    *,
    image: Annotated[
        str | None, typer.Option(help="Channels x height x width, such as 3x224x224.", show_default=False)
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="Classes to build it for.", show_default=False)
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights, if the function does not load them.")
    ] = None,
    build: Annotated[
        str | None, typer.Option(help="For a saved model of your own code: the function that builds it.")
    ] = None,
    protect: Annotated[
        list[str] | None, typer.Option(help="Layers to leave whole: a name or a pattern; may be repeated.")
    ] = None,
    ms: Annotated[bool, typer.Option("--ms/--no-ms", help="Time a channel of each.")] = True,
    budget_seconds: Annotated[float, typer.Option(help="How long to time, in all.")] = 60.0,
    threads: Annotated[str, typer.Option(help="Of the runtime: a number, or all.")] = "1",
    runtime: Annotated[str, typer.Option(help="onnxruntime or openvino.")] = "onnxruntime",
    out: Annotated[Path | None, typer.Option(help="Also write a page with the drawing (HTML).")] = None,
    svg: Annotated[Path | None, typer.Option(help="Also write the drawing alone.")] = None,
    json: Annotated[Path | None, typer.Option(help="Also write everything as JSON.")] = None,
) -> None:
    """Shows every coupling of a model: layers, widths, what can go or why not, and what a channel costs."""
    shape = None if image is None else _shape(image)
    _check_files({"--out": (out, (".html", ".htm")), "--svg": (svg, (".svg",)), "--json": (json, (".json",))})
    timer = _timer(runtime, threads, budget_seconds) if ms else None
    from kezuri.recipe.subject import find_subject

    subject = find_subject(model, image_shape=shape, classes=classes, weights=weights, build=build)
    inspection = _inspected(subject, protect or [], timer)
    _print(inspection)
    _write(inspection, {"html": out, "svg": svg, "json": json})
    if out is None:
        _say("draw", "the same with --out inspect.html")
    if inspection.of("free") and not Path(model).is_dir():
        where = [] if runtime == "onnxruntime" else ["--runtime", runtime]
        _say("next", shlex.join(["kezuri", "compress", model, "--data", "FOLDER", *where]))


def _shape(image: str) -> tuple[int, int, int]:
    """Three positive numbers.

    Raises:
        UsageError: it is anything else.
    """
    from kezuri.core.errors import UsageError

    parts = re.split("[x×]", image.lower())
    if len(parts) != 3 or not all(part.isdecimal() and 0 < int(part) < 1 << 16 for part in parts):
        raise UsageError(f"--image is channels x height x width, such as 3x224x224; got {image!r}")
    return int(parts[0]), int(parts[1]), int(parts[2])


def _check_files(files: dict[str, tuple[Path | None, tuple[str, ...]]]) -> None:
    from kezuri.core.errors import UsageError

    for option, (path, endings) in files.items():
        if path is not None and (path.suffix.lower() not in endings or path.is_dir()):
            raise UsageError(f"{option} is a file that ends in {endings[0]}; got {path}")


def _timer(runtime: str, threads: str, budget_seconds: float) -> "ChannelTimer":
    from kezuri.core.errors import UsageError
    from kezuri.measure.channel_latency import ChannelTimer
    from kezuri.runtime.runner import Threads, thread_count

    if threads != "all" and not threads.isdecimal():
        raise UsageError(f"--threads is a number, or all; got {threads!r}")
    count: Threads = "all" if threads == "all" else int(threads)
    thread_count(count)
    return ChannelTimer(runtime=runtime, threads=count, budget_seconds=budget_seconds)


def _inspected(subject: "Subject", protect: list[str], timer: "ChannelTimer | None") -> "Inspection":
    from kezuri.recipe.inspection import inspect_model

    return inspect_model(
        subject.model,
        subject.image_shape,
        name=subject.name,
        protect=protect,
        timer=timer,
        progress=_Count(),
    )


class _Count:
    """How far the timing is, on a terminal; it moves only between races, to take no time of theirs."""

    def start(self, task: str, *, total: int, done: int) -> None:
        """The first sign of it."""
        self._task, self._total, self._done = task, total, done
        self._show(f"{task} {total} kinds of couplings: exporting")

    def advance(self, steps: int, figures: Mapping[str, float]) -> None:  # noqa: ARG002 (the role's)
        """One more kind was timed."""
        self._done += steps
        self._show(f"{self._task} {self._done}/{self._total}")

    def done(self) -> None:
        """Leaves nothing behind."""
        self._show("")

    def _show(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _print(inspection: "Inspection") -> None:
    from kezuri.report.grid import printable, show
    from kezuri.report.inspection import about, couplings_table, lines

    _say("model", f"{printable(inspection.model)}: {about(inspection)}")
    table = couplings_table(inspection)
    if table.rows:
        print()
        show(table)
    print()
    for heading, text in lines(inspection):
        _say(heading, text)


def _write(inspection: "Inspection", files: dict[str, Path | None]) -> None:
    from kezuri.artifact.atomic import write_bytes, write_json
    from kezuri.report.inspection_drawing import draw

    if (page := files["html"]) is not None:
        from kezuri.report.inspection_page import inspection_page

        write_bytes(page, inspection_page(inspection).encode())
    if (drawing := files["svg"]) is not None:
        write_bytes(drawing, draw(inspection).encode())
    if (plain := files["json"]) is not None:
        write_json(plain, inspection.to_json())
    for path in filter(None, files.values()):
        _say("wrote", str(path))


def _say(heading: str, text: str) -> None:
    """A heading and a text that goes on beneath itself, at most as wide as the terminal."""
    import textwrap

    from rich.console import Console

    width = max(40, min(WIDEST, Console().width))
    lead = f"{heading:<{HEADING - 1}} "
    print(
        textwrap.fill(
            text, width, initial_indent=lead, subsequent_indent=" " * HEADING, break_on_hyphens=False
        )
    )
