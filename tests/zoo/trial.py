"""Tries a model: is it coupled, cut, exact, trainable, saved, exported? Each answer with its reason and seconds.

What is exact is decided here, from the positions that were kept and by running both models, and not by
Kezuri's own proof.
"""

import copy
import logging
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import kezuri
from kezuri.model.coupling import Couplings
from kezuri.model.proof import Cut
from kezuri.prune.criteria.norm import L2
from kezuri.prune.granularity import Channel
from kezuri.prune.scope import Local
from kezuri.recipe.pruned import Pruned

from .graph import Batch, Graph
from .rough import roughened

Inputs = tuple[Tensor, ...]
CHECKS = ("couples", "cut", "batch", "exact", "trains", "saves", "default", "onnx")
EXACT, ONNX = 1e-5, 1e-4


class Unable(Exception):
    """The model as it came cannot do this either."""


@dataclass(frozen=True)
class Check:
    """One answer.

    Attributes:
        state: "unable" if the model as it came cannot do it either.
    """

    state: Literal["ok", "failed", "unable"]
    reason: str = ""
    seconds: float = 0.0


@dataclass
class Outcome:
    """What became of one model.

    Attributes:
        checks: by the names in `CHECKS`; those after a failure that ends the trial are absent.
        left: parameters of the cut model, as a fraction.
        layers: how many ended cut, kept and blocked.
        blocked: why layers are blocked or partly so, with how many.
        rejected: couplings that Kezuri took back because its proof failed.
        rewritten: why the result is a program and not the model's own class.
        error: relative difference from the masked model, found here, and in which precision.
        moved: relative difference between the masked model and the model as it came; what masking did.
        missed: what a right tool does with this graph and this one did not.
    """

    name: str
    checks: dict[str, Check] = field(default_factory=dict)
    left: float | None = None
    layers: dict[str, int] = field(default_factory=dict)
    blocked: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    rewritten: str | None = None
    error: float | None = None
    precision: str = "float32"
    moved: float | None = None
    missed: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Every check was reached, and none failed."""
        return set(CHECKS) <= set(self.checks) and not self.failures

    @property
    def failures(self) -> dict[str, str]:
        """What failed, with why; what a right tool would have cut is among it."""
        found = {name: check.reason for name, check in self.checks.items() if check.state == "failed"}
        return found | ({"expected": "; ".join(self.missed)} if self.missed else {})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Outcome":
        checks = {name: Check(**check) for name, check in content.pop("checks").items()}
        return cls(**content, checks=checks)

    def line(self) -> str:
        """The outcome in one line of text."""
        marks = {"ok": "+", "failed": "FAIL", "unable": "n/a"}
        cells = [
            f"{name} {marks[self.checks[name].state]}" if name in self.checks else f"{name} ."
            for name in CHECKS
        ]
        left = "" if self.left is None else f"  {self.left:.0%} left"
        why = "; ".join(f"{name}: {reason}" for name, reason in self.failures.items())
        return f"{self.name}: {'  '.join(cells)}{left}{'  ' + why if why else ''}"[:400]


def try_model(
    name: str,
    model: nn.Module,
    inputs: Inputs,
    sparsity: float = 0.5,
    *,
    batch: Batch | None = None,
    without: Collection[str] = (),
) -> Outcome:
    """Cuts `sparsity` of every coupling of the model and checks the result; the model is left alone.

    Args:
        batch: inputs for other batch sizes; by default the first input's first dimension is the batch.
        without: checks to leave out.
    """
    graph = Graph(name, lambda: model, batch or (lambda size: tuple(_sized(x, size) for x in inputs)))
    return try_graph(graph, sparsity, without=without)


def try_graph(
    graph: Graph,
    sparsity: float = 0.5,
    *,
    without: Collection[str] = (),
    progress: Callable[[Outcome], None] = lambda _: None,
) -> Outcome:
    """As `try_model`, with what is expected of the graph checked too; `progress` is told after each check."""
    outcome = Outcome(graph.name)
    trial = _Trial(graph, sparsity, outcome)
    for name in CHECKS:
        if name in without:
            continue
        outcome.checks[name] = check = _checked(getattr(trial, name))
        progress(outcome)
        if check.state == "failed" and name in ("couples", "cut"):
            break
    return outcome


def _checked(ask: Callable[[], None]) -> Check:
    start = time.perf_counter()
    state: Literal["ok", "failed", "unable"] = "ok"
    reason = ""
    try:
        with _silence():
            ask()
    except Unable as error:
        state, reason = "failed" if _of_memory(str(error)) else "unable", str(error)
    except Exception as error:
        state, reason = "failed", _said(error)
    return Check(state, reason, round(time.perf_counter() - start, 3))


class _Trial:
    def __init__(self, graph: Graph, sparsity: float, outcome: Outcome) -> None:
        self.graph, self.sparsity, self.outcome = graph, sparsity, outcome
        self.inputs = graph.batch(2)
        self.dense: nn.Module
        self.couplings: Couplings
        self.result: Cut
        self.masked: nn.Module

    def couples(self) -> None:
        self.dense = roughened(self.graph.build(), self.inputs)
        self.couplings = kezuri.couple(self.dense, self.inputs, result="auto")

    def cut(self) -> None:
        before = _fingerprint(self.dense)
        kept = kezuri.select_masks(
            self.dense,
            self.sparsity,
            criterion=L2(),
            granularity=Channel(floor_fraction=0),
            scope=Local(count="units"),
            couplings=self.couplings,
        ).kept_channels
        assert kept is not None
        self.result = kezuri.cut(self.dense, self.couplings, kept, self.inputs)
        assert _fingerprint(self.dense) == before, "the model passed in was changed"
        self.masked = masked(self.dense, self.result)
        self._describe({name: mask for name, mask in kept.items() if name not in self.result.rejected})

    def batch(self) -> None:
        """At another batch size."""
        inputs = self.graph.batch(3)
        try:
            expected = answers(self.dense, inputs)
        except Exception as error:
            raise Unable(f"the model takes no batch of 3: {_said(error)}") from error
        shapes = [tuple(x.shape) for x in answers(self.result.model, inputs)]
        wanted = [tuple(x.shape) for x in expected]
        assert shapes == wanted, f"outputs are {shapes}, not {wanted}"

    def exact(self) -> None:
        inputs = _other_noise(self.inputs)
        self.outcome.moved = furthest(answers(self.dense, inputs), answers(self.masked, inputs))
        self.outcome.error, self.outcome.precision = self._distance(self.masked, self.result.model)
        del self.masked
        assert self.outcome.error <= EXACT, f"outputs differ by {self.outcome.error:.1e}"

    def trains(self) -> None:
        try:
            names = set(_step(copy.deepcopy(self.dense), self.inputs))
        except Exception as error:
            raise Unable(f"the model does not train: {_said(error)}") from error
        taught = _step(copy.deepcopy(self.result.model), self.inputs)
        have = dict(self.result.model.named_parameters(remove_duplicate=False))
        lost = sorted(name for name in names & set(have) if name not in taught)
        assert not lost, f"no gradient for {', '.join(lost[:3])}"
        missing = sorted(names - set(have))
        assert not missing, f"parameters are missing: {', '.join(missing[:3])}"

    def saves(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            kezuri.save_model(
                Path(folder),
                self.result.model,
                structure=self.result.structure,
                inputs=self.inputs,
                choices=self.couplings.choices,
            )
            read = kezuri.read_model(Path(folder), build=self.graph.build).model
        apart = furthest(answers(self.result.model, self.inputs), answers(read, self.inputs))
        assert apart == 0, f"the model read back differs by {apart:.1e}"

    def default(self) -> None:
        """As most will call it: nothing is said but the sparsity."""
        pruned = kezuri.prune_channels(self.dense, self.inputs, sparsity=self.sparsity)
        own, left = pruned.masked, _parameters(pruned.model) / _parameters(self.dense)
        for name, twin in (("its own masked model", own), ("the masked model", masked(self.dense, pruned))):
            error, _ = self._distance(twin, pruned.model)
            assert error <= EXACT, f"outputs differ from {name} by {error:.1e}"
        assert left < 1, f"nothing is cut (shortfall {pruned.report.shortfall:.0%})"

    def onnx(self) -> None:
        try:
            found = _in_onnxruntime(self.result.model, self.inputs)
        except Exception as error:
            try:
                _in_onnxruntime(self.dense, self.inputs)
            except Exception as own:
                raise Unable(f"the model does not export: {_said(own)}") from error
            raise
        apart = furthest(answers(self.result.model, self.inputs), found)
        assert apart <= ONNX, f"ONNX Runtime differs by {apart:.1e}"

    def _describe(self, kept: dict[str, Tensor]) -> None:
        outcome, model = self.outcome, self.result.model
        rows = self.couplings.explain(kept)
        states = {row.layer: row.state for row in rows}
        outcome.layers = dict(Counter(states.values()))
        outcome.blocked = dict(Counter(_numberless(row.reason) for row in rows if row.reason is not None))
        outcome.rejected = {name: why[:300] for name, why in self.result.rejected.items()}
        outcome.rewritten = getattr(self.result, "rewritten", None)
        outcome.left = _parameters(model) / _parameters(self.dense)
        for name in sorted(self.graph.cut):
            if states.get(name) != "cut" and not self._loses_outputs(name):
                why = next((row.reason for row in rows if row.layer == name), None)
                outcome.missed.append(f"{name} is not cut ({why or 'no reason given'})")
        outcome.missed += [f"{name} is cut" for name in sorted(self.graph.whole) if states.get(name) == "cut"]
        assert outcome.left < 1, f"nothing is cut: {', '.join(outcome.blocked) or 'no reason given'}"

    def _loses_outputs(self, name: str) -> bool:
        """A parameter got smaller, or the weight of a layer that is used in ways of its own did."""
        kept = self.result.structure.kept
        return name in kept or 0 in kept.get(f"{name}.weight", {})

    def _distance(self, masked: nn.Module, small: nn.Module) -> tuple[float, str]:
        """On other inputs than Kezuri's proof; in float64 if float32 alone misses, and which it was."""
        inputs = _other_noise(self.inputs)
        error = furthest(answers(masked, inputs), answers(small, inputs))
        if error <= EXACT:
            return error, "float32"
        inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        masked, small = (copy.deepcopy(model).double() for model in (masked, small))
        return furthest(answers(masked, inputs), answers(small, inputs)), "float64"


