"""What real code does beside layers: contexts, state, types, losses, unusual operations."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..graph import Net, Pair, Shelf, block, conv, images, pooled, several

shelf = Shelf()


@shelf.add(cut="a.0 b.0 hidden", whole="head")
def backbone_without_gradients() -> nn.Module:
    """`with torch.no_grad()` around the frozen half."""

    def run(net: Net, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = pooled(net.b(net.a(x)))
        return net.head(F.relu(net.hidden(x)))

    return Net(run, a=block(3, 12), b=block(12, 16), hidden=nn.Linear(16, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def single_precision_inside_autocast() -> nn.Module:
    """A part that switches automatic mixed precision off for itself."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        with torch.autocast("cpu", enabled=False):
            x = net.b(x.float())
        return net.head(pooled(x))

    return Net(run, a=block(3, 12), b=block(12, 16), head=nn.Linear(16, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def activation_checkpointing() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = checkpoint(net.b, net.a(x), use_reentrant=False)
        return net.head(pooled(x))

    return Net(run, a=block(3, 12), b=block(12, 16), head=nn.Linear(16, 5))


class Counting(nn.Module):
    """Buffers that `forward` changes: a counter and a running mean of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 12), block(12, 8), nn.Linear(8, 5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = pooled(self.b(self.a(x)))
        self.calls.add_(1)
        self.seen.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return self.head(x)


@shelf.add(cut="a.0", whole="head")
def state_kept_in_buffers() -> nn.Module:
    return Counting()


@shelf.add(cut="a.0 b.0", whole="head", batch=several((3, 12, 12), (5,)))
def loss_inside_forward() -> nn.Module:
    """The model takes the wanted answer too, and gives a loss."""

    def run(net: Pair, x: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = net.head(pooled(net.b(net.a(x))))
        return F.cross_entropy(logits, wanted.softmax(-1)) + F.mse_loss(logits, wanted), logits

    return Pair(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def double_precision() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.b(net.a(x.double())))).float()

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5)).double()


class Camera(nn.Module):
    """Normalises its own input with constants, and adds noise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = block(3, 12), block(12, 8), nn.Linear(8, 5)
        self.register_buffer("mean", torch.tensor([0.48, 0.45, 0.4]).view(1, 3, 1, 1))
        self.std = (0.23, 0.22, 0.22)

    def forward(self, x: Tensor) -> Tensor:
        x = (x * 255 / 255.0 - self.mean) / torch.tensor(self.std, device=x.device)[:, None, None]
        if self.training:
            x = x + 0.01 * torch.randn_like(x)
        return self.head(pooled(self.b(self.a(x))))


@shelf.add(cut="a.0 b.0", whole="head")
def input_normalised_inside() -> nn.Module:
    return Camera()


@dataclass
class Found:
    logits: Tensor
    loss: Tensor | None = None


torch.utils._pytree.register_dataclass(Found)


@shelf.add(cut="a.0 b.0", whole="head")
def answer_in_a_dataclass() -> nn.Module:
    def run(net: Net, x: Tensor) -> Found:
        return Found(net.head(pooled(net.b(net.a(x)))))

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a b.0", whole="head")
def one_module_under_two_names() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.b(F.relu(net.a(x)))
        return net.head(pooled(x + net.again(x)))

    middle = block(12, 12)
    return Net(run, a=conv(3, 12), b=middle, again=middle, head=nn.Linear(12, 5))


class Slim(nn.Module):
    """Uses only the first rows and columns of a wider weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.wide, self.b, self.head = conv(3, 8), conv(16, 16), block(12, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(F.relu(self.a(x)), self.wide.weight[:12, :8], self.wide.bias[:12], padding=1)
        return self.head(pooled(self.b(F.relu(x))))


@shelf.add(cut="b.0", whole="head")
def part_of_a_weight() -> nn.Module:
    return Slim()


class LowRank(nn.Linear):
    """A frozen weight and a learned update of rank two."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down = nn.Parameter(torch.randn(2, inputs) * 0.1)
        self.up = nn.Parameter(torch.randn(outputs, 2) * 0.1)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


@shelf.add(cut="a b", whole="head", batch=images(10))
def low_rank_update_of_a_weight() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(F.relu(net.b(F.relu(net.a(x)))))

    return Net(run, a=nn.Linear(10, 16), b=LowRank(16, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a b", whole="head", batch=images(10))
def parameters_in_lists_and_dicts() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x)) * net.scales[0] + net.shifts["one"]
        return net.head(F.relu(net.b(x)) * net.scales[1])

    net = Net(run, a=nn.Linear(10, 16), b=nn.Linear(16, 12), head=nn.Linear(12, 5))
    net.scales = nn.ParameterList([torch.ones(16), torch.ones(12)])
    net.shifts = nn.ParameterDict({"one": torch.zeros(16)})
    return net


@shelf.add(cut="first.0 routes.even.0 routes.odd.0", whole="head")
def modules_in_lists_and_dicts() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.first(x)
        return net.head(pooled(sum(route(x) for route in net.routes.values())))

    routes = nn.ModuleDict({"even": block(12, 8), "odd": block(12, 8, 1)})
    return Net(run, first=block(3, 12), routes=routes, head=nn.Linear(8, 5))


@shelf.add(cut="b", whole="head")
def norms_of_other_shapes() -> nn.Module:
    """LayerNorm over the whole map, GroupNorm of one group, BatchNorm without weights or memory."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.map(F.relu(net.a(x)))
        x = F.relu(net.plain(net.b(x)))
        return net.head(pooled(net.one(net.c(x))).square())

    return Net(
        run,
        a=conv(3, 8),
        map=nn.LayerNorm([8, 16, 16]),
        b=conv(8, 12),
        plain=nn.BatchNorm2d(12, affine=False),
        c=conv(12, 8),
        one=nn.GroupNorm(1, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a b", whole="head")
def one_group_a_channel() -> nn.Module:
    """GroupNorm with as many groups as channels is InstanceNorm, and its channels may go."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.norm(net.a(x)))
        return net.head(pooled(F.relu(net.b(x))))

    return Net(run, a=conv(3, 16), norm=nn.GroupNorm(16, 16), b=conv(16, 12), head=nn.Linear(12, 5))


@shelf.add(cut="b", whole="head")
def layer_norm_by_hand() -> nn.Module:
    """Mean and spread over the channels, written out, channels first."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        middle = x.mean(1, keepdim=True)
        spread = (x - middle).pow(2).mean(1, keepdim=True)
        x = (x - middle) / torch.sqrt(spread + 1e-6) * net.scale[:, None, None]
        return net.head(pooled(F.relu(net.b(x))))

    return Net(run, a=conv(3, 12), scale=nn.Parameter(torch.ones(12)), b=conv(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a b c", whole="head", batch=images(8, 10))
def unusual_products() -> nn.Module:
    """tensordot, baddbmm, `@` with a transposed weight, inner sums by einsum with dots."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        x = F.relu(torch.tensordot(x, net.b.weight, dims=([2], [1])) + net.b.bias)
        x = F.relu(torch.einsum("...c,oc->...o", x, net.c.weight))
        return net.head((x @ net.d.weight.T).mean(1))

    return Net(
        run,
        a=nn.Linear(10, 16),
        b=nn.Linear(16, 12),
        c=nn.Linear(12, 14, bias=False),
        d=nn.Linear(14, 8, bias=False),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a", whole="head", batch=images(10))
def distances_to_centres() -> nn.Module:
    """A radial basis layer: features are compared with learned centres."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        apart = (x[:, None, :] - net.centres[None]).square().sum(-1)
        return net.head(torch.exp(-apart))

    return Net(run, a=nn.Linear(10, 16), centres=nn.Parameter(torch.randn(6, 16)), head=nn.Linear(6, 5))


@shelf.add(cut="a.0 b.0 gate", whole="head")
def hard_mixture_of_experts() -> nn.Module:
    """The best of three experts for each image, all computed, one gathered."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        best = net.choose(F.relu(net.gate(pooled(x)))).argmax(-1)
        experts = torch.stack([net.b(x), net.c(x), net.d(x)], 1)
        chosen = F.one_hot(best, 3).to(x.dtype)[:, :, None, None, None]
        return net.head(pooled((experts * chosen).sum(1)))

    return Net(
        run,
        a=block(3, 12),
        gate=nn.Linear(12, 8),
        choose=nn.Linear(8, 3),
        b=block(12, 8),
        c=block(12, 8),
        d=block(12, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 b.0 c.0", whole="head")
def random_depth() -> nn.Module:
    """Blocks that are skipped at random in training."""

    def dropped(net: nn.Module, x: Tensor) -> Tensor:
        if not net.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(0.8).div_(0.8)

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        x = x + dropped(net, net.c(net.b(x)))
        return net.head(pooled(x))

    return Net(run, a=block(3, 12), b=block(12, 8), c=block(8, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a.0 b.0 c.0", whole="head")
def written_into_parts_of_a_view() -> nn.Module:
    """In-place arithmetic on slices and views, Python's own sum, unused results."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        half = x.shape[1] // 2
        left, right = x[:, :half], x[:, half:]
        left.mul_(0.5)
        right[:, :, 0] += 1
        _ = right.std()
        return net.head(pooled(net.c(sum([net.b(x), net.b(x * 2)]))))

    return Net(run, a=nn.Sequential(conv(3, 12)), b=block(12, 8), c=block(8, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head", batch=images(4, 3, 8, 8))
def several_images_in_one_input() -> nn.Module:
    """A fifth dimension is folded into the batch and taken out again."""

    def run(net: Net, x: Tensor) -> Tensor:
        n, views = x.shape[:2]
        x = net.b(net.a(x.flatten(0, 1)))
        return net.head(pooled(x).view(n, views, -1).amax(1))

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def statistics_pooled() -> nn.Module:
    """Mean, spread, largest, order and logarithm of sums over pixels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.b(net.a(x)).flatten(2)
        middle = x.sort(-1).values[:, :, x.shape[-1] // 2]
        parts = [x.mean(-1), x.std(-1), x.max(-1)[0], middle, torch.logsumexp(x, -1)]
        return net.head(torch.cat(parts, 1))

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(40, 5))


@shelf.add(cut="a b", whole="head", batch=images(3, 8, 8))
def more_activations() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.hardtanh(net.a(x)) + F.softsign(net.a(x)) + F.logsigmoid(net.a(x)) - F.tanhshrink(net.a(x))
        x = (
            F.celu(net.b(x)) * F.threshold(net.b(x), 0.1, 0.2)
            + F.relu6(x).mean((2, 3), keepdim=True)
            + F.hardshrink(x).abs().sqrt()
        )
        return net.head(pooled(torch.atan(x) + x.sign() * x.erf() + torch.maximum(x, -x).log1p()))

    return Net(run, a=conv(3, 12), b=conv(12, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a.0 b.0", whole="head", batch=images(3, 9, 11))
def odd_sizes_cropped_and_padded() -> nn.Module:
    """Skip connections between maps whose sizes differ by a pixel."""

    def run(net: Net, x: Tensor) -> Tensor:
        high = net.a(x)
        low = F.interpolate(net.b(F.avg_pool2d(high, 2)), scale_factor=2)
        rows, columns = high.shape[2] - low.shape[2], high.shape[3] - low.shape[3]
        low = F.pad(low, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
        crop = high[:, :, 1:-1, 1:-1]
        return net.head(torch.cat([low[:, :, 1:-1, 1:-1], crop], 1))

    return Net(run, a=block(3, 12), b=block(12, 8), head=conv(20, 2, 1))


@shelf.add(cut="a.0", whole="head")
def answer_given_twice_with_the_input() -> nn.Module:
    def run(net: Net, x: Tensor) -> list[Tensor]:
        y = net.head(pooled(net.a(x)))
        return [y, y, x]

    return Net(run, a=block(3, 12), head=nn.Linear(12, 5))
