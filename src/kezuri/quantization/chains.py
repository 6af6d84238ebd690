"""Layers that follow each other with nothing but a ReLU between, found in a network and evened out."""

from itertools import pairwise

import torch
from torch import Tensor, fx, nn

from kezuri.quantization.equalization import Link, equalize_
from kezuri.quantization.fake import outputs_first
from kezuri.quantization.graph import kind, shape
from kezuri.quantization.macs import CONVOLUTIONS
from kezuri.quantization.network import Quantizable, Site


@torch.no_grad()
def equalize_network_(prepared: Quantizable) -> list[tuple[str, ...]]:
    """Evens out the ranges of channels along every chain of layers; the network answers as before.

    Returns:
        the layers of each chain, by name.
    """
    network = prepared.network
    found = []
    for chain in chains_of(prepared):
        links = [_link(network, site) for site in chain]
        factors = equalize_(links)
        for (first, second), factor in zip(pairwise(chain), factors, strict=True):
            _scale_outputs_(network, first, factor)
            _scale_inputs_(network, second, factor)
        found.append(tuple(site.layer for site in chain))
    return found


def chains_of(prepared: Quantizable) -> list[list[Site]]:
    """The longest chains of two layers or more, in order."""
    nodes = {node.name: node for node in prepared.network.graph.nodes}
    sites = {site.node: site for site in prepared.sites}
    learnt = dict(prepared.network.named_parameters(remove_duplicate=False))
    users: dict[str, int] = {}
    for site in prepared.sites:
        users[site.weight] = users.get(site.weight, 0) + 1
    after: dict[str, Site] = {}
    for site in prepared.sites:
        follower = _follower(nodes[site.node], nodes[site.norm or site.node])
        second = None if follower is None else sites.get(follower.name)
        if second is None or not users[site.weight] == users[second.weight] == 1:
            continue
        if not {site.weight, second.weight} <= learnt.keys():
            continue
        if _affine(prepared.network, site.norm or site.node)[0] is not None:
            after[site.node] = second
    seconds = {site.node for site in after.values()}
    found = []
    for site in prepared.sites:
        if site.node in after and site.node not in seconds:
            chain = [site]
            while chain[-1].node in after:
                chain.append(after[chain[-1].node])
            found.append(chain)
    return found


def _follower(layer: fx.Node, node: fx.Node) -> fx.Node | None:
    """The one layer that reads the channels of another through a ReLU, a quantizer and flattening at most.

    Args:
        layer: the first.
        node: where its result is complete, with its normalisation.
    """
    channels = len(shape(layer)) - 1 if kind(layer) == "linear" else 1
    while len(node.users) == 1:
        user, dims = next(iter(node.users)), len(shape(node))
        if kind(user) in (*CONVOLUTIONS, "linear"):
            read = dims - 1 if kind(user) == "linear" else 1
            return user if user.args[0] is node and channels == read else None
        if kind(user) not in ("relu", "flatten") and user.op != "call_module":
            return None
        if kind(user) == "flatten" and not _keeps_channels_first(user, channels, dims):
            return None
        if len(user.all_input_nodes) != 1:
            return None
        node = user
    return None


def _keeps_channels_first(flatten: fx.Node, channels: int, dims: int) -> bool:
    """Whether channels, and then the positions within them, become one dimension, the last."""
    start = flatten.args[1] if len(flatten.args) > 1 else 0
    end = flatten.args[2] if len(flatten.args) > 2 else -1
    assert isinstance(start, int) and isinstance(end, int)
    return start % dims == channels and end % dims == dims - 1


def _link(network: fx.GraphModule, site: Site) -> Link:
    """A copy of a layer as it is with its normalisation folded."""
    weight = network.get_parameter(site.weight).detach().clone()
    node = next(node for node in network.graph.nodes if node.name == site.node)
    groups = node.args[6] if len(node.args) > 6 and kind(node) in CONVOLUTIONS else 1
    if site.norm is not None:
        weight *= outputs_first(gain_of(network, site.norm), weight)
    return Link(weight, groups=groups if isinstance(groups, int) else 1)


def _scale_outputs_(network: fx.GraphModule, site: Site, factor: Tensor) -> None:
    """What the layer answers, with its normalisation, is multiplied."""
    weight, bias = _affine(network, site.norm or site.node)
    assert weight is not None  # `chains_of` leaves out normalisation without learnt numbers
    weight.mul_(outputs_first(factor, weight))
    if bias is not None:
        bias.mul_(factor)


def _scale_inputs_(network: fx.GraphModule, site: Site, factor: Tensor) -> None:
    """What the layer reads is divided."""
    weight = network.get_parameter(site.weight)
    link = _link(network, site)
    view = Link(weight.detach(), groups=link.groups)
    each = factor.repeat_interleave(view.repeats(len(factor)))
    view.grouped.div_(each.view(view.groups, 1, -1, *[1] * (weight.dim() - 2)))


def _affine(network: nn.Module, name: str) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a layer or normalisation, by the operation's name."""
    assert isinstance(network, fx.GraphModule)
    node = next(node for node in network.graph.nodes if node.name == name)
    source = node.args[1]
    if isinstance(source, fx.Node) and source.op == "call_module":
        source = source.args[0]
    return tensor_at(network, source), tensor_at(network, node.args[2] if len(node.args) > 2 else None)


def tensor_at(network: nn.Module, node: object) -> Tensor | None:
    """The parameter or buffer that a node of the graph stands for; None where it is none."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    owner, _, leaf = str(node.target).rpartition(".")
    found: Tensor = getattr(network.get_submodule(owner), leaf)
    return found


def gain_of(network: fx.GraphModule, norm: str) -> Tensor:
    """What a batch normalisation multiplies each channel with in evaluation mode, (channels,)."""
    node = next(node for node in network.graph.nodes if node.name == norm)
    weight, variance = tensor_at(network, node.args[1]), tensor_at(network, node.args[4])
    assert variance is not None and isinstance(node.args[7], float)
    gain = torch.rsqrt(variance + node.args[7])
    return gain if weight is None else gain * weight
