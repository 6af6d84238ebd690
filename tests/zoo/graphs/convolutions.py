"""Convolutions of every kind, normalisation, activations, pooling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Net, Shelf, block, conv, images, pooled

shelf = Shelf()
SOUND = images(2, 32)
VIDEO = images(3, 4, 8, 8)


@shelf.add(cut="a.0 b c", whole="head")
def chain_with_and_without_bias() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(F.relu(net.c(F.relu(net.b(net.a(x)))))))

    return Net(run, a=block(3, 16), b=conv(16, 24), c=conv(24, 16, bias=False), head=nn.Linear(16, 5))


@shelf.add(cut="a.0 b", whole="head")
def asymmetric_dilated_and_same_padding() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(F.relu(net.c(F.relu(net.b(net.a(x)))))))

    b = nn.Conv2d(16, 16, (1, 7), padding="same")
    c = nn.Conv2d(16, 16, 3, stride=2, dilation=2, padding=(2, 1))
    return Net(run, a=block(3, 16), b=b, c=c, head=nn.Linear(16, 5))


@shelf.add(cut="a b c", whole="head")
def padding_reflect_and_circular() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.c(F.relu(net.b(F.relu(net.a(x)))))
        return net.head(pooled(F.pad(x, (1, 1, 1, 1), mode="replicate")))

    a = conv(3, 12, padding_mode="reflect")
    return Net(
        run,
        a=a,
        b=conv(12, 16, padding_mode="circular"),
        c=conv(16, 8, padding_mode="zeros"),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 g.0 c.0", whole="head")
def grouped() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.c(net.g(net.a(x)))))

    return Net(run, a=block(3, 16), g=block(16, 32, groups=4), c=block(32, 8, 1), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 d p.0", whole="head")
def depthwise_with_multiplier() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.p(net.norm(net.d(net.a(x))))))

    d = conv(8, 24, groups=8)
    return Net(run, a=block(3, 8), d=d, norm=nn.BatchNorm2d(24), p=block(24, 16, 1), head=nn.Linear(16, 5))


@shelf.add(cut="a.0 g1.0 g2.0 g3.0", whole="head")
def resnext_block_of_other_groups() -> nn.Module:
    """Grouped convolutions of different numbers of groups in one residual stream."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        x = x + net.g2(net.g1(x))
        return net.head(pooled(x + net.g3(x)))

    return Net(
        run,
        a=block(3, 24),
        g1=block(24, 24, groups=4),
        g2=block(24, 24, groups=2),
        g3=block(24, 24, groups=3),
        head=nn.Linear(24, 5),
    )


@shelf.add(cut="a.0 up tail.0", whole="head")
def transposed() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(net.tail(F.relu(net.norm(net.up(net.a(x))))))

    up = nn.ConvTranspose2d(16, 12, 3, stride=2, padding=1, output_padding=1)
    return Net(run, a=block(3, 16), up=up, norm=nn.BatchNorm2d(12), tail=block(12, 8), head=conv(8, 2, 1))


@shelf.add(cut="a.0 tail.0", whole="head")
def transposed_grouped_and_depthwise() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(net.tail(net.wise(net.up(net.a(x)))))

    up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=4)
    wise = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)
    return Net(run, a=block(3, 16), up=up, wise=wise, tail=block(8, 8), head=conv(8, 2, 1))


