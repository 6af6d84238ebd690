"""Splitting, slicing, reordering, merging, with sizes that follow the tensor and with sizes as numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Net, Shelf, block, conv, images, pooled

shelf = Shelf()


@shelf.add(cut="a.0 b.0", whole="head")
def concatenated_with_itself() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.b(torch.cat([x, x], 1))))

    return Net(run, a=block(3, 12), b=block(24, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a c.0", whole="head")
def concatenated_with_its_negative() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.c(net.norm(torch.cat([x, -x], 1)))))

    return Net(run, a=conv(3, 8), norm=nn.BatchNorm2d(16), c=block(16, 16), head=nn.Linear(16, 5))


@shelf.add(cut="a.0 b.0 c.0", whole="head")
def nested_concatenations() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        y = torch.cat([x, net.b(x)], 1)
        z = torch.cat([y, net.c(y), x], 1)
        return net.head(pooled(F.relu(net.norm(z))))

    return Net(
        run, a=block(3, 8), b=block(8, 6), c=block(14, 4), norm=nn.BatchNorm2d(26), head=nn.Linear(26, 5)
    )


@shelf.add(cut="b.0", whole="head")
def concatenated_with_the_image() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.b(torch.cat([net.a(x), x], 1))))

    return Net(run, a=block(3, 12), b=block(15, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 left.0 right.0", whole="head")
def chunked() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        left, right = net.a(x).chunk(2, dim=1)
        return net.head(pooled(torch.cat([net.left(left), net.right(right)], 1)))

    return Net(run, a=block(3, 16), left=block(8, 6), right=block(8, 10), head=nn.Linear(16, 5))


@shelf.add(cut="a.0 one.0 two.0", whole="head")
def split_into_unequal_numbers() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        one, two, rest = torch.split(net.a(x), [4, 8, 12], dim=1)
        return net.head(pooled(torch.cat([net.one(one), net.two(two), rest], 1)))

    return Net(run, a=block(3, 24), one=block(4, 8), two=block(8, 8), head=nn.Linear(28, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def split_by_tensor_split() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        parts = torch.tensor_split(net.a(x), (5, 9), dim=1)
        return net.head(pooled(net.b(torch.cat(parts[::-1], 1))))

    return Net(run, a=block(3, 16), b=block(16, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0 c.0", whole="head")
def sliced_at_a_number() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(torch.cat([net.b(x[:, :6]), net.c(x[:, 6:])], 1)))

    return Net(run, a=block(3, 16), b=block(6, 8), c=block(10, 8), head=nn.Linear(16, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def sliced_at_its_half() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        half = x.shape[1] // 2
        return net.head(pooled(net.b(x[:, :half] * torch.sigmoid(x[:, half:]))))

    return Net(run, a=block(3, 16), b=block(8, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def every_second_channel() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.b(x[:, ::2] - x[:, 1::2])))

    return Net(run, a=block(3, 16), b=block(8, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def narrowed() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.b(x.narrow(1, 4, 8) + torch.narrow(x, 1, 8, 8))))

    return Net(run, a=block(3, 16), b=block(8, 8), head=nn.Linear(8, 5))


class Reordered(nn.Module):
    """Channels are put in another order, by a buffer and by a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 12), block(12, 12), block(12, 8)
        self.head = nn.Linear(8, 5)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 6, 5, 4, 11, 10, 9, 8]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)[:, self.order])
        x = x.index_select(1, self.order) + x[:, [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]]
        return self.head(pooled(self.c(x)))


@shelf.add(cut="c.0", whole="head")
def indexed_by_a_permutation() -> nn.Module:
    return Reordered()


