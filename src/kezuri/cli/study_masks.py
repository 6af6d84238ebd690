"""`kezuri study-masks`: whether searching for masks is worth it, before retraining and after."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kezuri.cli.options import Device, Runs, Threads, folder_name, model_choice, words

if TYPE_CHECKING:
    from kezuri.cli.console import ConsoleListener


def study_masks(
    model: Annotated[str, typer.Argument(help="MODEL,option=value,…", show_default=False)],
    *,
    data: Annotated[str, typer.Option(help="A known data set, or a folder of images.", show_default=False)],
    weights: Annotated[
        str | None, typer.Option(help="Of the trained model; without them it is trained first.")
    ] = None,
    sparsity: Annotated[str, typer.Option(help="Comma-separated shares of the weights to remove.")] = (
        "0.8,0.9,0.95"
    ),
    searchers: Annotated[
        str, typer.Option(help="Comma-separated, with settings as genetic:population=64:elites=4.")
    ] = "genetic,annealing,random,magnitude",
    evaluations: Annotated[int, typer.Option(help="Masks that each search judges.")] = 1000,
    draws: Annotated[int, typer.Option(help="Seeds of the search and of the few images.")] = 10,
    per_class: Annotated[
        str, typer.Option(help="Images of each class to retrain with: 1,5,10,all.")
    ] = "1,all",
    search_images: Annotated[int, typer.Option(help="Training images that a search may look at.")] = 10_000,
    search_per_class: Annotated[
        int | None, typer.Option(help="Instead of those, so many of each class, other ones each draw.")
    ] = None,
    train_epochs: Annotated[float, typer.Option(help="Of the dense model's training.")] = 10,
    epochs: Annotated[float, typer.Option(help="Of retraining with all images.")] = 2,
    few_epochs: Annotated[float, typer.Option(help="Of retraining with a few of each class.")] = 100,
    distill: Annotated[
        bool, typer.Option("--distill", help="The dense model teaches in retraining.")
    ] = False,
    norms: Annotated[str, typer.Option(help="BatchNorm: frozen, or reestimated for each mask.")] = "frozen",
    criterion: Annotated[str, typer.Option(help="Where searches begin.")] = "l1",
    granularity: Annotated[str, typer.Option(help="What is removed together.")] = "weight",
    scope: Annotated[str, typer.Option(help="Who competes.")] = "global:normalize=none",
    augment: Annotated[str, typer.Option(help="Comma-separated: flip, pad_crop, …")] = "",
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam, at the start of training.")] = 1e-3,
    lr_ratio: Annotated[float, typer.Option(help="Fraction of it that retraining begins with.")] = 0.5,
    data_root: Annotated[
        Path | None, typer.Option(envvar="KEZURI_DATA", help="Where known data sets lie.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The study's folder in --runs (default: masks-MODEL-DATA).")
    ] = None,
    runs: Runs = Path("runs"),
    workers: Annotated[int, typer.Option(min=1, help="Searches at once, of one thread each.")] = 1,
    device: Device = "auto",
    threads: Threads = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Searches for masks at several sparsities and draws, retrains with few images and all, and compares.

    Tables, charts and a page with paired differences to random search and to magnitude, their confidence
    intervals and p-values, and whether it was worth it. The same command goes on after a stop, and keeps what
    is done where draws, searchers, sparsities or retrainings are added.
    """
    from rich.console import Console

    from kezuri.cli.console import ConsoleListener
    from kezuri.core.errors import UsageError
    from kezuri.recipe.document import plain_scalar
    from kezuri.recipe.mask_study import mask_plan
    from kezuri.recipe.mask_studying import run_mask_study

    if csv and json:
        raise UsageError("--csv and --json cannot both be printed; choose one")
    chosen = model_choice("MODEL", model)
    plan = mask_plan(
        {
            "model": {"use": chosen.use, "options": dict(chosen.options), "weights": weights},
            "data": data,
            "searchers": searchers,
            "sparsities": [plain_scalar(word, "--sparsity") for word in words(sparsity)],
            "evaluations": evaluations,
            "draws": draws,
            "per_class": words(per_class),
            "criterion": criterion,
            "granularity": granularity,
            "scope": scope,
            "search_images": search_images,
            "search_per_class": search_per_class,
            "train_epochs": train_epochs,
            "epochs": epochs,
            "few_epochs": few_epochs,
            "norms": norms,
            "distill": "logits" if distill else None,
            "augment": words(augment),
            "batch_size": batch_size,
            "lr": lr,
            "lr_ratio": lr_ratio,
        }
    )
    home = runs / (name or f"masks-{folder_name(chosen.use)}-{folder_name(data)}")
    listener = ConsoleListener(Console(stderr=True, soft_wrap=True, highlight=False) if csv or json else None)
    listener.say(f"study folder {home}")
    run_mask_study(
        plan,
        home,
        data_root=data_root,
        device=device,
        workers=workers,
        threads=threads,
        listener=listener,
    )
    _conclude(home, listener, csv=csv, json=json)


def _conclude(home: Path, listener: "ConsoleListener", *, csv: bool, json: bool) -> None:
    """Writes the report and prints the tables."""
    from kezuri.core.errors import KezuriError
    from kezuri.report.grid import show
    from kezuri.report.mask_findings import headline, worth_table
    from kezuri.report.mask_study import MaskStudyView, searches_table
    from kezuri.report.write import write_mask_study

    page = write_mask_study(home)
    view = MaskStudyView.read(home)
    if csv or json:
        table = searches_table(view)
        print(table.csv() if csv else table.json(), end="")
    else:
        tables = (searches_table(view), worth_table(view))
        for grid in (table for table in tables if table.rows):
            listener.say("")
            show(grid, listener.console)
        listener.say(f"\n{headline(view)}\nreport    {page}")
    if view.failed:
        raise KezuriError(
            f"{len(view.failed)} searches failed; the same command tries them again: {view.failed[0]}"
        )
