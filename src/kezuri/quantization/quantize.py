"""One call: a trained model and a few images in, the model in integers out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from kezuri.core.errors import UsageError
from kezuri.core.progress import Progress
from kezuri.core.registry import Registry
from kezuri.data import Data
from kezuri.quantization.observer import Observer, observers
from kezuri.quantization.post_training import calibration_batches, post_training
from kezuri.quantization.ptq import SILENT, PostTraining
from kezuri.quantization.quantized import Quantized
from kezuri.quantization.rounding import Rounding, roundings
from kezuri.quantization.scheme import Replacement, Scheme
from kezuri.quantization.sparing import Accuracy, keeping, unkept


def usual_observer(bits: int) -> str:
    """The name of the observer that suits so many bits.

    With few steps, the values between count for more than the largest; learned steps begin there, too.
    """
    return "min_max" if bits >= 8 else "mse"


def quantize(
    model: nn.Module,
    calibration: Data | Dataset[Any] | Tensor | Iterable[Any],
    bits: int = 8,
    *,
    activation_bits: int = 8,
    edge_bits: int = 8,
    layer_bits: Mapping[str, int] | None = None,
    spared: Sequence[str] = (),
    per_channel: bool = True,
    attention: bool = True,
    gates: bool = True,
    swish: bool = True,
    replaced: Mapping[str, Replacement] | None = None,
    observer: str | Observer | None = None,
    weight_observer: str | Observer | None = None,
    rounding: str | Rounding = "nearest",
    equalize: bool = False,
    correct_bias: bool = False,
    reestimate_norms: bool = False,
    images: int = 256,
    keep: tuple[Accuracy, float] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Quantized:
    """Turns a trained model into one whose weights and activations are integers, without training it.

    Where integers go is decided in one place (`kezuri.quantization.placement`), so that the file runs in
    integers throughout. What stays in floats is in the report, with the reason. Train the result for
    quantization-aware training: batch normalisation is alive in it, and folded when it is exported.

    Args:
        model: left as it is.
        calibration: a few images such as the model takes, normalised, not augmented: a batch, batches, a
            loader or dataset (labels are dropped), or a `Data`, of which the training part is taken.
        bits: of weights, 2 to 8. Files hold 8 in any case, so that less shows what would be lost.
        activation_bits: of what flows between layers, likewise.
        edge_bits: of weights and inputs of the first and the last layer, at least.
        layer_bits: of the weights of single layers, by name.
        spared: names of layers that stay in floats.
        per_channel: whether each output of a weight has its own scale.
        attention: whether the products of attention go to integers.
        gates: whether the layers of squeeze-and-excite gates do.
        swish: whether SiLU and hard-swish do, as products with a sigmoid, which is faster in ONNX Runtime and
            SiLU slower in OpenVINO.
        replaced: activations without an integer kernel to replace, `{"hardswish": "relu"}`; needs training.
        observer, weight_observer: how ranges of activations and of weights are found, by name (`kezuri list`)
            or as a method; "min_max" for 8 bits and "mse" for less, if none is named.
        rounding: "nearest", "gptq", "adaround", or a method.
        equalize: whether to even out the ranges of channels between layers first; ReLU6 becomes ReLU for it.
        correct_bias: whether to take the mean error of each output out of its bias.
        reestimate_norms: whether batch normalisation gets its statistics anew.
        images: of the calibration data, at most.
        keep: a function that tells a model's accuracy, and the accuracy to keep: layers are left in floats,
            those that suffer most first, as few as keep it.
        seed: decides which images of a `Data` or dataset are taken.
        progress: hears how it goes.

    Raises:
        UsageError: a value is out of range, there is no image to calibrate with, or images are not float32.
        DataError: the images hold numbers that are not finite.
        ModelError: torch.export cannot follow the model, nothing of it can run in integers, or it has weights
            that are not float32.
        GoalUnreachable: the accuracy is not kept even with all layers in floats but one.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"quantize takes a torch.nn.Module, got {type(model).__name__}")
    scheme = Scheme(
        bits=bits,
        activation_bits=activation_bits,
        edge_bits=edge_bits,
        layer_bits={} if layer_bits is None else layer_bits,
        spared=tuple(spared) if isinstance(spared, list | set | frozenset) else spared,  # type: ignore[arg-type]
        per_channel=per_channel,
        attention=attention,
        gates=gates,
        swish=swish,
        replaced={} if replaced is None else replaced,
    )
    lowest = min([bits, *scheme.layer_bits.values()])
    method = PostTraining(
        observer=_member(
            "observer", observers, usual_observer(activation_bits) if observer is None else observer
        ),
        weight_observer=_member(
            "weight_observer",
            observers,
            usual_observer(lowest) if weight_observer is None else weight_observer,
        ),
        rounding=_member("rounding", roundings, rounding),
        equalize=equalize,
        correct_bias=correct_bias,
        reestimate_norms=reestimate_norms,
        images=images,
    )
    check_scales(scheme, method)
    if keep is not None:
        _check_keep(keep)
    batches = calibration_batches(model, calibration, method, seed=seed)
    if keep is None:
        return post_training(model, batches, scheme, method, progress)
    found = keeping(model, batches, scheme, method, accuracy=keep[0], floor=keep[1], progress=progress)
    if not found.kept:
        raise unkept(found, keep[1])
    return found.best


def _member(role: str, registry: Registry[Any], given: Any) -> Any:
    """The method of a name, or a method as it is."""
    if isinstance(given, str):
        return registry[given]()
    if given is None or isinstance(given, type) or not (callable(given) or hasattr(given, "watch")):
        have = ", ".join(sorted(name for name, _ in registry.items()))
        raise UsageError(f"{role} is one of {have}, or such a method; got {given!r}")
    return given


def check_scales(scheme: Scheme, method: PostTraining) -> None:
    """That the observer of weights finds as many ranges as there are scales.

    Raises:
        UsageError: it finds one, and each output has a scale.
    """
    if scheme.per_channel and not method.weight_observer.per_channel:
        have = ", ".join(sorted(name for name, one in observers.items() if one.per_channel))
        raise UsageError(
            f"{type(method.weight_observer).__name__} finds one range for a whole weight, and each output "
            f"has its own: choose one of {have} as weight_observer, or per_channel: false"
        )


def _check_keep(keep: object) -> None:
    fits = isinstance(keep, tuple) and len(keep) == 2 and callable(keep[0])
    if not fits or isinstance(keep[1], bool) or not isinstance(keep[1], int | float):  # type: ignore[index]
        raise UsageError(
            f"keep is a function that tells a model's accuracy, and the accuracy to keep; got {keep!r}"
        )
