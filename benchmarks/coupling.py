"""What analysis and cut of a network cost, beside Torch-Pruning, and how they grow with the network.

    python benchmarks/coupling.py

Half of the channels of ResNet-50, DenseNet-121 and Swin-T at 224x224 go, by L2 norm and layer by layer.
Both tools take turns in one process on copies of one model; medians of processor time, lowest and highest.
Kezuri's time is told apart: the export by torch.export, analysis with choice and cut, and the proof, which
the rival has not. A rival that does not end in --limit seconds is stopped, in a process of its own. Networks
of torchvision and the rival are compared where they are installed (`pip install torch-pruning==1.6.1` beside
what `make zoo` installs); growth is measured on chains of residual blocks of 50 to 2,000 operations.
"""

import argparse
import copy
import multiprocessing
import resource
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from record import record
from resnet50 import resnet50
from torch import Tensor, nn

from kezuri.model.channels import DEFAULT
from kezuri.model.exported import follow
from kezuri.model.exporting import example_batch, export
from kezuri.model.grouping import group
from kezuri.model.proof import prove
from kezuri.model.shrink import mask_channels_, shrink_, structure_of
from kezuri.prune.criteria.norm import L2
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Local
from kezuri.prune.select import select_masks

OPERATIONS = (50, 100, 200, 500, 1000, 2000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    findings: dict[str, Any] = {}
    for name, build in networks().items():
        if options.only in name:
            findings[name] = compared(name, build, options.times, options.limit)
    findings["growth"] = [grown(count) for count in OPERATIONS]
    for row in findings["growth"]:
        print(
            f"{row['operations']:>5} operations: export {row['export']:.2f} s, "
            f"analysis and cut {row['cut']:.3f} s, {1e3 * row['cut'] / row['operations']:.2f} ms an operation"
        )
    print(record("coupling", findings, times=options.times, limit=options.limit))


def networks() -> dict[str, Callable[[], nn.Module]]:
    """ResNet-50 of our own, and those of torchvision if it can be imported."""
    found: dict[str, Callable[[], nn.Module]] = {"resnet50": resnet50}
    try:
        library = torch.library.Library("torchvision", "DEF")  # its CPU wheel lacks the operators
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        from torchvision import models
    except ImportError:
        print("torchvision is not installed: ResNet-50 only")
        return found
    return found | {
        "densenet121": lambda: models.densenet121(weights=None),
        "swin_t": lambda: models.swin_t(weights=None),
    }


def compared(name: str, build: Callable[[], nn.Module], times: int, limit: float) -> dict[str, Any]:
    """Both tools on one network, in turns."""
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(1, 3, 224, 224)
    ours(model, x)  # imports and caches
    theirs = rival_seconds(build, limit)
    taken: dict[str, list[float]] = {}
    for _ in range(times):
        stages = ours(model, x)
        if theirs is not None:
            stages["rival"] = rival(copy.deepcopy(model), x)
        for stage, seconds in stages.items():
            taken.setdefault(stage, []).append(seconds)
    row: dict[str, Any] = {
        stage: {"seconds": median(all_), "lowest": min(all_), "highest": max(all_)}
        for stage, all_ in taken.items()
    }
    told = "  ".join(
        f"{stage} {median(all_):.2f} s ({min(all_):.2f}-{max(all_):.2f})" for stage, all_ in taken.items()
    )
    print(f"{name}: {told}")
    if "rival" in taken:
        for label, stages in (("without", ["cut"]), ("with", ["export", "cut"])):
            ratios = [
                sum(taken[stage][turn] for stage in stages) / taken["rival"][turn] for turn in range(times)
            ]
            row[f"ratio, {label} export"] = {
                "median": median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
            print(
                f"  {label} the export {median(ratios):.2f} of the rival's time "
                f"({min(ratios):.2f}-{max(ratios):.2f})"
            )
    else:
        print(f"  the rival: {row.setdefault('rival', f'not installed, or not done in {limit:.0f} s')}")
    row["memory beyond export, in model sizes"] = memory(name)
    print(f"  memory beyond the export: {row['memory beyond export, in model sizes']:.2f} times the weights")
    return row


def ours(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Processor seconds of each stage."""
    begin = time.process_time()
    inputs = example_batch(model, x)
    program = export(model, inputs)
    exported = time.process_time()
    couplings = group(model, follow([program], model, DEFAULT)).couplings
    chosen = select_masks(
        model, 0.5, criterion=L2(), granularity=Channel(), scope=Local(count="units"), couplings=couplings
    )
    assert chosen.kept_channels is not None
    kept = {c.name: chosen.kept_channels[c.name] for c in couplings.free if c.name in chosen.kept_channels}
    small = copy.deepcopy(model)
    try:
        shrink_(small, structure_of(couplings, kept))
    except Exception as error:
        raise SystemExit(f"cannot cut: {error}") from error
    cut = time.process_time()
    stages = {"export": exported - begin, "cut": cut - exported}
    masked = copy.deepcopy(model)
    mask_channels_(masked, couplings, kept)
    try:
        proof = prove(masked, small, x)
    except Exception:  # literal sizes: the module cannot run, the program is what is proved
        return stages
    assert proof.holds
    return stages | {"proof": time.process_time() - cut}


def rival(model: nn.Module, x: Tensor) -> float:
    """Processor seconds of Torch-Pruning for the same: graph, choice, cut."""
    import torch_pruning

    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    begin = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        model,
        x,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[last],
    )
    pruner.step()
    return time.process_time() - begin


def rival_seconds(build: Callable[[], nn.Module], limit: float) -> float | None:
    """How long the rival takes, in a process of its own; None if it is not there or does not end."""
    queue: Any = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=_rival_child, args=(build, queue))
    child.start()
    child.join(limit)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    return None if queue.empty() else queue.get()


def _rival_child(build: Callable[[], nn.Module], queue: Any) -> None:
    torch.set_num_threads(1)
    queue.put(rival(build().eval(), torch.randn(1, 3, 224, 224)))


def memory(name: str) -> float:
    """Peak memory of analysis and cut beyond the export's peak, in sizes of the model's weights.

    In a new process: one that is forked would begin with this one's peak.
    """
    queue: Any = multiprocessing.get_context("spawn").Queue()
    child = multiprocessing.get_context("spawn").Process(target=_memory_child, args=(name, queue))
    child.start()
    child.join()
    return float(queue.get())


def _memory_child(name: str, queue: Any) -> None:
    torch.set_num_threads(1)
    model, x = networks()[name]().eval(), torch.randn(1, 3, 224, 224)
    program = export(model, example_batch(model, x))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    couplings = group(model, follow([program], model, DEFAULT)).couplings
    kept = {c.name: torch.arange(c.width) >= c.width // 2 for c in couplings.free}
    small = copy.deepcopy(model)
    shrink_(small, structure_of(couplings, kept))
    masked = copy.deepcopy(model)
    mask_channels_(masked, couplings, kept)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    queue.put((after - before) * 1024 / weights)


class Chain(nn.Module):
    """Residual blocks of convolution, norm and ReLU: 7 operations a block."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 16, 1),
                nn.BatchNorm2d(16),
            )
            for _ in range(blocks)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = torch.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def grown(operations: int) -> dict[str, float]:
    """Seconds for a network of so many operations."""
    model, x = Chain(operations // 7).eval(), torch.randn(1, 3, 16, 16)
    stages = [ours(model, x) for _ in range(3)]
    return {
        "operations": operations,
        **{name: median(one[name] for one in stages) for name in ("export", "cut")},
    }


if __name__ == "__main__":
    main()
