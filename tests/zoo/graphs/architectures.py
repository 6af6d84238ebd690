"""The blocks of well-known networks, small."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Net, Shelf, block, conv, images, pooled

shelf = Shelf()


@shelf.add(cut="a.0 b.0 c.0", whole="head")
def residual() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(torch.flatten(F.adaptive_avg_pool2d(x + net.c(net.b(x)), 1), 1))

    return Net(run, a=block(3, 16), b=block(16, 8), c=block(8, 16), head=nn.Linear(16, 5))


@shelf.add(cut="stem.0 one.0 two.0 down.0 short three.0", whole="head")
def bottlenecks_with_projection() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = x + net.two(net.one(x))
        y = net.down(x)
        return net.head(pooled(F.relu(net.three(y) + net.short(x))))

    return Net(
        run,
        stem=block(3, 16),
        one=block(16, 8, 1),
        two=block(8, 16),
        down=block(16, 12, stride=2),
        three=block(12, 32, 1),
        short=nn.Conv2d(16, 32, 1, stride=2),
        head=nn.Linear(32, 5),
    )


class OptionA(nn.Module):
    """The shortcut of the first ResNets: every second pixel, and zeros for the new channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = block(3, 16), block(16, 24, stride=2)
        self.two, self.norm = conv(24, 32), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
        return self.head(pooled(F.relu(self.norm(self.two(self.one(x))) + short)))


@shelf.add(cut="one.0", whole="head")
def zero_padded_shortcut() -> nn.Module:
    return OptionA()


