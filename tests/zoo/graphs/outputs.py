"""Several inputs and outputs, branches without a use, modes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Many, Net, Pair, Shelf, block, conv, images, pooled, several

shelf = Shelf()


@shelf.add(cut="a.0 b.0", whole="head boxes")
def outputs_in_a_dict() -> nn.Module:
    def run(net: Net, x: Tensor) -> dict[str, object]:
        x = net.b(net.a(x))
        return {"logits": net.head(pooled(x)), "more": {"boxes": net.boxes(x), "none": None}}

    return Net(run, a=block(3, 16), b=block(16, 12), head=nn.Linear(12, 5), boxes=conv(12, 4, 1))


@shelf.add(cut="a.0", whole="b.0 head")
def features_given_back() -> nn.Module:
    """A layer in the middle is an output too, so its width stays."""

    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        x = net.b(net.a(x))
        return net.head(pooled(x)), x

    return Net(run, a=block(3, 16), b=block(16, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a.0 b.0 left right", whole="early late", batch=several((3, 16, 16), (6,)))
def two_inputs_two_outputs() -> nn.Module:
    def run(net: Pair, x: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
        x, y = net.a(x), F.relu(net.left(facts))
        early = net.early(pooled(x))
        x = net.b(x) * torch.sigmoid(net.right(y))[:, :, None, None]
        return early, net.late(torch.cat([pooled(x), y], 1))

    return Pair(
        run,
        a=block(3, 12),
        left=nn.Linear(6, 8),
        right=nn.Linear(8, 16),
        b=block(12, 16),
        early=nn.Linear(12, 5),
        late=nn.Linear(24, 5),
    )


@shelf.add(cut="a.0 scale shift", whole="head", batch=several((3, 12, 12), (6,)))
def features_modulated_by_a_second_input() -> nn.Module:
    """FiLM: a second network gives a scale and a shift for every channel."""

    def run(net: Pair, x: Tensor, facts: Tensor) -> Tensor:
        x = net.a(x) * net.scale(facts)[..., None, None] + net.shift(facts)[..., None, None]
        return net.head(pooled(F.relu(x)))

    return Pair(
        run,
        a=block(3, 16),
        scale=nn.Linear(6, 16),
        shift=nn.Linear(6, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0", batch=several((3, 12, 12), (3, 12, 12)))
def twins() -> nn.Module:
    """`forward` takes any number of inputs. One network looks at two images; the answer is how far apart they are."""

    def run(net: Many, one: Tensor, two: Tensor) -> Tensor:
        one, two = (net.b(pooled(net.a(x))) for x in (one, two))
        return (one - two).square().sum(1) + (one * two).sum(1)

    return Many(run, a=block(3, 16), b=nn.Linear(16, 12))


class Answer(NamedTuple):
    logits: Tensor
    extra: list[Tensor]


@shelf.add(cut="a.0 b.0 aux.0", whole="head exit")
def exits_on_the_way() -> nn.Module:
    def run(net: Net, x: Tensor) -> Answer:
        x = net.a(x)
        early = net.exit(pooled(net.aux(x)))
        return Answer(net.head(pooled(net.b(x))), [early, early.softmax(-1)])

    return Net(
        run,
        a=block(3, 12),
        aux=block(12, 8),
        exit=nn.Linear(8, 5),
        b=block(12, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0", whole="head")
def dead_branch_and_layer_without_use() -> nn.Module:
    """One branch is computed and thrown away, one layer is never called."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        net.dead(x)
        return net.head(pooled(x))

    return Net(
        run,
        a=block(3, 12),
        dead=block(12, 16),
        idle=nn.Linear(7, 9),
        head=nn.Linear(12, 5),
    )


class OnlyWhenTraining(nn.Module):
    """An auxiliary head that runs in training mode only, as in Inception."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 12), block(12, 16)
        self.aux, self.head = nn.Sequential(conv(12, 8, 1), nn.ReLU()), nn.Linear(16, 5)
        self.last, self.drop = nn.Linear(8, 5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.a(x)
        out = self.head(self.drop(pooled(self.b(x))))
        return (out, self.last(pooled(self.aux(x)))) if self.training else out


@shelf.add(cut="b.0", whole="head")
def auxiliary_head_in_training_only() -> nn.Module:
    return OnlyWhenTraining()


@shelf.add(cut="a.0 b.0", whole="head")
def left_in_training_mode() -> nn.Module:
    """Dropout and batch statistics are on; the analysis must not depend on it nor change it."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(F.dropout(pooled(net.b(net.drop(net.a(x)))), 0.5, net.training))

    net = Net(run, a=block(3, 12), drop=nn.Dropout2d(0.5), b=block(12, 16), head=nn.Linear(16, 5))
    return net.train()


@shelf.add(cut="a.0", whole="mask")
def masks_over_an_input_image() -> nn.Module:
    """The answer is the image itself, weighted."""

    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.sigmoid(net.mask(net.a(x)))
        return x * mask, (x * mask).mean((1, 2, 3))

    return Net(run, a=block(3, 12), mask=conv(12, 1))


@shelf.add(cut="a.0", whole="keys boxes", batch=images(3, 16, 16))
def decoded_boxes_and_key_points() -> nn.Module:
    """Detection heads whose outputs are decoded by numbers: slices, exponentials, a softmax over bins."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        boxes, keys = net.boxes(x).flatten(2), net.keys(x)
        centre, size = boxes[:, :2].sigmoid() * 2 - 0.5, boxes[:, 2:4].exp()
        bins = boxes[:, 4:].unflatten(1, (2, 4)).softmax(2)
        distance = (bins * torch.arange(4.0).view(1, 1, 4, 1)).sum(2)
        b, k, h, w = keys.shape
        heat = keys.view(b, k, -1).softmax(-1).view(b, k, h, w)
        rows = (heat.sum(3) * torch.arange(float(h))).sum(-1)
        return torch.cat([centre, size, distance, rows[:, :, None].expand(-1, -1, h * w)], 1)

    return Net(run, a=block(3, 16), boxes=conv(16, 12, 1), keys=conv(16, 3, 1))


@shelf.add(cut="a.0 down.0 up.0", whole="mean spread last")
def variational_autoencoder() -> nn.Module:
    """Mean and spread are outputs; the noise is left out in evaluation."""

    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = net.down(net.a(x))
        mean, spread = net.mean(code), net.spread(code)
        if net.training:
            mean = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        return net.last(F.interpolate(net.up(mean), scale_factor=2)), mean, spread

    return Net(
        run,
        a=block(3, 12),
        down=block(12, 16, stride=2),
        mean=conv(16, 4, 1),
        spread=conv(16, 4, 1),
        up=block(4, 12),
        last=conv(12, 3),
    )


@shelf.add(cut="patches hidden", whole="head")
def batch_size_by_len() -> nn.Module:
    """`len(x)` is a plain number to whoever follows the model, `x.shape[0]` is not."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.patches(x)
        x = torch.cat([net.token.expand(len(x), -1, -1), x.view(len(x), 16, 16).transpose(1, 2)], 1)
        return net.head(F.relu(net.hidden(x)).mean(1))

    return Net(
        run,
        patches=nn.Conv2d(3, 16, 4, 4),
        token=nn.Parameter(torch.zeros(1, 1, 16)),
        hidden=nn.Linear(16, 12),
        head=nn.Linear(12, 5),
    )
