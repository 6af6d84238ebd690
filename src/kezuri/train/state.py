"""All that a training has to remember to go on as if it had never stopped."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kezuri.train.checkpoint import Snapshot
from kezuri.train.loop import Loop, Tally


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training images.

    Attributes:
        epoch: its number, from 1; the last may be a fraction of a pass.
        train_loss: mean loss while training (augmented images, weights still changing), in nats.
        train_accuracy: fraction of the training images answered right while training.
        validation_accuracy: fraction of the validation images answered right after the epoch.
        seconds: how long it took, with its evaluation.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_accuracy: float
    seconds: float


@dataclass
class State:
    """Where a training stands; weights and optimizer state live in the loop's model and optimizer."""

    step: int = 0
    tally: Tally = field(default_factory=Tally)
    records: list[EpochRecord] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    finished: bool = False

    def best_record(self) -> EpochRecord:
        """The epoch with the highest validation accuracy, the later of equals."""
        return max(self.records, key=lambda record: (record.validation_accuracy, record.epoch))


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, copied."""
    return {name: tensor.detach().clone() for name, tensor in _tensors(model).items()}


@torch.no_grad()
def load_weights_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies weights into a model that has the same names and shapes."""
    for name, tensor in _tensors(model).items():
        tensor.copy_(weights[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def pack(state: State, loop: Loop) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A training as tensors and plain data. A finished one needs its weights only."""
    tensors = {f"model.{name}": tensor for name, tensor in _tensors(loop.model).items()}
    numbers: dict[str, Any] = {}
    if not state.finished:
        tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
        tensors |= {f"objective.{name}": tensor for name, tensor in loop.own.items()}
        for index, parameter in enumerate(loop.parameters):
            for key, value in loop.optimizer.state.get(parameter, {}).items():
                place = tensors if isinstance(value, Tensor) else numbers
                place[f"optimizer.{index}.{key}"] = value
    about = {item.name: getattr(state, item.name) for item in fields(state) if item.name != "best"}
    about |= {"tally": asdict(state.tally), "records": [asdict(record) for record in state.records]}
    return tensors, {"state": about, "optimizer": numbers, "scaler": loop.scaler.state_dict()}


def unpack_(snapshot: Snapshot, loop: Loop) -> State:
    """The inverse of `pack`: sets the loop's weights and optimizer, returns the rest."""
    groups: dict[str, dict[str, Any]] = {"model": {}, "best": {}, "objective": {}, "optimizer": {}}
    for name, value in (*snapshot.tensors.items(), *snapshot.about["optimizer"].items()):
        group, _, rest = name.partition(".")
        groups[group][rest] = value
    load_weights_(loop.model, groups["model"])
    for name, tensor in groups["objective"].items():
        loop.own[name].detach().copy_(tensor)
    for name, value in groups["optimizer"].items():
        index, _, key = name.partition(".")
        parameter = loop.parameters[int(index)]
        loop.optimizer.state[parameter][key] = _like(parameter, value)
    loop.scaler.load_state_dict(snapshot.about["scaler"])
    about = dict(snapshot.about["state"])
    tally = Tally(**about.pop("tally"))
    records = [EpochRecord(**record) for record in about.pop("records")]
    best = {name: tensor.to(loop.device) for name, tensor in groups["best"].items()}
    return State(tally=tally, records=records, best=best, **about)


def _like(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def identity(loop: Loop, fingerprint: str, *, frozen_batchnorm: bool) -> dict[str, Any]:
    """What must be equal for a checkpoint to belong to a training, as plain data."""
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(loop.model).items()}
    trained = {id(parameter) for parameter in loop.parameters}
    names = [name for name, parameter in loop.model.named_parameters() if id(parameter) in trained]
    settings = described(loop.training)
    return {
        **{key: value for key, value in settings.items() if key != "is"},
        "seed": loop.seed,
        "data": fingerprint,
        "model": hashlib.sha256(json.dumps([shapes, names]).encode()).hexdigest(),
        "hooks": [described(hook)["is"] for hook in loop.hooks],
        "frozen_batchnorm": frozen_batchnorm,
        "objective": described(loop.objective),
    }


def described(value: Any) -> Any:
    """Plain data that is equal for equal settings, in this process and the next."""
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, nn.Module):
        return {"is": _is(value), "weights": _digest(_tensors(value))}
    settings = (
        {item.name: described(getattr(value, item.name)) for item in fields(value)}
        if (is_dataclass(value))
        else {}
    )
    return {"is": _is(value), **settings}


def _is(value: Any) -> str:
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}.{kind.__qualname__}"


def _digest(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + content)
    return total.hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """What bit-identical results depend on beside the identity."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": str(device)}