@shelf.add(cut="a b c up", whole="head", batch=SOUND)
def convolution_1d() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.norm(net.a(x)))
        x = F.max_pool1d(x + F.relu(net.b(x)), 2)
        x = F.relu(net.up(net.c(x)))
        return net.head(F.adaptive_avg_pool1d(x, 1).squeeze(-1))

    return Net(
        run,
        a=nn.Conv1d(2, 16, 5, padding=2, bias=False),
        norm=nn.BatchNorm1d(16),
        b=nn.Conv1d(16, 16, 3, padding=2, dilation=2),
        c=nn.Conv1d(16, 12, 1),
        up=nn.ConvTranspose1d(12, 8, 4, stride=2, padding=1),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a b d up", whole="head", batch=VIDEO)
def convolution_3d() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.norm(net.a(x)))
        x = F.max_pool3d(net.d(F.relu(net.b(x))), (1, 2, 2))
        x = F.relu(net.up(x))
        return net.head(torch.flatten(F.adaptive_avg_pool3d(x, 1), 1))

    return Net(
        run,
        a=nn.Conv3d(3, 12, 3, padding=1, bias=False),
        norm=nn.BatchNorm3d(12),
        b=nn.Conv3d(12, 16, (1, 3, 3), padding=(0, 1, 1)),
        d=nn.Conv3d(16, 16, (3, 1, 1), padding=(1, 0, 0), groups=16),
        up=nn.ConvTranspose3d(16, 8, 2, stride=2),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 b.0", whole="head")
def pools() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(net.a(x), 3, 2, 1, ceil_mode=True)
        x = F.avg_pool2d(net.b(x), 3, 1, 1, count_include_pad=False)
        x = F.adaptive_avg_pool2d(x, (3, 2)) + F.adaptive_max_pool2d(x, (3, 2))
        return net.head(torch.cat([x.amax((2, 3)), x.flatten(2).max(-1).values, pooled(x)], 1))

    return Net(run, a=block(3, 12), b=block(12, 16), head=nn.Linear(48, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def power_and_generalised_mean_pools() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.lp_pool2d(net.a(x), 2, 2)
        x = net.b(x).clamp(min=1e-6).pow(net.p).mean((-2, -1), keepdim=True).pow(1.0 / net.p)
        return net.head(x.flatten(1))

    return Net(run, a=block(3, 12), b=block(12, 16), p=nn.Parameter(torch.tensor(3.0)), head=nn.Linear(16, 5))


@shelf.add(cut="a b.0", whole="head")
def max_unpooling() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        small, where = F.max_pool2d(F.relu(net.a(x)), 2, return_indices=True)
        return net.head(net.b(F.max_unpool2d(small, where, 2)))

    return Net(run, a=conv(3, 12), b=block(12, 8), head=conv(8, 2, 1))


@shelf.add(cut="a.0 b c", whole="head")
def resizing() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = F.interpolate(net.a(x), scale_factor=2.0, mode="nearest")
        x = F.interpolate(net.b(x), size=(12, 12), mode="bilinear", align_corners=False)
        x = F.interpolate(net.c(x), size=size, mode="bicubic")
        return net.head(x)

    return Net(run, a=block(3, 8), b=conv(8, 8), c=conv(8, 8), head=conv(8, 3, 1))


@shelf.add(cut="a b c", whole="head")
def activations() -> nn.Module:
    """Some of them are not zero at zero."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.slopes(net.a(x))
        x = F.softplus(net.slope(net.b(x))) + torch.cos(x)
        x = F.hardswish(net.c(F.mish(x))) * torch.sigmoid(x).exp()
        return net.head(pooled(F.gelu(x, approximate="tanh") + F.elu(x) - F.selu(x)))

    return Net(
        run,
        a=conv(3, 12),
        slopes=nn.PReLU(12),
        b=conv(12, 12),
        slope=nn.PReLU(),
        c=conv(12, 12),
        head=nn.Linear(12, 5),
    )


@shelf.add(cut="a b", whole="head")
def gated_linear_units() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.glu(net.a(x), dim=1)
        value, gate = net.b(x).chunk(2, 1)
        return net.head(pooled(value * F.silu(gate)))

    return Net(run, a=conv(3, 24), b=conv(12, 32), head=nn.Linear(16, 5))


@shelf.add(cut="a", whole="head")
def maxout() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        x = x.view(x.shape[0], -1, 2, *x.shape[2:]).amax(2)
        return net.head(pooled(x))

    return Net(run, a=conv(3, 32), head=nn.Linear(16, 5))


@shelf.add(cut="a c.0", whole="head")
def concatenated_relu() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.c(F.relu(net.norm(torch.cat([x, -x], 1))))))

    return Net(run, a=conv(3, 8), norm=nn.BatchNorm2d(16), c=block(16, 16), head=nn.Linear(16, 5))


@shelf.add(cut="b", whole="head")
def group_normalisation() -> nn.Module:
    """The width that is normalised stays, unless whole groups go."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.norm(net.a(x)))
        return net.head(pooled(F.relu(net.b(x))))

    return Net(run, a=conv(3, 16), norm=nn.GroupNorm(4, 16), b=conv(16, 16), head=nn.Linear(16, 5))


@shelf.add(cut="a b", whole="head")
def instance_normalisation() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.n(net.a(x)))
        return net.head(pooled(F.relu(net.m(net.b(x))).square()))

    return Net(
        run,
        a=conv(3, 16),
        n=nn.InstanceNorm2d(16, affine=True, track_running_stats=True),
        b=conv(16, 12),
        m=nn.InstanceNorm2d(12),
        head=nn.Linear(12, 5),
    )


@shelf.add(cut="b", whole="head")
def local_response_normalisation() -> nn.Module:
    """Each channel is divided by what its neighbours hold."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.local_response_norm(net.a(x), 3)
        return net.head(pooled(F.relu(net.b(x))))

    return Net(run, a=conv(3, 12), b=conv(12, 12), head=nn.Linear(12, 5))


class FrozenNorm(nn.Module):
    """Batch normalisation whose four vectors are buffers, as in detection models."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for name, fill in (("weight", 1.0), ("bias", 0.1), ("running_mean", 0.2), ("running_var", 1.5)):
            self.register_buffer(name, torch.full((width,), fill))

    def forward(self, x: Tensor) -> Tensor:
        w, b, mean, var = (
            t.reshape(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_mean, self.running_var)
        )
        scale = w * (var + 1e-5).rsqrt()
        return x * scale + (b - mean * scale)


@shelf.add(cut="a b c", whole="head")
def frozen_batch_norm_of_buffers() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.n(net.a(x)))
        return net.head(pooled(F.relu(x + net.c(F.relu(net.m(net.b(x)))))))

    return Net(
        run,
        a=conv(3, 16),
        n=FrozenNorm(16),
        b=conv(16, 12),
        m=FrozenNorm(12),
        c=conv(12, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a b", whole="head")
def dropouts() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.d2(F.relu(net.a(x)))
        x = net.alpha(F.selu(net.b(x)))
        return net.head(F.dropout(pooled(x), 0.5, net.training))

    return Net(
        run,
        a=conv(3, 16),
        d2=nn.Dropout2d(0.3),
        b=conv(16, 12),
        alpha=nn.AlphaDropout(0.2),
        head=nn.Linear(12, 5),
    )


@shelf.add(cut="a b", whole="head")
def frozen_parameters() -> nn.Module:
    """A backbone that is not trained is still cut."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(F.relu(net.norm(net.b(F.relu(net.a(x)))))))

    net = Net(run, a=conv(3, 16), b=conv(16, 12), norm=nn.BatchNorm2d(12), head=nn.Linear(12, 5))
    net.a.requires_grad_(False)
    net.norm.requires_grad_(False)
    return net


@shelf.add(cut="a b", whole="head")
def channels_last_and_in_place() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x.to(memory_format=torch.channels_last)).contiguous()
        x = F.relu_(x)
        x = net.b(x).mul_(0.5).add_(x)
        x.mul_(2).sub_(0.1)
        return net.head(pooled(x))

    return Net(run, a=conv(3, 16), b=conv(16, 16), head=nn.Linear(16, 5))
