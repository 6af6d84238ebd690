"""The end of a run: export, parity, and every measurement of the dense and the final model, side by side."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kezuri.artifact.folder import RunFolder
from kezuri.core.measurement import Measurement
from kezuri.data import Part
from kezuri.measure.accuracy import accuracy_measurement
from kezuri.measure.damage import damage
from kezuri.measure.efficiency import efficiency
from kezuri.measure.latency import compare_latency
from kezuri.measure.macs import cost
from kezuri.measure.memory import RUNTIMES, peak_memory
from kezuri.measure.size import file_sizes, weights_size
from kezuri.measure.sparsity import sparsity
from kezuri.model.program import Program
from kezuri.quantization.export import export_quantized
from kezuri.quantization.parity import check_quantized_parity
from kezuri.recipe.answer import answer
from kezuri.recipe.step import ModelState, Resources
from kezuri.runtime.export import export_onnx
from kezuri.runtime.kernels import kernels, told
from kezuri.runtime.parity import Parity, check_parity
from kezuri.runtime.runner import Runner, Threads, file_runner
from kezuri.train import evaluate

STAGE = "final"
BATCH = 250
LATENCY_SECONDS = 6.0


@dataclass(frozen=True)
class _Shipped:
    """A model as it ships."""

    name: str
    state: ModelState
    onnx: Path


def finish(dense: ModelState, final: ModelState, resources: Resources, folder: RunFolder) -> None:
    """Exports, proves and measures the dense and the final model, and writes the answer.

    Predictions, and so test accuracies, are those of the goal's runtime on the exported file. The test
    images are used here and nowhere else.

    Raises:
        ParityFailed: an exported model does not answer as the PyTorch one.
        ModelError: a model cannot be exported.
    """
    stages = resources.stages
    if stages.record(STAGE) is not None:
        return
    resources.listener.say("exporting to ONNX, checking parity, measuring")
    rows: list[Measurement] = []
    shipped = []
    for name, state in (("dense", dense), ("final", final)):
        state.model.eval()
        stages.save_in(folder.model(name), state)
        onnx, parity = ship(state, resources, folder.model(name) / "model.onnx")
        shipped.append(_Shipped(name, state, onnx))
        rows += [m.under(model=name) for m in (*parity.measurements(), *_alone(shipped[-1], resources))]
    rows += _together(shipped, resources)
    stages.manifest.update(answer=answer(resources.goal, rows, stages.manifest.read().get("stop") or {}))
    stages.manifest.seal(*(path for one in shipped for path in sorted(one.onnx.parent.iterdir())))
    stages.finish(STAGE, record={"measured": len(rows)}, measurements=rows)


def ship(state: ModelState, resources: Resources, path: Path) -> tuple[Path, Parity]:
    """Writes the file that a model ships as, of integers if it is quantized, and proves it.

    Raises:
        ParityFailed: the file does not answer as the PyTorch model.
        ModelError: the model cannot be exported.
    """
    data, device = resources.data, resources.device
    runner = file_runner(resources.goal.runtime)
    if state.quantization is None:
        onnx = export_onnx(state.model, data.image_shape, path)
        return onnx, check_parity(state.model, onnx, data.validation, device=device, runner=runner)
    assert isinstance(state.model, Program)
    onnx = export_quantized(state.model, data.image_shape, path)
    return onnx, check_quantized_parity(state.model, onnx, data.validation, device=device, runner=runner)


def _alone(one: _Shipped, resources: Resources) -> list[Measurement]:
    """What is measured of each model by itself."""
    shape, runtime = resources.data.image_shape, resources.goal.runtime
    validation = evaluate(one.state.model, resources.data.validation, device=resources.device)
    correct = int((validation.predictions == validation.labels).sum())
    rows = [
        accuracy_measurement(correct, len(validation.labels), split="validation"),
        *cost(one.state.model, shape),
        *file_sizes(one.onnx),
        *([weights_size(one.state.model)] if one.state.quantization is None else []),
        *([peak_memory(one.onnx, shape, runtime=runtime)] if runtime in RUNTIMES else []),
        *_kernels(one, resources),
    ]
    return rows + list(sparsity(one.state.model)) if one.state.masks is not None else rows


def _kernels(one: _Shipped, resources: Resources) -> list[Measurement]:
    """What takes the time of a file of integers, as far as the runtime tells."""
    if one.state.quantization is None or resources.goal.runtime != "onnxruntime":
        return []
    found = kernels(one.onnx, resources.data.image_shape)
    resources.listener.say(f"of the time in ONNX Runtime: {told(found)}")
    return [
        Measurement(
            "time_share",
            kernel.share,
            "fraction",
            conditions={"kernel": kernel.name, "kernels": kernel.count, "group": kernel.group},
        )
        for kernel in found
    ]


def _together(shipped: list[_Shipped], resources: Resources) -> list[Measurement]:
    """What is measured of the models against each other."""
    data, runner = resources.data, file_runner(resources.goal.runtime)
    split, part = ("test", data.test) if data.test is not None else ("validation", data.validation)
    rows: list[Measurement] = []
    predictions: dict[str, Tensor] = {}
    for one in shipped:
        predictions[one.name] = _predict(one.onnx, part, runner)
        correct = int((predictions[one.name] == part.labels).sum())
        if split == "test":
            rows.append(
                accuracy_measurement(correct, len(part), split=split).under(
                    model=one.name, runtime=resources.goal.runtime
                )
            )
        megabytes = one.onnx.stat().st_size
        rows.append(efficiency(correct / len(part), megabytes).under(model=one.name, split=split))
    everyone: tuple[Threads, ...] = (1, "all")
    for threads in everyone:
        sessions = {one.name: runner.prepare(one.onnx, threads=threads) for one in shipped}
        raced = compare_latency(sessions, data.image_shape, budget_seconds=LATENCY_SECONDS)
        rows += [m.under(model=name) for name, m in raced.latencies.items()]
        rows.append(raced.speedups["final"].under(model="final", threads=threads))
    changed = damage(part.labels, predictions["dense"], predictions["final"], data.classes)
    return rows + [m.under(model="final", split=split) for m in changed]


def _predict(onnx: Path, part: Part, runner: Runner) -> Tensor:
    session = runner.prepare(onnx, threads="all")
    answers = [torch.from_numpy(session.run(b.images.numpy())).argmax(1) for b in part.batches(BATCH)]
    return torch.cat(answers)
