"""What every command that runs a recipe does: prepare, run, report, answer."""

import shlex
from pathlib import Path

from kezuri.artifact.folder import RunFolder
from kezuri.cli.console import ConsoleListener
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import Recipe
from kezuri.recipe.run import run as run_prepared
from kezuri.report import numbers
from kezuri.report.grid import show
from kezuri.report.reading import RunView
from kezuri.report.tables import answer_table
from kezuri.report.write import write_report


def run_recipe(
    recipe: Recipe,
    as_written: str,
    *,
    near: Path | None,
    data: Path | None,
    runs: Path,
    device: str,
    threads: int | None,
) -> RunFolder:
    """Runs a recipe and ends with the answer."""
    listener = ConsoleListener()
    prepared = prepare(recipe, data_root=data, device=device, near=near)
    listener.say(f"{prepared.recipe.name}: {prepared.recipe.goal}")
    listener.say(f"run folder {runs / prepared.run_name}")
    folder = run_prepared(prepared, runs=runs, listener=listener, as_written=as_written, threads=threads)
    conclude(folder, listener)
    return folder


def conclude(folder: RunFolder, listener: ConsoleListener) -> None:
    """Writes the report and prints the answer, where it lies, and what to do next."""
    page = write_report(folder.path)
    run = RunView.read(folder.path)
    listener.say("")
    show(answer_table(run), listener.console)
    answer = run.answer
    listener.say("")
    listener.say(f"question  {answer['question']}")
    listener.say(f"answer    {answer['text']}")
    for missed in answer["missed"]:
        listener.say(f"missed    {missed}")
    if answer.get("floor"):
        doubt = ": not confirmed on test" if answer["confirmed"] is False and answer["met"] else ""
        listener.say(f"floor     {answer['floor']}{doubt}")
    if run.proof is not None:
        error = numbers.significant(run.proof.value, 2)
        listener.say(f"proof     cut and masked model differ by {error} at most (relative, every round)")
    if answer["stop_why"]:
        listener.say(f"stopped   {answer['stop_why']}")
    listener.say(f"model     {folder.model('final') / 'model.onnx'}")
    listener.say(f"report    {page}")
    here, runs = (shlex.quote(str(path)) for path in (folder.path, folder.path.parent))
    listener.say(f"next      kezuri bench {here}   |   kezuri compare {runs}/*")
