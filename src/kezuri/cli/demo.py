"""`kezuri demo`: the whole job on the bundled images, in minutes."""

from importlib.resources import files
from pathlib import Path

from kezuri.cli.options import Overrides, Runs, Seed, Threads


def demo(
    overrides: Overrides = None, *, runs: Runs = Path("runs"), seed: Seed = None, threads: Threads = None
) -> None:
    """Trains a small residual network on real images and shaves it to a quarter of its parameters or less."""
    from kezuri.cli.running import run_recipe
    from kezuri.recipe.recipe import load_recipe

    file = Path(str(files("kezuri.recipe") / "demo.yaml"))
    changes = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    text = file.read_text(encoding="utf-8")
    run_recipe(
        load_recipe(file, changes), text, near=None, data=None, runs=runs, device="cpu", threads=threads
    )
