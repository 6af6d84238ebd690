"""`kezuri run`: a recipe from start to report."""

from pathlib import Path

from kezuri.cli.options import DataRoot, Device, Overrides, RecipeFile, Runs, Seed, Threads


def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    *,
    data: DataRoot = None,
    runs: Runs = Path("runs"),
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Runs a recipe: trains, prunes, proves, exports, measures, reports. Again, to go on after a stop."""
    from kezuri.cli.running import run_recipe
    from kezuri.recipe.recipe import load_recipe

    changes = [*(overrides or []), *([] if seed is None else [f"seed={seed}"])]
    loaded = load_recipe(recipe, changes)
    text = recipe.read_text(encoding="utf-8") + "".join(
        f"# changed on the command line: {c}\n" for c in changes
    )
    run_recipe(loaded, text, near=recipe.parent, data=data, runs=runs, device=device, threads=threads)
