"""Attention gates for PCAS: small networks that learn how much each channel is listened to.

A gate stands where a consumer (convolution or linear layer) reads the channels of a coupling, that is, after
the producer's activation. It pools the map, passes it through two small linear layers and scales every
channel (Yamamoto & Maeno, 2018, arXiv 1806.05382; US 11,468,331 B2). The backbone is frozen.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kezuri.core.errors import MissingEvidence
from kezuri.model.coupling import Coupling, Member

GateForm = Literal["sigmoid", "softmax", "concrete"]

TEMPERATURE = 2 / 3  # of the concrete distribution, as its authors advise (Maddison et al., 2017)


class Gate(nn.Module):
    """Pooled channels (B, C) to one factor a channel, (B, C).

    `sigmoid` gives factors in (0, 1), one for every image. `softmax` gives C·softmax(β·z): the channels of a
    layer compete, and a small β begins at the identity. `concrete` decides for the whole batch: the logits
    are averaged over it and, while training, a relaxed coin is thrown for every channel, so that a gate
    learns what is lost when the channel is gone.

    Args:
        channels: C.
        form: one of the three.
        reduction: the hidden layer has C / reduction units, at least 4.
        generator: draws the initial weights and, in training, the coins.
    """

    def __init__(self, channels: int, *, form: GateForm, reduction: int, generator: torch.Generator) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.form = form
        self.beta = 1.0
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        with torch.no_grad():
            for layer in (self.squeeze, self.excite):
                bound = layer.in_features**-0.5
                layer.weight.uniform_(-bound, bound, generator=generator)
                layer.bias.zero_()
            if form == "concrete":  # begin nearly open, so that the first coins leave the model whole
                self.excite.weight.zero_()
                self.excite.bias.fill_(2.0)
        self.openness = torch.zeros(0)  # the last batch's factors without coins, (B, C) or (1, C)

    def forward(self, pooled: Tensor) -> Tensor:
        """Factors (B, C) for pooled maps (B, C)."""
        with torch.autocast(pooled.device.type, enabled=False):
            logits = self.excite(torch.relu(self.squeeze(pooled.float())))
            if self.form == "softmax":
                self.openness = logits.shape[1] * torch.softmax(self.beta * logits, dim=1)
                return self.openness
            if self.form == "concrete":
                logits = logits.mean(dim=0, keepdim=True)
            self.openness = torch.sigmoid(logits)
            if self.form == "sigmoid" or not self.training:
                return self.openness.expand(len(pooled), -1)
            uniform = torch.rand_like(logits).clamp_(1e-4, 1 - 1e-4)
            coin = torch.sigmoid((logits + torch.logit(uniform)) / TEMPERATURE)
            return coin.expand(len(pooled), -1)


class Gated(nn.Module):
    """A frozen model with a gate wherever a coupling's channels are read.

    Training it trains the gates. The model stays in evaluation mode, except that with `concrete` gates
    BatchNorm uses the statistics of the batch, as it will when the model is retrained without the channels;
    its running statistics do not move.

    Args:
        model: the backbone; hooks are attached to it while `attached` lasts.
        couplings: the couplings to gate.

    Raises:
        MissingEvidence: no layer reads a coupling's channels, so no gate can stand there.
    """

    def __init__(
        self,
        model: nn.Module,
        couplings: Sequence[Coupling],
        *,
        form: GateForm,
        reduction: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.model = model
        self.form = form
        self.places: list[str] = []  # the coupling that each gate belongs to
        self.gates = nn.ModuleList()
        self._sites: list[tuple[nn.Module, _Scale]] = []
        for coupling in couplings:
            if not coupling.consumers:
                raise MissingEvidence(
                    f"no convolution or linear layer reads the channels of {coupling.name!r}, so PCAS has no "
                    f"place for a gate; list it under `ignore` or use another criterion"
                )
            for name, member in coupling.consumers:
                consumer = model.get_submodule(name)
                gate = Gate(coupling.width, form=form, reduction=reduction, generator=generator)
                self.places.append(coupling.name)
                self.gates.append(gate)
                self._sites.append((consumer, _Scale(gate, _read_positions(consumer, member))))

    def train(self, mode: bool = True) -> Self:
        """Gates train, the model does not."""
        super().train(mode)
        self.model.eval()
        if mode and self.form == "concrete":
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.train()
        return self

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While this lasts, the gates scale the model's maps; then the model is as it was."""
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        modes = [(module, module.training) for module in self.model.modules()]
        before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
        handles = [consumer.register_forward_pre_hook(scale) for consumer, scale in self._sites]
        for norm in norms:
            norm.momentum = 0.0
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked = norm.num_batches_tracked.clone()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for norm, (momentum, count) in zip(norms, before, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, count
            for module, training in modes:
                module.training = training

    def forward(self, images: Tensor) -> Any:
        """The gated model's answer."""
        return self.model(images)

    def anneal(self, beta: float) -> None:
        """Sets β of softmax gates: 0 is the identity."""
        for gate in self.gates:
            assert isinstance(gate, Gate)
            gate.beta = beta

    def openness(self) -> list[Tensor]:
        """What the gates said of the last batch, without coins, in the order of `places`."""
        return [gate.openness for gate in self.gates if isinstance(gate, Gate)]


class _Scale:
    """A forward pre-hook that multiplies what a consumer reads by the gate's factors."""

    def __init__(self, gate: Gate, positions: Tensor) -> None:
        self.gate = gate
        self.positions = positions  # (units, k): the channels of the consumer's input that each unit owns
        self._unit_of = torch.zeros(0)

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        maps = inputs[0]
        axis = maps.dim() - 1 if isinstance(module, nn.Linear) else 1
        others = [d for d in range(1, maps.dim()) if d != axis]
        channels = maps.float().mean(dim=others) if others else maps.float()
        positions = self.positions.to(maps.device)
        factors = self.gate(channels[:, positions].mean(dim=2))
        if self._unit_of.device != maps.device or self._unit_of.numel() == 0:
            units = torch.full((channels.shape[1],), len(positions), device=maps.device)
            units[positions] = torch.arange(len(positions), device=maps.device)[:, None].expand_as(positions)
            self._unit_of = units
        untouched = factors.new_ones(len(factors), 1)  # channels of other couplings pass as they are
        scale = torch.cat([factors, untouched], dim=1)[:, self._unit_of]
        shape = [len(scale)] + [scale.shape[1] if d == axis else 1 for d in range(1, maps.dim())]
        return (maps * scale.view(shape).to(maps.dtype), *inputs[1:])


def _read_positions(consumer: nn.Module, member: Member) -> Tensor:
    """Channels of the consumer's input that each unit owns, (units, k); a grouped weight sees one group."""
    positions = torch.from_numpy(member.positions)
    groups = getattr(consumer, "groups", 1)
    if groups == 1:
        return positions
    weight = consumer.weight
    assert isinstance(weight, Tensor)
    return torch.cat([positions + group * weight.shape[1] for group in range(groups)], dim=1)
