"""Small networks with everything that decides where integers go, and images that they can tell apart."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kezuri.data import TensorPart
from kezuri.quantization.graph import kind
from kezuri.quantization.network import Quantizable, with_quantizers
from kezuri.quantization.scheme import Scheme

SIDE = 12


class Net(nn.Module):
    """Layers and loose parameters by name; `forward` is a function of them."""

    def __init__(self, run: Callable[..., object], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> object:
        return self.run(self, *inputs)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    """In evaluation mode, the same weights each time, batch normalisation as after some training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                module.running_mean.normal_(std=0.3)
                module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def conv(inputs: int, outputs: int, kernel: int = 3, **options: object) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def block(inputs: int, outputs: int, kernel: int = 3, act: nn.Module | None = None, **options: object):
    """Convolution, batch normalisation, an activation (ReLU in place)."""
    norm = nn.BatchNorm2d(outputs)
    return nn.Sequential(
        conv(inputs, outputs, kernel, bias=False, **options), norm, act or nn.ReLU(inplace=True)
    )


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def residual(classes: int = 4) -> nn.Module:
    """A block of ResNet and a head."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = F.relu(net.norm(net.second(net.first(x))) + x)
        return net.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    return seeded(
        lambda: Net(
            run,
            stem=block(3, 8),
            first=block(8, 8),
            second=conv(8, 8, bias=False),
            norm=nn.BatchNorm2d(8),
            head=nn.Linear(8, classes),
        )
    )


def gated() -> nn.Module:
    """A block of MobileNetV3: depthwise, hard-swish, squeeze and excite."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.deep(net.wide(x))
        gate = net.up(F.relu(net.down(F.adaptive_avg_pool2d(x, 1))))
        x = net.project(x * F.hardsigmoid(gate))
        return net.head(x.mean((2, 3)))

    return seeded(
        lambda: Net(
            run,
            wide=block(3, 16, 1, nn.Hardswish()),
            deep=block(16, 16, groups=16, act=nn.Hardswish()),
            down=nn.Conv2d(16, 4, 1),
            up=nn.Conv2d(4, 16, 1),
            project=nn.Sequential(conv(16, 8, 1, bias=False), nn.BatchNorm2d(8)),
            head=nn.Linear(8, 4),
        )
    )


def branches() -> nn.Module:
    """A block of Inception: pools, branches, concatenation, biases and no normalisation."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(net.stem(x)), 2)
        x = torch.cat([F.relu(net.one(x)), F.relu(net.three(x)), F.avg_pool2d(x, 3, 1, 1)], 1)
        return net.head(F.dropout(x.mean((2, 3)), 0.2, net.training))

    return seeded(
        lambda: Net(run, stem=conv(3, 8), one=conv(8, 4, 1), three=conv(8, 4), head=nn.Linear(16, 4))
    )


def attention() -> nn.Module:
    """A block of a vision transformer."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.patches(x).flatten(2).transpose(1, 2)
        q, k, v = net.qkv(net.norm(x)).view(-1, 9, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + net.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 9, 16))
        x = x + net.down(F.gelu(net.up(net.norm2(x))))
        return net.head(x.mean(1))

    return seeded(
        lambda: Net(
            run,
            patches=nn.Conv2d(3, 16, 4, stride=4),
            norm=nn.LayerNorm(16),
            qkv=nn.Linear(16, 48),
            proj=nn.Linear(16, 16),
            norm2=nn.LayerNorm(16),
            up=nn.Linear(16, 32),
            down=nn.Linear(32, 16),
            head=nn.Linear(16, 4),
        )
    )


def patterns(count: int, seed: int = 0) -> TensorPart:
    """Four patterns under noise."""
    generator = torch.Generator().manual_seed(seed)
    shapes = noise(4, 3, SIDE, SIDE, seed=99)
    labels = torch.randint(0, 4, (count,), generator=generator)
    return TensorPart(
        shapes[labels] + 0.5 * torch.randn(count, 3, SIDE, SIDE, generator=generator), labels, classes=4
    )


def taught(model: nn.Module, steps: int = 40) -> nn.Module:
    """The model once it tells the patterns apart, in evaluation mode."""
    part = patterns(256)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(steps):
            at = slice(step * 32 % 256, step * 32 % 256 + 32)
            optimizer.zero_grad()
            F.cross_entropy(model(part.images[at]), part.labels[at]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module) -> float:
    part = patterns(128, seed=1)
    with torch.no_grad():
        return float((model(part.images).argmax(1) == part.labels).float().mean())


def prepared(model: nn.Module, inputs: Tensor | None = None, **scheme: object) -> Quantizable:
    """With quantizers, all off."""
    example = noise(2, 3, SIDE, SIDE) if inputs is None else inputs
    return with_quantizers(model, (example,), Scheme(**scheme))


def rounded(found: Quantizable) -> list[str]:
    """The operations whose results are rounded, in order; "input" for what comes in, weights left out."""
    network = found.network
    weights = {site.quantizer for site in found.sites}
    return [
        kind(node.args[0]) or "input"
        for node in network.graph.nodes
        if node.op == "call_module"
        and str(node.target).startswith("quantizers.")
        and node.target not in weights
    ]