@shelf.add(cut="b.0", whole="head")
def first_channel_picked() -> nn.Module:
    """One channel is used as a mask for the others."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.b(x) * torch.sigmoid(x[:, :1]) + x[:, 0].unsqueeze(1)))

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def flipped_and_rolled() -> nn.Module:
    """Pixels are rolled, channels are flipped: channel i and channel n-1-i are one."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        x = x + x.flip(1) + torch.roll(x, (1, 2), (2, 3))
        return net.head(pooled(net.b(x.flip((2, 3)))))

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="b.0", whole="head")
def channels_rolled() -> nn.Module:
    """Every channel is tied to its neighbour, and so all are one."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.b(x + torch.roll(x, 1, 1))))

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a b", whole="head")
def views_with_sizes_that_follow() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        b, c, h, w = x.shape
        x = x.view(b, c, h * w).permute(0, 2, 1)
        x = F.relu(net.b(x)).transpose(1, 2).reshape(b, -1, h, w)
        return net.head(pooled(x))

    return Net(run, a=conv(3, 16), b=nn.Linear(16, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a b hidden", whole="head")
def views_with_numbers() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x)).view(-1, 16, 256).permute(0, 2, 1)
        x = F.relu(net.b(x)).transpose(1, 2).reshape(-1, 12, 16, 16)
        x = F.max_pool2d(x, 4).reshape(-1, 12 * 16)
        return net.head(F.relu(net.hidden(x)))

    return Net(run, a=conv(3, 16), b=nn.Linear(16, 12), hidden=nn.Linear(192, 16), head=nn.Linear(16, 5))


@shelf.add(cut="a b", whole="head")
def swapped_axes_and_unflatten() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x)).swapaxes(1, 3).flatten(1, 2)
        x = F.relu(net.b(x)).unflatten(1, (16, 16)).movedim(3, 1)
        return net.head(pooled(x))

    return Net(run, a=conv(3, 16), b=nn.Linear(16, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a b", whole="head")
def squeezed_and_expanded() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        mean = x.mean((2, 3), keepdim=True)
        x = x - mean.expand(-1, -1, x.shape[2], x.shape[3]) + mean.expand_as(x) * 0.5
        y = net.b(mean).squeeze(-1).squeeze(-1)
        return net.head(pooled(x) + y[:, :, None].unsqueeze(0).squeeze(0).repeat(1, 1, 3).mean(-1))

    return Net(run, a=conv(3, 16), b=nn.Conv2d(16, 16, 1), head=nn.Linear(16, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def repeated_and_interleaved() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        x = torch.cat([x.repeat(1, 2, 1, 1), x.repeat_interleave(2, dim=1)], 1)
        return net.head(pooled(net.b(x)))

    return Net(run, a=block(3, 8), b=block(32, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0 c.0", whole="head")
def stacked_summed_and_unbound() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        both = torch.stack([net.a(x), net.b(x)])
        first, second = (both * torch.tensor([1.0, -2.0]).view(2, 1, 1, 1, 1)).unbind(0)
        return net.head(pooled(net.c(first + second + both.amax(0))))

    return Net(run, a=block(3, 12), b=block(3, 12, 5), c=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def assigned_in_place() -> nn.Module:
    """A slice of the channels is overwritten."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x).clone()
        x[:, :4] = x[:, 4:8] * 2
        x[:, :, 0] = 0.0
        return net.head(pooled(net.b(x)))

    return Net(run, a=block(3, 16), b=block(16, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b", whole="head")
def unfolded_patches() -> nn.Module:
    """im2col by hand, and back."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        columns = F.unfold(x, 3, padding=1).transpose(1, 2)
        y = F.relu(net.b(columns)).transpose(1, 2)
        return net.head(pooled(F.fold(y, (16, 16), 1)))

    return Net(run, a=block(3, 8), b=nn.Linear(72, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a.0 b", whole="head")
def sliding_windows_by_unfold() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x).unfold(2, 4, 4).unfold(3, 4, 4)
        x = x.permute(0, 2, 3, 4, 5, 1).flatten(1, 2)
        return net.head(F.relu(net.b(x)).mean((1, 2, 3)))

    return Net(run, a=block(3, 12), b=nn.Linear(12, 16), head=nn.Linear(16, 5))


@shelf.add(cut="embed.0 tokens1 channels1", whole="head")
def mlp_mixer() -> nn.Module:
    """Layers over tokens and layers over channels take turns; the normalised width stays."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.project(net.embed(x)).flatten(2).transpose(1, 2)
        x = x + net.tokens2(F.gelu(net.tokens1(net.n1(x).transpose(1, 2)))).transpose(1, 2)
        x = x + net.channels2(F.gelu(net.channels1(net.n2(x))))
        return net.head(net.n3(x).mean(1))

    return Net(
        run,
        embed=block(3, 8, stride=2),
        project=nn.Conv2d(8, 16, 2, 2),
        n1=nn.LayerNorm(16),
        tokens1=nn.Linear(16, 12),
        tokens2=nn.Linear(12, 16),
        n2=nn.LayerNorm(16),
        channels1=nn.Linear(16, 32),
        channels2=nn.Linear(32, 16),
        n3=nn.LayerNorm(16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a b", whole="head", batch=images(9, 6))
def spatial_gating_unit() -> nn.Module:
    """gMLP: half of the hidden width gates the other half, across tokens."""

    def run(net: Net, x: Tensor) -> Tensor:
        u, v = F.gelu(net.a(x)).chunk(2, -1)
        v = net.space(v.transpose(1, 2)).transpose(1, 2)
        return net.head(net.b(u * v).mean(1))

    return Net(run, a=nn.Linear(6, 32), space=nn.Linear(9, 9), b=nn.Linear(16, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b", whole="head", batch=images(3, 12, 12))
def tokens_sorted_gathered_and_summed_up() -> nn.Module:
    """The four strongest pixels, by the sum over channels, and a running sum over pixels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x).flatten(2).transpose(1, 2)
        score = net.score(x).squeeze(-1)
        best = score.topk(4, dim=1).indices
        picked = torch.gather(x, 1, best.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        return net.head(F.relu(net.b(picked.cumsum(1))).mean(1))

    return Net(run, a=block(3, 12), score=nn.Linear(12, 1), b=nn.Linear(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def masked_by_where() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        bright = x.mean(1, keepdim=True) > 0
        x = net.a(x)
        x = torch.where(bright, x, torch.zeros_like(x)).masked_fill(~bright & (x > 2), 0.0)
        return net.head(pooled(net.b(x)))

    return Net(run, a=block(3, 12), b=block(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="a.0 b.0", whole="head")
def fourier_mixing() -> nn.Module:
    """A learned filter in the frequency domain, one complex number a channel and frequency."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        f = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(net.filter)
        return net.head(pooled(net.b(torch.fft.irfft2(f, s=(16, 16), norm="ortho"))))

    return Net(
        run,
        a=block(3, 8),
        filter=nn.Parameter(torch.randn(8, 16, 9, 2)),
        b=block(8, 8),
        head=nn.Linear(8, 5),
    )
