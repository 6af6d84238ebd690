"""What pruning channels gives back: the model, its proof, and what became of every layer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from kezuri.model.coupling import Couplings, Row
from kezuri.model.portable import save_model
from kezuri.model.proof import Proof
from kezuri.model.shrink import Structure
from kezuri.recipe.costs import Cost, Proposal
from kezuri.recipe.payoff import Payoff


@dataclass(frozen=True)
class Report:
    """What became of every layer, in execution order; printing it gives a table.

    Attributes:
        rows: a row a layer, and one for every coupling chosen from that no layer produces.
        before, after: parameters and multiply-accumulates.
        proof: of the cut model against the masked one.
        result: whether the model is the user's own module or a rewritten program, and why.
        rejected: by coupling name, why it was left whole although it was chosen.
        shortfall: fraction of the weights that should have gone too but is held by floors.
        payoff: what the cut brings in the runtime, where that was checked.
    """

    rows: tuple[Row, ...]
    before: Cost
    after: Cost
    proof: Proof
    result: str
    rejected: Mapping[str, str] = field(default_factory=dict)
    shortfall: float = 0.0
    payoff: Payoff | None = None

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        cells = [(row.layer, f"{row.width}", f"{row.kept}", row.state, row.reason or "") for row in self.rows]
        head = ("layer", "channels", "kept", "state", "why")
        wide = [max(len(line[column]) for line in (head, *cells)) for column in range(4)]
        lines = [
            f"{name:<{wide[0]}}  {width:>{wide[1]}}  {kept:>{wide[2]}}  {state:<{wide[3]}}  {why}".rstrip()
            for name, width, kept, state, why in (head, *cells)
        ]
        return "\n".join([*lines, *self._totals()])

    def _totals(self) -> list[str]:
        states = [row.state for row in self.rows]
        counts = ", ".join(f"{states.count(state)} {state}" for state in ("cut", "kept", "blocked"))
        proof = self.proof
        lines = [
            f"{len(self.rows)} layers: {counts}",
            f"parameters {_change(self.before.params, self.after.params)}, "
            f"multiply-accumulates {_change(self.before.macs, self.after.macs)}",
            f"proof: the largest relative error against the masked model is {proof.error:.1e} "
            f"({proof.inputs} random inputs, {proof.precision}; allowed is {proof.tolerance:g})",
            f"result: {self.result}",
        ]
        if self.shortfall:
            lines.append(f"floors hold {self.shortfall:.1%} of the weights that should have gone too")
        lines += [f"{name} was left whole: {why}" for name, why in self.rejected.items()]
        return lines if self.payoff is None else [*lines, f"pay-off: {self.payoff}"]


@dataclass(frozen=True, eq=False)
class Pruned:
    """A model without the channels it can do without.

    Attributes:
        model: the cut model; it runs, trains and saves. The given one where it was cut in place.
        masked: the given model with those channels set to zero, of the same class.
        report: every layer with the reason; `print(pruned.report)`.
        proof: the largest relative error of the cut model against the masked one.
        structure: what was kept of every parameter, counted in the given model.
        couplings: of the given model, with why some were not cut.
        kept: by coupling name, (width,) bool, True = kept.
        before, after: parameters and multiply-accumulates for one example.
        rewritten: why the model is a rewritten program; None if it is of the given model's class.
        payoff: what the cut brings in the runtime, where that was checked.
        inputs: the example the model was followed with.
    """

    model: nn.Module
    masked: nn.Module
    report: Report
    proof: float
    structure: Structure
    couplings: Couplings
    kept: Proposal
    before: Cost
    after: Cost
    rewritten: str | None
    payoff: Payoff | None
    inputs: tuple[Tensor, ...]

    def save(self, folder: Path | str, *, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Writes weights and structure into a folder, for `kezuri.read_model(folder, build=…)`.

        Args:
            folder: made if it is not there.
            optimizer: whose state is kept too.

        Raises:
            UsageError: an input is of a type that models are not given.
            ResourceError: no room, or the folder cannot be written.
        """
        save_model(
            Path(folder),
            self.model,
            structure=self.structure,
            inputs=self.inputs,
            choices=self.couplings.choices,
            optimizer=optimizer,
        )


def rows_of(couplings: Couplings, kept: Proposal) -> tuple[Row, ...]:
    """The layers as `Couplings.explain` has them, then the couplings chosen from that no layer produces."""
    rows = couplings.explain(kept)
    for coupling in couplings:
        if not coupling.producers and coupling.name in kept:
            left = int(kept[coupling.name].sum())
            spared: Literal["kept", "blocked"] = "kept" if coupling.reason is None else "blocked"
            state = "cut" if left < coupling.width else spared
            rows.append(Row(coupling.name, coupling.width, left, state, coupling.reason))
    return tuple(rows)


def _change(before: int, after: int) -> str:
    return f"{before:,} → {after:,} ({after / before:.1%})" if before else "0"