@shelf.add(cut="a.0 b.0 c.0 d.0", whole="head")
def dense_blocks() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        features = [net.a(x)]
        for layer in (net.b, net.c):
            features.append(layer(torch.cat(features, 1)))
        return net.head(pooled(F.avg_pool2d(net.d(net.norm(torch.cat(features, 1))), 2)))

    return Net(
        run,
        a=block(3, 8),
        b=block(8, 4),
        c=block(12, 4),
        norm=nn.BatchNorm2d(16),
        d=block(16, 8, 1),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 one.0 two.0 three.0 mix.0", whole="head")
def inception_branches() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        pool = net.pool(F.max_pool2d(x, 3, 1, 1))
        return net.head(pooled(net.mix(torch.cat([net.one(x), net.two(x), net.three(x), pool, x], 1))))

    return Net(
        run,
        a=block(3, 12),
        one=block(12, 8, 1),
        two=block(12, 6),
        three=nn.Sequential(conv(12, 4, 5), nn.ReLU()),
        pool=block(12, 4, 1),
        mix=block(34, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 grow.0 mix.0", whole="head")
def dual_path() -> nn.Module:
    """One part of a layer's output is added, the rest is appended; the sizes are numbers."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        main, dense = x[:, :16], x[:, 16:]
        for layer in (net.one, net.two):
            new = layer(net.grow(torch.cat([main, dense[:, :8]], 1)))
            main, dense = main + new[:, :16], torch.cat([dense, new[:, 16:]], 1)
        return net.head(pooled(net.mix(torch.cat([main, dense], 1))))

    return Net(
        run,
        a=block(3, 24),
        grow=block(24, 12, 1),
        one=conv(12, 20),
        two=conv(12, 20),
        mix=block(32, 16, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="d1.0 d2.0 mid.0 u2.0 u1.0 up1", whole="head")
def unet() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        one = net.d1(x)
        two = net.d2(F.max_pool2d(one, 2))
        x = F.interpolate(net.mid(F.max_pool2d(two, 2)), scale_factor=2, mode="bilinear")
        x = net.up1(net.u2(torch.cat([two, x], 1)))
        return net.head(net.u1(torch.cat([x, one], 1)))

    return Net(
        run,
        d1=block(3, 8),
        d2=block(8, 16),
        mid=block(16, 16),
        u2=block(32, 12),
        up1=nn.ConvTranspose2d(12, 8, 2, stride=2),
        u1=block(16, 8),
        head=conv(8, 3, 1),
    )


class C2f(nn.Module):
    """YOLO's block: one half goes through residual bottlenecks, all steps are concatenated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = block(width, width, 1), block(width * 2, width, 1)
        self.inner = nn.ModuleList(
            nn.Sequential(block(width // 2, width // 2), block(width // 2, width // 2)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).chunk(2, 1))
        for layer in self.inner:
            parts.append(parts[-1] + layer(parts[-1]))
        return self.last(torch.cat(parts, 1))


class Sppf(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = block(width, width // 2, 1), block(width * 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        steps = [self.first(x)]
        for _ in range(3):
            steps.append(F.max_pool2d(steps[-1], 5, 1, 2))
        return self.last(torch.cat(steps, 1))


class Yolo(nn.Module):
    """Backbone, top-down path and a head at two scales, boxes and classes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.early, self.down = block(3, 16), C2f(16), block(16, 24, stride=2)
        self.late, self.sppf, self.neck = C2f(24), Sppf(24), C2f(40)
        self.boxes = nn.ModuleList(nn.Sequential(block(w, 8), conv(8, 8, 1)) for w in (40, 24))
        self.classes = nn.ModuleList(nn.Sequential(block(w, 8), conv(8, 3, 1)) for w in (40, 24))

    def forward(self, x: Tensor) -> dict[str, list[Tensor] | Tensor]:
        early = self.early(self.stem(x))
        late = self.sppf(self.late(self.down(early)))
        levels = [self.neck(torch.cat([F.interpolate(late, scale_factor=2), early], 1)), late]
        boxes = [head(level) for head, level in zip(self.boxes, levels, strict=True)]
        scores = [head(level).flatten(2) for head, level in zip(self.classes, levels, strict=True)]
        return {"boxes": boxes, "scores": torch.cat(scores, 2).sigmoid()}


@shelf.add(
    cut="stem.0 early.first.0 early.inner.0.0.0 early.last.0 sppf.first.0 sppf.last.0 neck.last.0 boxes.0.0.0",
    whole="boxes.0.1 boxes.1.1 classes.0.1 classes.1.1",
)
def yolo() -> nn.Module:
    return Yolo()


@shelf.add(cut="a.0 outer.0 skip.0 inner.0 last.0", whole="head")
def cross_stage_partial() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.last(torch.cat([net.inner(net.outer(x)), net.skip(x)], 1))))

    return Net(
        run,
        a=block(3, 16),
        outer=block(16, 8, 1),
        skip=block(16, 8, 1),
        inner=block(8, 8),
        last=block(16, 16, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 b.0", whole="head")
def focus_on_every_second_pixel() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        corners = [x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        return net.head(pooled(net.b(torch.cat(corners, 1))))

    return Net(run, a=block(3, 8), b=block(32, 16), head=nn.Linear(16, 5))


def shuffled(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, -1, height, width)


@shelf.add(cut="a.0 g.0 h.0", whole="head")
def channel_shuffle_between_groups() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.h(shuffled(net.g(net.a(x)), 4))))

    return Net(
        run,
        a=block(3, 16),
        g=block(16, 32, 1, groups=4),
        h=block(32, 32, 1, groups=4),
        head=nn.Linear(32, 5),
    )


@shelf.add(cut="a.0 one.0 two.0", whole="head")
def shuffle_units() -> nn.Module:
    """Half of the channels pass, the other half is worked on, then both are shuffled."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        for first, wise, last in ((net.one, net.wise, net.two), (net.three, net.wise2, net.four)):
            left, right = x.chunk(2, dim=1)
            x = shuffled(torch.cat([left, last(wise(first(right)))], 1), 2)
        return net.head(pooled(F.channel_shuffle(x, 2)))

    return Net(
        run,
        a=block(3, 16),
        one=block(8, 8, 1),
        wise=conv(8, 8, groups=8),
        two=block(8, 8, 1),
        three=block(8, 8, 1),
        wise2=conv(8, 8, groups=8),
        four=block(8, 8, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 b c.0", whole="head")
def pixel_shuffle_and_back() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.pixel_shuffle(net.b(net.a(x)), 2)
        return net.head(net.c(F.pixel_unshuffle(x, 4)))

    return Net(run, a=block(3, 8), b=conv(8, 16), c=block(64, 8), head=conv(8, 2, 1))


@shelf.add(cut="a.0", whole="head.0")
def super_resolution_head() -> nn.Module:
    """The image is added to what pixel shuffle makes, so the last convolution stays whole."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(net.b(net.a(x))) + F.interpolate(x, scale_factor=2)

    head = nn.Sequential(conv(16, 12), nn.PixelShuffle(2))
    return Net(run, a=block(3, 12), b=block(12, 16), head=head)


@shelf.add(cut="a.0 squeeze expand b.0", whole="head")
def squeeze_and_excite() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        gate = F.adaptive_avg_pool2d(x, 1)
        x = x * torch.sigmoid(net.expand(F.relu(net.squeeze(gate))))
        return net.head(pooled(net.b(x)))

    return Net(
        run,
        a=block(3, 16),
        squeeze=nn.Conv2d(16, 4, 1),
        expand=nn.Conv2d(4, 16, 1),
        b=block(16, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 squeeze expand", whole="head")
def squeeze_and_excite_through_view() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        b, c, _, _ = x.size()
        gate = torch.sigmoid(net.expand(F.relu(net.squeeze(pooled(x).view(b, c))))).view(b, c, 1, 1)
        return net.head(pooled(x * gate.expand_as(x)))

    return Net(run, a=block(3, 16), squeeze=nn.Linear(16, 4), expand=nn.Linear(4, 16), head=nn.Linear(16, 5))


@shelf.add(cut="b.0", whole="head")
def efficient_channel_attention() -> nn.Module:
    """A convolution runs over the channels: their neighbours count, so they stay."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        gate = net.eca(pooled(x).unsqueeze(1)).transpose(1, 2).unsqueeze(-1)
        return net.head(pooled(net.b(x * torch.sigmoid(gate))))

    eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    return Net(run, a=block(3, 16), eca=eca, b=block(16, 16), head=nn.Linear(16, 5))


@shelf.add(cut="b.0 squeeze", whole="head")
def convolutional_block_attention() -> nn.Module:
    """The spatial gate takes the mean and the largest over the channels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        average, largest = net.mlp(pooled(x)), net.mlp(x.amax((2, 3)))
        x = x * torch.sigmoid(average + largest)[:, :, None, None]
        both = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
        return net.head(pooled(net.b(x * torch.sigmoid(net.spatial(both)))))

    net = Net(
        run,
        a=block(3, 16),
        squeeze=nn.Linear(16, 8),
        expand=nn.Linear(8, 16),
        spatial=conv(2, 1, 7),
        b=block(16, 16),
        head=nn.Linear(16, 5),
    )
    net.mlp = nn.Sequential(net.squeeze, nn.ReLU(), net.expand)
    return net


@shelf.add(cut="a.0 small.0 large.0 squeeze", whole="head")
def selective_kernels() -> nn.Module:
    """Branches are stacked and weighted by a softmax over the branches."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        branches = torch.stack([net.small(x), net.large(x)], 1)
        gate = net.squeeze(branches.sum(1).mean((2, 3)))
        gates = torch.stack([net.one(gate), net.two(gate)], 1).softmax(1)
        return net.head(pooled((branches * gates[..., None, None]).sum(1)))

    return Net(
        run,
        a=block(3, 12),
        small=block(12, 16),
        large=block(12, 16, 5),
        squeeze=nn.Linear(16, 8),
        one=nn.Linear(8, 16),
        two=nn.Linear(8, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 g.0 squeeze expand", whole="head")
def split_attention() -> nn.Module:
    """ResNeSt: the grouped convolution's halves are summed, gated by a softmax over the halves."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.g(net.a(x))
        b, c, h, w = x.shape
        halves = x.reshape(b, 2, c // 2, h, w)
        gate = net.expand(F.relu(net.squeeze(halves.sum(1).mean((2, 3)))))
        gate = gate.view(b, 2, -1).softmax(1)
        return net.head(pooled((halves * gate[..., None, None]).sum(1)))

    return Net(
        run,
        a=block(3, 16),
        g=block(16, 32, groups=2),
        squeeze=nn.Linear(16, 8),
        expand=nn.Linear(8, 32),
        head=nn.Linear(16, 5),
    )


class ConvNeXtBlock(nn.Module):
    """Normalised over channels in channels-last order; the residual width stays, the inner one may go."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wise, self.norm = conv(width, width, 7, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.wise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


@shelf.add(cut="one.up two.up", whole="head stem")
def convnext() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(net.norm(pooled(net.two(net.one(net.stem(x))))))

    return Net(
        run,
        stem=nn.Conv2d(3, 16, 2, 2),
        one=ConvNeXtBlock(16),
        two=ConvNeXtBlock(16),
        norm=nn.LayerNorm(16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="b.0", whole="head")
def global_response_normalisation() -> nn.Module:
    """ConvNeXt V2: every channel is divided by the mean over the channels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.gelu(net.up(x.permute(0, 2, 3, 1)))
        size = x.norm(p=2, dim=(1, 2), keepdim=True)
        x = net.gamma * (x * (size / (size.mean(-1, keepdim=True) + 1e-6))) + net.beta + x
        return net.head(pooled(net.b(net.down(x).permute(0, 3, 1, 2))))

    return Net(
        run,
        up=nn.Linear(3, 16),
        gamma=nn.Parameter(torch.zeros(16)),
        beta=nn.Parameter(torch.zeros(16)),
        down=nn.Linear(16, 8),
        b=block(8, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 up.0 wise.0 squeeze expand down", whole="head")
def inverted_residual_with_gate() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        y = F.hardswish(net.wise(net.up(x)))
        gate = net.expand(F.relu(net.squeeze(y.mean((2, 3), keepdim=True))))
        return net.head(pooled(x + net.down(y * F.hardsigmoid(gate))))

    return Net(
        run,
        a=block(3, 16),
        up=block(16, 32, 1),
        wise=block(32, 32, groups=32),
        squeeze=nn.Conv2d(32, 8, 1),
        expand=nn.Conv2d(8, 32, 1),
        down=conv(32, 16, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="b.0", whole="head")
def ghost_module() -> nn.Module:
    """Cheap copies beside the convolution's own channels, cropped to a literal width."""

    def run(net: Net, x: Tensor) -> Tensor:
        own = net.own(x)
        x = torch.cat([own, net.cheap(own)], 1)[:, :12]
        return net.head(pooled(net.b(x)))

    return Net(
        run,
        own=block(3, 8),
        cheap=conv(8, 8, groups=8),
        b=block(12, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 w1.0 last.0", whole="head")
def res2net_scales() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        parts, outs = torch.split(x, 4, 1), []
        y = None
        for part, layer in zip(parts[:3], (net.w1, net.w2, net.w3), strict=True):
            y = layer(part if y is None else y + part)
            outs.append(y)
        outs.append(parts[3])
        return net.head(pooled(net.last(torch.cat(outs, 1)) + x))

    return Net(
        run,
        a=block(3, 16),
        w1=block(4, 4),
        w2=block(4, 4),
        w3=block(4, 4),
        last=block(16, 16, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 three one last.0", whole="head")
def parallel_kernels_and_identity() -> nn.Module:
    """RepVGG before its branches are merged."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        x = F.relu(net.n3(net.three(x)) + net.n1(net.one(x)) + net.n0(x))
        return net.head(pooled(net.last(x)))

    norms = {name: nn.BatchNorm2d(16) for name in ("n3", "n1", "n0")}
    return Net(
        run,
        a=block(3, 16),
        three=conv(16, 16),
        one=conv(16, 16, 1),
        **norms,
        last=block(16, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="high.0 low.0 up.0 down.0", whole="head")
def resolutions_exchanged() -> nn.Module:
    """HRNet: two streams that are added into each other."""

    def run(net: Net, x: Tensor) -> Tensor:
        high = net.high(x)
        low = net.low(high)
        high, low = (
            high + F.interpolate(net.up(low), scale_factor=2, mode="nearest"),
            low + net.down(high),
        )
        return net.head(torch.cat([high, F.interpolate(low, size=high.shape[2:])], 1))

    return Net(
        run,
        high=block(3, 8),
        low=block(8, 16, stride=2),
        up=block(16, 8, 1),
        down=block(8, 16, stride=2),
        head=conv(24, 3, 1),
    )


@shelf.add(cut="c1.0 c2.0 l1 l2 tower.0", whole="boxes classes")
def feature_pyramid_with_shared_head() -> nn.Module:
    """One tower serves all levels, each with a scale of its own."""

    def run(net: Net, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        one = net.c1(x)
        two = net.c2(F.max_pool2d(one, 2))
        top = net.l2(two)
        levels = [net.l1(one) + F.interpolate(top, size=one.shape[-2:]), top, F.max_pool2d(top, 1, 2)]
        towers = [net.tower(level) for level in levels]
        return [net.boxes(t) * net.scale[i] for i, t in enumerate(towers)], [net.classes(t) for t in towers]

    return Net(
        run,
        c1=block(3, 12),
        c2=block(12, 16),
        l1=conv(12, 16, 1),
        l2=conv(16, 16, 1),
        tower=block(16, 12),
        boxes=conv(12, 4),
        classes=conv(12, 6),
        scale=nn.Parameter(torch.ones(3)),
    )


@shelf.add(cut="c1.0 c2.0 mix.0", whole="head")
def fusion_by_learned_weights() -> nn.Module:
    """BiFPN: levels are added with weights that are made positive and to sum to one."""

    def run(net: Net, x: Tensor) -> Tensor:
        one, two = net.c1(x), net.c2(x)
        w = F.relu(net.w)
        w = w / (w.sum() + 1e-4)
        return net.head(pooled(net.mix(w[0] * one + w[1] * two)))

    return Net(
        run,
        c1=block(3, 12),
        c2=block(3, 12, 5),
        w=nn.Parameter(torch.ones(2)),
        mix=block(12, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 b.0 hidden", whole="head")
def flatten_into_linear() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.max_pool2d(net.b(net.a(x)), 4)
        return net.head(F.relu(net.hidden(torch.flatten(x, 1))))

    return Net(run, a=block(3, 8), b=block(8, 12), hidden=nn.Linear(12 * 16, 20), head=nn.Linear(20, 5))


@shelf.add(cut="conv.0 lin", whole="head", batch=images(2, 6, 8, 8))
def temporal_shift() -> nn.Module:
    """A quarter of the channels comes from the frame before, a quarter from the one after."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        n, t, c, h, w = x.shape
        x = net.conv(x.reshape(n * t, c, h, w)).reshape(n, t, -1, h, w)
        fold = x.shape[2] // 4
        out = torch.zeros_like(x)
        out[:, :-1, :fold] = x[:, 1:, :fold]
        out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        return net.head(F.relu(net.lin(out.mean((1, 3, 4)))))

    return Net(run, conv=block(2, 16), lin=nn.Linear(16, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def spatial_transformer() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        theta = net.theta(pooled(x)).view(-1, 2, 3)
        grid = F.affine_grid(theta, [x.shape[0], 1, 16, 16], align_corners=False)
        return net.head(pooled(net.b(F.grid_sample(x, grid, align_corners=False))))

    return Net(run, a=block(3, 12), theta=nn.Linear(12, 6), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def coordinates_beside_features() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        rows = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1).expand(x.shape[0], 1, -1, x.shape[3])
        return net.head(pooled(net.b(torch.cat([x, rows, rows.transpose(2, 3)], 1))))

    return Net(run, a=block(3, 12), b=block(14, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="c")
def image_added_to_output() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return x - net.c(net.b(net.a(x)))

    return Net(run, a=block(3, 16), b=block(16, 16), c=conv(16, 3))


@shelf.add(cut="a.0 gate cand", whole="head")
def unrolled_convolutional_recurrence() -> nn.Module:
    """A convolutional GRU over three steps with the same weights."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        h = torch.zeros_like(x[:, :8])
        for _ in range(3):
            update, reset = torch.sigmoid(net.gate(torch.cat([x, h], 1))).chunk(2, 1)
            new = torch.tanh(net.cand(torch.cat([x, reset * h], 1)))
            h = (1 - update) * h + update * new
        return net.head(pooled(h))

    return Net(run, a=block(3, 12), gate=conv(20, 16), cand=conv(20, 8), head=nn.Linear(8, 5))
