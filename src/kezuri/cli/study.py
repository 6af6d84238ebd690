"""`kezuri study`: distillation, quantization and pruning, alone and together, in one table."""

from pathlib import Path
from typing import Annotated

import typer

from kezuri.cli.options import Device, Runs, Threads, folder_name, model_choice, words


def study(
    *,
    data: Annotated[str, typer.Option(help="A known data set, or a folder of images.", show_default=False)],
    epochs: Annotated[float, typer.Option(help="Of each training; retraining takes half as many.")] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="How often everything is done.")] = 3,
    methods: Annotated[
        str, typer.Option(help="Comma-separated: baseline, distill, assistant, ptq, qat, prune, chain.")
    ] = "all",
    student: Annotated[
        str, typer.Option(help="MODEL,option=value,…: what is compressed.")
    ] = "plain2,width=0.5",
    assistant: Annotated[str, typer.Option(help="Between the two.")] = "plain4,width=0.5",
    teacher: Annotated[str, typer.Option(help="The largest.")] = "plain8",
    sparsity: Annotated[
        float, typer.Option(help="Share of the weights that pruning removes, in (0, 1).")
    ] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam; retraining begins at half of it.")] = 1e-3,
    data_root: Annotated[
        Path | None, typer.Option(envvar="KEZURI_DATA", help="Where known data sets lie.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The study's folder in --runs (default: study-DATA).")
    ] = None,
    runs: Runs = Path("runs"),
    workers: Annotated[
        int, typer.Option(min=1, help="Runs at once, of one thread each; latencies are less sure then.")
    ] = 1,
    device: Device = "auto",
    threads: Threads = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Distils, quantizes and prunes a small network, alone and in every order, over several seeds.

    One table of accuracy, size, efficiency and latency, and what it says about the usual claims. The same
    command goes on after a stop, in several processes at once if need be; finished runs are kept, and more
    methods or seeds are added to them.
    """
    from rich.console import Console

    from kezuri.cli.console import ConsoleListener
    from kezuri.core.errors import KezuriError, UsageError
    from kezuri.recipe.study import METHODS, Plan
    from kezuri.recipe.studying import run_study
    from kezuri.report.findings import findings_table, headline
    from kezuri.report.grid import show
    from kezuri.report.study import StudyView
    from kezuri.report.study_tables import refusals_table, study_data, study_table
    from kezuri.report.write import write_study

    if csv and json:
        raise UsageError("--csv and --json cannot both be printed; choose one")
    plan = Plan(
        data=data,
        student=model_choice("--student", student),
        assistant=model_choice("--assistant", assistant),
        teacher=model_choice("--teacher", teacher),
        epochs=epochs,
        seeds=seeds,
        methods=tuple(METHODS) if methods == "all" else tuple(words(methods)),
        sparsity=sparsity,
        batch_size=batch_size,
        lr=lr,
    )
    home = runs / (name or f"study-{folder_name(data)}")
    listener = ConsoleListener(Console(stderr=True, soft_wrap=True, highlight=False) if csv or json else None)
    listener.say(f"study folder {home}")
    folder = run_study(
        plan,
        home,
        data_root=data_root,
        device=device,
        workers=workers,
        threads=threads,
        listener=listener,
    )
    page = write_study(folder.path)
    view = StudyView.read(folder.path)
    if csv or json:
        print(study_data(view).csv() if csv else study_data(view).json(), end="")
    else:
        for table in (study_table(view), refusals_table(view), findings_table(view)):
            if table.rows:
                listener.say("")
                show(table, listener.console)
        listener.say(f"\n{headline(view)}\nreport    {page}")
    if view.failed:
        raise KezuriError(
            f"{len(view.failed)} runs failed; the same command tries them again: {view.failed[0]}"
        )
