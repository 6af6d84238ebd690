"""`kezuri compress`: your model and your data, one command."""

from pathlib import Path
from typing import Annotated

import typer

from kezuri.cli.options import Device, Runs, Threads


def compress(
    model: Annotated[
        str,
        typer.Argument(
            help="file.py:function, package.module:function, timm:name, torchvision:name or a zoo name.",
            show_default=False,
        ),
    ],
    *,
    data: Annotated[str, typer.Option(help="A folder of images, or a known data set.", show_default=False)],
    keep_accuracy: Annotated[
        float, typer.Option(help="Allowed change (-0.01 = one point), or the accuracy itself (0.9).")
    ] = -0.01,
    objective: Annotated[str, typer.Option(help="smallest or fastest.")] = "smallest",
    runtime: Annotated[
        str, typer.Option(help="Where it ships, is proved and is timed: onnxruntime or openvino.")
    ] = "onnxruntime",
    weights: Annotated[
        Path | None, typer.Option(help="Trained weights, if the function does not load them.")
    ] = None,
    validation_from: Annotated[
        str, typer.Option(help="train; or test, for a model that has seen all the training images.")
    ] = "train",
    train_epochs: Annotated[float, typer.Option(min=0, help="Train first, for so many epochs.")] = 0,
    rate: Annotated[float, typer.Option(help="Share of the channels cut each round, in (0, 1).")] = 0.2,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at most.")] = 8,
    epochs: Annotated[float, typer.Option(help="Retraining epochs after each cut.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate of the dense training.")] = 0.05,
    lr_ratio: Annotated[float, typer.Option(help="Retraining starts at lr * lr_ratio.")] = 0.5,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    attention_epochs: Annotated[float, typer.Option(help="Epochs of the attention gates each round.")] = 1,
    criterion: Annotated[
        str, typer.Option(help="What a channel is worth; see `kezuri list criterion`.")
    ] = "pcas",
    round_to: Annotated[
        int, typer.Option(min=1, help="Channels kept are a multiple of this; 8 suits ONNX Runtime.")
    ] = 1,
    payoff: Annotated[
        float, typer.Option(help="Seconds to time each round's cut before retraining; 0: none.")
    ] = 0,
    budget: Annotated[
        str,
        typer.Option(help="Stop as soon as it is met, such as latency=0.5,macs=0.4 of the dense model's."),
    ] = "",
    augment: Annotated[str, typer.Option(help="Comma-separated, such as pad_crop,flip.")] = "",
    data_root: Annotated[
        Path | None, typer.Option(envvar="KEZURI_DATA", help="Where known data sets lie.")
    ] = None,
    name: Annotated[str, typer.Option(help="The run's name.")] = "compress",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Compresses your model as far as the accuracy allows, proves it, exports it and measures it."""
    import yaml

    from kezuri.cli.running import run_recipe
    from kezuri.recipe.document import Document, plain_scalar
    from kezuri.recipe.recipe import recipe_from

    augments = [word.strip() for word in augment.split(",") if word.strip()]
    ceilings = [word.strip().partition("=") for word in budget.split(",") if word.strip()]
    training = {"lr": lr, "batch_size": batch_size, "augment": augments}
    loop = {
        "use": "pcas",
        "rate": rate,
        "rounds": rounds,
        "epochs": epochs,
        "lr_ratio": lr_ratio,
        "attention_epochs": attention_epochs,
        "criterion": criterion,
        "round_to": round_to,
        "payoff": payoff,
        "budget": {metric: plain_scalar(most, "--budget") for metric, _, most in ceilings} or None,
        **training,
    }
    steps = [*([{"use": "train", "epochs": train_epochs, **training}] if train_epochs else []), loop]
    content = {
        "name": name,
        "seed": seed,
        "model": {"use": model, "weights": None if weights is None else str(weights.resolve())},
        "data": {"use": data, "validation_from": validation_from},
        "goal": {"objective": objective, "accuracy": keep_accuracy, "runtime": runtime},
        "steps": steps,
    }
    text = yaml.safe_dump(content, sort_keys=False)
    recipe = recipe_from(Document(content, "kezuri compress", {}))
    run_recipe(recipe, text, near=None, data=data_root, runs=runs, device=device, threads=threads)
