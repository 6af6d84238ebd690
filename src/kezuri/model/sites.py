"""Where a model can be pruned."""

from torch import Tensor, fx, nn

from kezuri.model.channels import operation

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
OPERATIONS = ("linear", *(f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)))
"""The same as operations of a program."""


def prunable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that may be masked, by parameter name, in definition order.

    Weights of linear layers and of plain and transposed convolutions; a shared layer is listed once, and one
    whose weight is computed (parametrized) is not.
    """
    return {
        f"{name}.weight" if name else "weight": module.weight
        for name, module in model.named_modules()
        if isinstance(module, PRUNABLE) and module._parameters.get("weight") is not None
    }


def layer_tensors(model: nn.Module) -> dict[str, list[Tensor]]:
    """Under `weight` and `bias`, those of all linear layers and convolutions, each tensor once.

    Also of a program, which has no such modules: there they are what such operations read, rounded or not.
    """
    if isinstance(model, fx.GraphModule):
        found = _read_by_operations(model)
    else:
        layers = [module for module in model.modules() if isinstance(module, PRUNABLE)]
        found = {leaf: [module._parameters.get(leaf) for module in layers] for leaf in ("weight", "bias")}
    return {
        leaf: list({id(one): one for one in tensors if one is not None}.values())
        for leaf, tensors in found.items()
    }


def _read_by_operations(program: fx.GraphModule) -> dict[str, list[Tensor | None]]:
    tensors = tensors_of(program, aliases=True)
    found: dict[str, list[Tensor | None]] = {"weight": [], "bias": []}
    for node in program.graph.nodes:
        if node.op != "call_function" or operation(node) not in OPERATIONS:
            continue
        for at, leaf in enumerate(found, start=1):
            source = node.args[at] if len(node.args) > at else None
            while isinstance(source, fx.Node) and source.op == "call_module":  # a quantizer
                source = source.args[0]
            if isinstance(source, fx.Node) and source.op == "get_attr":
                name = str(source.target)
                found[leaf] += [tensors.get(name)] if name.rpartition(".")[2] == leaf else []
    return found


def tensors_of(model: nn.Module, *, aliases: bool = False) -> dict[str, Tensor]:
    """Parameters and buffers by name; one that is held twice only under its first name, unless `aliases`."""
    return {
        **dict(model.named_parameters(remove_duplicate=not aliases)),
        **dict(model.named_buffers(remove_duplicate=not aliases)),
    }
