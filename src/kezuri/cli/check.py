"""`kezuri check`: is the recipe right, and what will it need?"""

import gc
import shlex
from pathlib import Path
from typing import Annotated

import typer

from kezuri.cli.options import DataRoot, Device, Overrides, RecipeFile, Runs


def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    *,
    data: DataRoot = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    trace: Annotated[
        bool, typer.Option("--trace", help="Also follow and export the model as a run does first; seconds.")
    ] = False,
) -> None:
    """Validates a recipe, its data and its model, and estimates time and memory; trains nothing."""
    gc.disable()  # nearly all that follows is imports, which leave nothing to collect
    from kezuri.cli.console import ConsoleListener
    from kezuri.recipe.check import estimate
    from kezuri.recipe.prepare import prepare
    from kezuri.recipe.recipe import load_recipe
    from kezuri.report.numbers import count, duration, size

    listener = ConsoleListener()
    loaded = load_recipe(recipe, overrides or [])
    prepared = prepare(loaded, data_root=data, device=device, near=recipe.parent)
    needs = estimate(prepared, runs, trace=trace)
    part = prepared.data
    listener.say(f"recipe  {recipe}: {len(loaded.steps)} steps, {loaded.goal}")
    listener.say(
        f"data    {part.name}: {len(part.train)} training, {len(part.validation)} validation, "
        f"{0 if part.test is None else len(part.test)} test images of "
        f"{'×'.join(map(str, part.image_shape))}, {len(part.classes)} classes"
    )
    macs = "" if needs.macs is None else f", {count(needs.macs)} MACs an image"
    listener.say(f"model   {loaded.model.use}: {count(needs.params)} parameters{macs}")
    listener.say(
        f"time    about {duration(needs.seconds)} on {prepared.device} (rounds get faster as it shrinks)"
    )
    free = "" if needs.available is None else f", {size(needs.available)} are free"
    listener.say(f"memory  about {size(needs.memory)} beside the data{free}")
    listener.say(f"disk    at most {size(needs.disk)} in {runs / prepared.run_name}")
    for warning in needs.warnings:
        listener.warn(warning)
    given = {"--data": data, "--runs": runs, "--device": device}
    usual = {"--data": None, "--runs": Path("runs"), "--device": "auto"}
    options = [str(word) for name in given if given[name] != usual[name] for word in (name, given[name])]
    listener.say("next    " + shlex.join(["kezuri", "run", str(recipe), *(overrides or []), *options]))
