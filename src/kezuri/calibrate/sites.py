"""Which weights calibration learns about, and so which ones a criterion can score."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor, nn

from kezuri.model.families import Couplings
from kezuri.model.sites import TRANSPOSED, prunable_weights

NO_OTHERS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Site:
    """One weight that can be learnt about.

    Attributes:
        weight: as the model holds it.
        dim: the dimension its outputs lie along.
    """

    weight: Tensor
    dim: int = 0

    def outputs_first(self, values: Tensor) -> Tensor:
        """Values of the weight's shape, with the outputs moved to dimension 0, as criteria see them."""
        return values.movedim(self.dim, 0)

    def folded(self, channels: Tensor) -> Tensor:
        """One value a channel as (groups, outputs): the channels that share each position of the weight.

        There is one group but in grouped transposed convolutions.
        """
        return channels.view(-1, self.outputs)

    @property
    def outputs(self) -> int:
        """How many positions the weight has along its outputs."""
        return self.weight.shape[self.dim]


def find_sites(model: nn.Module, others: Mapping[str, int] = NO_OTHERS) -> dict[str, Site]:
    """Every weight to learn about, by parameter name: linear layers, convolutions of all kinds, and others.

    A weight that two layers share is listed once, under its first name.

    Args:
        model: it is only looked at.
        others: further parameters (recurrent, loose) with the dimension of their outputs.
    """
    modules = dict(model.named_modules())
    sites: dict[str, Site] = {}
    for name, weight in prunable_weights(model).items():
        transposed = isinstance(modules[name.rpartition(".")[0]], TRANSPOSED)
        if not any(weight is known.weight for known in sites.values()):
            sites[name] = Site(weight, 1 if transposed else 0)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, dim in others.items():
        parameter = parameters.get(name)
        if parameter is not None and not any(parameter is known.weight for known in sites.values()):
            sites[name] = Site(parameter, dim)
    return sites


def scored_weights(model: nn.Module, couplings: Couplings | None = None) -> dict[str, Tensor]:
    """The prunable weights with outputs in dimension 0 and inputs in 1, by parameter name.

    Transposed convolutions, which have it the other way round, are left out. A weight that two layers share
    is listed once, under its first name.

    Args:
        model: it is only looked at.
        couplings: of the model; then every other parameter that produces or reads channels that may go
            (transposed convolutions, embeddings, recurrent and loose weights) follows, as the model holds it.
    """
    weights = {name: site.weight for name, site in find_sites(model).items() if site.dim == 0}
    parameters = dict(model.named_parameters())
    for coupling in () if couplings is None else couplings.free:
        for member in coupling.members:
            if member.role != "other" and member.parameter in parameters:
                weights.setdefault(member.parameter, parameters[member.parameter])
    return weights
