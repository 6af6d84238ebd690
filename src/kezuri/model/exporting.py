"""A model's graph of ATen operations by torch.export, or why there is none."""

import copy
import inspect
import logging
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import config as fx_config

from kezuri.core.errors import ModelError, NotFollowed
from kezuri.core.interruption import held_back
from kezuri.core.limits import OutOfTime, until
from kezuri.core.progress import NullProgress, Progress
from kezuri.model.modes import fused_attention_off

SILENT = NullProgress()
STANDARD = Path(sysconfig.get_paths()["stdlib"])
OWN = (Path(torch.__file__).parent, Path(__file__).parents[1])


def example_batch(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs on the model's device; a batch of one is repeated, as size 1 hides what is a batch."""
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    device = next((tensor.device for tensor in model.state_dict().values()), torch.device("cpu"))
    moved = tuple(tensor.detach().to(device) for tensor in inputs)
    if all(tensor.dim() > 0 and len(tensor) == 1 for tensor in moved):
        return tuple(tensor.repeat(2, *[1] * (tensor.dim() - 1)) for tensor in moved)
    return moved


def export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    any_batch: bool = False,
    training: bool = False,
    progress: Progress = SILENT,
) -> ExportedProgram:
    """The model's graph of ATen operations, of a copy.

    Args:
        model: left alone.
        inputs: an example of each.
        any_batch: whether the graph takes batches of any size, where the model does.
        training: whether it is what the model does in training mode; evaluation mode if not.
        progress: hears of every module that was gone through.

    Raises:
        ModelError: torch.export cannot follow the model; the line it stopped at is named.
    """
    twin = copy.deepcopy(model).train(training)
    shapes: tuple[object, ...] | None = None
    if any_batch:
        shapes = tuple({0: Dim.AUTO} if tensor.dim() else None for tensor in inputs)
        kinds = [parameter.kind for parameter in inspect.signature(twin.forward).parameters.values()]
        shapes = (shapes,) if kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL else shapes
    for module in twin.modules():
        module.register_forward_hook(lambda *_: progress.advance(1, {}))
    progress.start("exporting", total=sum(1 for _ in twin.modules()), done=0)
    try:
        with _plain_tracing(), held_back():  # it takes Ctrl-C for a fault of the model
            return torch.export.export(twin, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise _refusal(twin, inputs, error) from error
    finally:
        progress.done()


@contextmanager
def _plain_tracing() -> Iterator[None]:
    """No gradients and no stack traces, as they take time."""
    quiet = fx_config.do_not_emit_stack_traces
    fx_config.do_not_emit_stack_traces = True
    loud = logging.getLogger("torch").level
    logging.getLogger("torch").setLevel(logging.CRITICAL)  # what matters comes back as an exception
    try:
        quietly = (
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        )  # it prints the graph it gave up on
        with torch.no_grad(), fused_attention_off(), warnings.catch_warnings(), quietly[0], quietly[1]:
            # recurrent layers store their weights in a list; the model here is a copy
            warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")
            yield
    finally:
        fx_config.do_not_emit_stack_traces = quiet
        logging.getLogger("torch").setLevel(loud)


def _refusal(model: nn.Module, inputs: tuple[Tensor, ...], error: Exception) -> ModelError:
    where = _users_line(error)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as plain:
        return ModelError(
            f"the model does not accept an input of shape {shapes}{_users_line(plain)}: {_first_line(plain)}"
        )
    return NotFollowed(
        f"torch.export cannot follow the model{where}: {_first_line(error)}. Rewrite that line so that no "
        "Python decision or size depends on the values of a tensor (torch.where instead of `if`, a fixed "
        "size instead of a count), or move it out of `forward`"
    )


@cache
def load_torch_export() -> None:
    """Has it import what it needs, which must not be ended halfway."""
    torch.export.export(nn.Identity(), (torch.zeros(1),), strict=False)


@contextmanager
def in_time(deadline: float, seconds: float) -> Iterator[None]:
    """Ends what follows a model at a moment of `time.monotonic()`.

    Args:
        seconds: that it had, for the message.

    Raises:
        NotFollowed: it was not done by then; the line it was at is named.
    """
    try:
        with until(deadline):
            yield
    except OutOfTime as error:
        where = _users_line(error)
        raise NotFollowed(
            f"the model could not be followed within {seconds:.3g} s{where and f', stopped{where}'}: "
            "loops of many thousand operations take long; give it more seconds, or smaller example inputs"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__


def _users_line(error: BaseException) -> str:
    """The deepest line outside torch, this package and what comes with Python."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_known(Path(f.filename))]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} (`{frames[-1].line}`)" if frames else ""


def _is_known(file: Path) -> bool:
    if any(file.is_relative_to(home) for home in OWN) or str(file).startswith("<"):
        return True
    return file.is_relative_to(STANDARD) and "packages" not in str(file.relative_to(STANDARD))