@torch.no_grad()
def masked(model: nn.Module, result: Cut | Pruned) -> nn.Module:
    """A copy whose weights are zero wherever the cut removed them, which is what the cut must equal.

    So are running means, as a channel of zeros has none; other buffers stay as they are.
    """
    twin = copy.deepcopy(model)
    tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
    learnt = dict(twin.named_parameters())
    for name, dims in result.structure.kept.items():
        if name not in learnt and name.rpartition(".")[2] != "running_mean":
            continue
        for dim, positions in dims.items():
            gone = torch.ones(tensors[name].shape[dim], dtype=torch.bool)
            gone[list(positions)] = False
            tensors[name].index_fill_(dim, gone.nonzero().flatten(), 0)
    return twin


@torch.no_grad()
def answers(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors that the model gives in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        return [x for x in pytree.tree_leaves(model(*inputs)) if isinstance(x, Tensor)]
    finally:
        for module, mode in modes:
            module.training = mode


def furthest(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Largest difference, relative to the largest number of its output; infinite where shapes differ."""
    if [x.shape for x in expected] != [x.shape for x in found]:
        return float("inf")
    worst = 0.0
    for one, two in zip(expected, found, strict=True):
        if not one.numel():
            continue
        one, two = one.double(), two.double()
        if not bool(one.isfinite().all()):
            raise AssertionError("the masked model's answers are not finite")
        apart, largest = float((one - two).abs().max()), float(one.abs().max())
        worst = max(worst, apart / largest if largest else float("inf") if apart else 0.0)
        if not bool(two.isfinite().all()):
            return float("inf")
    return worst


def _step(model: nn.Module, inputs: Inputs) -> list[str]:
    """One step of gradient descent; gives the names of the parameters that had a gradient."""
    torch.manual_seed(0)
    model.train()
    outputs = [x for x in pytree.tree_leaves(model(*inputs)) if isinstance(x, Tensor) and x.requires_grad]
    sum(x.abs().square().mean() for x in outputs).backward()  # type: ignore[union-attr]
    parameters = dict(model.named_parameters(remove_duplicate=False))
    taught = {name: p for name, p in parameters.items() if p.grad is not None}
    assert taught, "no parameter has a gradient"
    rotten = [name for name, p in taught.items() if not bool(p.grad.isfinite().all())]
    assert not rotten, f"gradients are not finite: {', '.join(rotten[:3])}"
    steepest = max(taught.values(), key=lambda p: float(p.grad.abs().max()))
    before = steepest.detach().clone()
    norm = float(torch.nn.utils.clip_grad_norm_(taught.values(), 1.0))
    torch.optim.SGD(taught.values(), lr=0.01).step()
    assert norm == 0 or not torch.equal(before, steepest), "no weight changed"
    assert all(bool(x.isfinite().all()) for x in answers(model, inputs)), "not finite after a step"
    return list(taught)


def _in_onnxruntime(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    twin = copy.deepcopy(model).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        program = torch.onnx.export(twin, inputs, dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=_parameters(model) > 4e8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]
        known = dict(zip((entry.name for entry in program.model.graph.inputs), inputs, strict=True))
        found = session.run(None, {name: known[name].numpy() for name in names})
    return [torch.from_numpy(x) for x in found]


def _other_noise(inputs: Inputs) -> Inputs:
    generator = torch.Generator().manual_seed(1234)
    return tuple(
        torch.randn(x.shape, generator=generator).mul(1.5).add(0.3).to(x.dtype)
        if x.is_floating_point()
        else x
        for x in inputs
    )


def _sized(x: Tensor, size: int) -> Tensor:
    return torch.cat([x] * size)[:size]


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _fingerprint(model: nn.Module) -> list[tuple[str, tuple[int, ...], float, bool]]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [(n, tuple(t.shape), float(t.detach().double().abs().sum()), model.training) for n, t in tensors]


def _numberless(reason: str) -> str:
    """Without "3 of 16: ", so that equal reasons are counted together."""
    return "; ".join(part.rpartition(" of ")[2].partition(": ")[2] or part for part in reason.split("; "))


def _of_memory(text: str) -> bool:
    return "MemoryError" in text or "can't allocate memory" in text


def _said(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:3]) if lines else ""
    kind = "" if isinstance(error, AssertionError) and text else f"{type(error).__name__}: "
    return f"{kind}{text}"[:300]


@contextmanager
def _silence() -> Iterator[None]:
    # exporters print, log and warn about their own insides
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
