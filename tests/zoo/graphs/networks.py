"""Whole networks of other kinds than the usual classifier, small."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ..graph import Net, Pair, Shelf, block, conv, images, pooled, several, tokens

shelf = Shelf()


class LeNet(nn.Module):
    """As in the tutorials: the flattened size is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 2 * 2, 24), nn.Linear(24, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.view(-1, 16 * 2 * 2)))
        return F.log_softmax(self.fc3(F.relu(self.fc2(x))), dim=1)


@shelf.add(cut="conv1 conv2 fc1 fc2", whole="fc3")
def lenet() -> nn.Module:
    return LeNet()


@shelf.add(cut="squeeze one three squeeze2", whole="head")
def fire_modules() -> nn.Module:
    """SqueezeNet; the classifier is a convolution, pooled after."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.squeeze(x))
        x = torch.cat([F.relu(net.one(x)), F.relu(net.three(x))], 1)
        return torch.flatten(F.adaptive_avg_pool2d(F.relu(net.head(F.relu(net.squeeze2(x)))), 1), 1)

    return Net(
        run,
        squeeze=conv(3, 8, 1),
        one=conv(8, 12, 1),
        three=conv(8, 12),
        squeeze2=conv(24, 8, 1),
        head=conv(8, 5, 1),
    )


@shelf.add(cut="a.0 wide.0 image.0 mix.0", whole="head")
def atrous_pyramid() -> nn.Module:
    """DeepLab: one branch is pooled to a single pixel and spread again."""

    def run(net: Net, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = net.a(x)
        image = F.interpolate(net.image(F.adaptive_avg_pool2d(x, 1)), size=x.shape[-2:], mode="bilinear")
        x = net.mix(torch.cat([net.point(x), net.wide(x), image], 1))
        return F.interpolate(net.head(x), size=size, mode="bilinear", align_corners=False)

    wide = nn.Sequential(nn.Conv2d(12, 8, 3, padding=6, dilation=6, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return Net(
        run,
        a=block(3, 12, stride=2),
        point=block(12, 8, 1),
        wide=wide,
        image=block(12, 8, 1),
        mix=block(24, 12, 1),
        head=conv(12, 3, 1),
    )


@shelf.add(cut="enc.0 dec.0 gate_x gate_g", whole="head psi")
def attention_unet() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        skip = net.enc(x)
        x = F.interpolate(net.deep(F.max_pool2d(skip, 2)), scale_factor=2, mode="nearest")
        psi = torch.sigmoid(net.psi(F.relu(net.gate_x(skip) + net.gate_g(x))))
        return net.head(net.dec(torch.cat([skip * psi, x], 1)))

    return Net(
        run,
        enc=block(3, 8),
        deep=block(8, 16),
        gate_x=conv(8, 6, 1),
        gate_g=conv(16, 6, 1),
        psi=conv(6, 1, 1),
        dec=block(24, 8),
        head=conv(8, 2, 1),
    )


@shelf.add(cut="a.0 left.0 right.0", whole="head")
def hourglass() -> nn.Module:
    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        x = net.a(x)
        y = x + F.interpolate(net.right(F.max_pool2d(net.left(x), 2)), scale_factor=2)
        heat = net.head(y)
        return heat, net.head(y + net.back(heat))

    return Net(
        run, a=block(3, 12), left=block(12, 8), right=block(8, 12), head=conv(12, 4, 1), back=conv(4, 12, 1)
    )


@shelf.add(cut="down mid.1 up", whole="last.1")
def image_translation_generator() -> nn.Module:
    """Reflection padding as modules, InstanceNorm, transposed convolution, tanh."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.n1(net.down(x)))
        x = x + net.n2(net.mid(x))
        return torch.tanh(net.last(F.relu(net.n3(net.up(x)))))

    return Net(
        run,
        down=nn.Conv2d(3, 12, 3, stride=2, padding=1),
        n1=nn.InstanceNorm2d(12),
        mid=nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(12, 12, 3)),
        n2=nn.InstanceNorm2d(12),
        up=nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1, output_padding=1),
        n3=nn.InstanceNorm2d(8),
        last=nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(8, 3, 7)),
    )


@shelf.add(cut="a style", whole="head", batch=several((3, 12, 12), (6,)))
def adaptive_instance_normalisation() -> nn.Module:
    """A style gives each channel's mean and spread, in one layer that is taken apart."""

    def run(net: Pair, x: Tensor, code: Tensor) -> Tensor:
        x = net.a(x)
        scale, shift = net.style(code)[:, :, None, None].chunk(2, 1)
        x = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
        return net.head(F.relu(x * (1 + scale) + shift))

    return Pair(run, a=conv(3, 16), style=nn.Linear(6, 32), head=conv(16, 3, 1))


@shelf.add(cut="first filter", whole="out.2", batch=images(1, 40))
def wavenet() -> nn.Module:
    """Dilated causal convolutions with a gate, a residual and a skip connection."""

    def run(net: Net, x: Tensor) -> Tensor:
        x, skips = net.first(x), 0
        for step, mix in ((1, net.filter), (2, net.filter2)):
            y = mix(F.pad(x, (step, 0)))
            one, two = y.chunk(2, 1)
            y = torch.tanh(one) * torch.sigmoid(two)
            skips = skips + net.skip(y)
            x = x + net.residual(y)
        return net.out(skips)

    return Net(
        run,
        first=nn.Conv1d(1, 12, 1),
        filter=nn.Conv1d(12, 16, 2),
        filter2=nn.Conv1d(12, 16, 2, dilation=2),
        skip=nn.Conv1d(8, 10, 1),
        residual=nn.Conv1d(8, 12, 1),
        out=nn.Sequential(nn.ReLU(), nn.Conv1d(10, 12, 1), nn.Conv1d(12, 4, 1)),
    )


@shelf.add(cut="down", whole="head", batch=images(4, 20))
def temporal_convolutions_with_weight_norm() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y = F.relu(net.one(x)[:, :, :-2].contiguous())
        y = F.relu(net.two(y)[:, :, :-4].contiguous())
        return net.head(F.relu(net.down(F.relu(y + net.short(x)))[:, :, -1]))

    return Net(
        run,
        one=parametrizations.weight_norm(nn.Conv1d(4, 12, 3, padding=2)),
        two=parametrizations.weight_norm(nn.Conv1d(12, 12, 3, padding=4, dilation=2)),
        short=nn.Conv1d(4, 12, 1),
        down=nn.Conv1d(12, 8, 1),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="into up", whole="head", batch=images(12, 16))
def conformer_convolution() -> nn.Module:
    """LayerNorm, GLU over channels, depthwise 1-D convolution, BatchNorm, in one residual branch."""

    def run(net: Net, x: Tensor) -> Tensor:
        y = F.glu(net.into(net.norm(x).transpose(1, 2)), dim=1)
        y = net.out(F.silu(net.bn(net.wise(y)))).transpose(1, 2)
        x = x + y
        return net.head((x + 0.5 * net.down(F.silu(net.up(x)))).mean(1))

    return Net(
        run,
        norm=nn.LayerNorm(16),
        into=nn.Conv1d(16, 40, 1),
        wise=nn.Conv1d(20, 20, 5, padding=2, groups=20),
        bn=nn.BatchNorm1d(20),
        out=nn.Conv1d(20, 16, 1),
        up=nn.Linear(16, 32),
        down=nn.Linear(32, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a b c", whole="head", batch=images(3, 24))
def point_net() -> nn.Module:
    """Points are turned by a matrix that a small network computes, and features are pooled over points."""

    def run(net: Net, points: Tensor) -> Tensor:
        turn = net.turn(F.relu(net.a(points)).amax(-1)).view(-1, 3, 3)
        turn = turn + torch.eye(3).expand(points.shape[0], 3, 3)
        x = torch.bmm(points.transpose(1, 2), turn).transpose(1, 2)
        x = F.relu(net.b(x))
        whole = x.amax(-1, keepdim=True).expand(-1, -1, x.shape[-1])
        return net.head(F.relu(net.c(torch.cat([x, whole], 1))))

    return Net(
        run,
        a=nn.Conv1d(3, 12, 1),
        turn=nn.Linear(12, 9),
        b=nn.Conv1d(3, 16, 1),
        c=nn.Conv1d(32, 12, 1),
        head=nn.Conv1d(12, 4, 1),
    )


@shelf.add(cut="a b.0", whole="head", batch=images(3, 24))
def edge_convolution() -> nn.Module:
    """Each point is compared with its nearest neighbours, found by distance in the input."""

    def run(net: Net, points: Tensor) -> Tensor:
        places = points.transpose(1, 2)
        near = torch.cdist(places, places).topk(4, largest=False).indices
        x = F.relu(net.a(points))
        index = near.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
        others = torch.gather(x, 2, index).unflatten(2, (-1, 4))
        own = x.unsqueeze(-1).expand_as(others)
        return net.head(net.b(torch.cat([others - own, own], 1)).amax(-1).mean(-1))

    return Net(run, a=nn.Conv1d(3, 12, 1), b=block(24, 16, 1), head=nn.Linear(16, 5))


class Detr(nn.Module):
    """Features become tokens, learned queries ask them, boxes and classes come out."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.project = nn.Sequential(block(3, 16), block(16, 24, stride=2)), conv(24, 16, 1)
        layer = nn.TransformerDecoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 1)
        self.queries, self.places = nn.Embedding(5, 16), nn.Parameter(torch.rand(1, 64, 16))
        self.classes = nn.Linear(16, 4)
        self.boxes = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        memory = self.project(self.backbone(x)).flatten(2).permute(0, 2, 1) + self.places
        asked = self.queries.weight.unsqueeze(0).repeat(x.shape[0], 1, 1)
        y = self.decoder(asked, memory)
        return {"logits": self.classes(y), "boxes": self.boxes(y).sigmoid()}


@shelf.add(cut="backbone.0.0 backbone.1.0 decoder.layers.0.linear1 boxes.0", whole="classes boxes.2")
def detection_transformer() -> nn.Module:
    return Detr()


@shelf.add(cut="c1.0 c2.0", whole="box1 box2 class1 class2")
def single_shot_detector() -> nn.Module:
    """Heads of several levels are permuted, flattened and put together; channels are anchors times numbers."""

    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        one = net.c1(x)
        two = net.c2(one)
        boxes, scores = [], []
        for level, box, score in ((one, net.box1, net.class1), (two, net.box2, net.class2)):
            b = level.size(0)
            boxes.append(box(level).permute(0, 2, 3, 1).contiguous().view(b, -1, 4))
            scores.append(score(level).permute(0, 2, 3, 1).reshape(b, -1, 3))
        return torch.cat(boxes, 1), torch.cat(scores, 1).softmax(-1)

    return Net(
        run,
        c1=block(3, 12),
        c2=block(12, 16, stride=2),
        box1=conv(12, 8),
        box2=conv(16, 8),
        class1=conv(12, 6),
        class2=conv(16, 6),
    )


class Yolo3Head(nn.Module):
    """Anchors are taken out of the channels, and boxes are decoded with a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = block(3, 12), block(12, 16, stride=2), conv(16, 3 * 7, 1)
        self.register_buffer("anchors", torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.out(self.b(self.a(x)))
        b, _, h, w = raw.shape
        raw = raw.view(b, 3, 7, h, w).permute(0, 1, 3, 4, 2).contiguous()
        rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        y = raw.sigmoid()
        places = (y[..., :2] * 2 - 0.5 + torch.stack((columns, rows), -1)) * 2
        sizes = (y[..., 2:4] * 2) ** 2 * self.anchors.view(1, 3, 1, 1, 2)
        return torch.cat((places, sizes, y[..., 4:]), -1).view(b, -1, 7), raw


@shelf.add(cut="a.0 b.0", whole="out")
def anchors_decoded_on_a_grid() -> nn.Module:
    return Yolo3Head()


class Distribution(nn.Module):
    """YOLOv8: a frozen convolution of weights 0, 1, 2, … takes the mean of a distribution over bins."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.box, self.mean = block(3, 12), conv(12, 16, 1), nn.Conv2d(4, 1, 1, bias=False)
        self.mean.weight.data[:] = torch.arange(4.0).view(1, 4, 1, 1)
        self.mean.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.box(self.a(x))
        b, _, h, w = x.shape
        return self.mean(x.view(b, 4, 4, h * w).transpose(2, 1).softmax(1)).view(b, 4, h * w)


@shelf.add(cut="a.0", whole="box")
def distribution_over_bins() -> nn.Module:
    return Distribution()


@shelf.add(cut="a.0 b.0", whole="classes", batch=images(3, 16, 16))
def masks_from_prototypes() -> nn.Module:
    """YOLACT: coefficients times prototypes are masks, a product of two branches."""

    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        x = net.a(x)
        protos = net.protos(net.b(x))
        weights = torch.tanh(net.coefficients(pooled(x)).view(-1, 3, 6))
        masks = torch.einsum("bnk,bkhw->bnhw", weights, protos)
        return masks.sigmoid(), net.classes(pooled(x))

    return Net(
        run,
        a=block(3, 12),
        b=block(12, 8),
        protos=conv(8, 6, 1),
        coefficients=nn.Linear(12, 18),
        classes=nn.Linear(12, 4),
    )


class Gpt(nn.Module):
    """A language model: causal mask in a buffer, fused projection, tied embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 16), nn.Embedding(8, 16)
        self.n1, self.n2, self.n3 = nn.LayerNorm(16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("mask", torch.tril(torch.ones(8, 8)).view(1, 1, 8, 8))

    def forward(self, words: Tensor) -> Tensor:
        b, n = words.shape
        x = self.words(words) + self.places(torch.arange(n))
        q, k, v = self.qkv(self.n1(x)).split(16, dim=2)
        q, k, v = (t.view(b, n, 4, 4).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1)) * (1.0 / 2.0)
        weights = weights.masked_fill(self.mask[:, :, :n, :n] == 0, float("-inf")).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).contiguous().view(b, n, 16))
        x = x + self.down(F.gelu(self.up(self.n2(x))))
        return self.head(self.n3(x))


@shelf.add(cut="qkv up", whole="head", batch=tokens(6, 20))
def language_model() -> nn.Module:
    return Gpt()


@shelf.add(cut="c1 c2 hidden", whole="head", batch=tokens(9, 20))
def words_through_convolutions() -> nn.Module:
    """Text classification: kernels of several lengths, largest over time."""

    def run(net: Net, words: Tensor) -> Tensor:
        x = net.words(words).transpose(1, 2)
        x = torch.cat([F.relu(c(x)).amax(-1) for c in (net.c1, net.c2)], 1)
        return net.head(F.relu(net.hidden(x)))

    return Net(
        run,
        words=nn.Embedding(20, 8, padding_idx=0),
        c1=nn.Conv1d(8, 12, 3),
        c2=nn.Conv1d(8, 10, 4),
        hidden=nn.Linear(22, 12),
        head=nn.Linear(12, 5),
    )


@shelf.add(cut="words.weight rnn.weight_hh_l0", whole="head", batch=tokens(9, 20))
def words_through_lstm() -> nn.Module:
    def run(net: Net, words: Tensor) -> Tensor:
        y, _ = net.rnn(net.words(words))
        return net.head(y)

    return Net(run, words=nn.Embedding(20, 12), rnn=nn.LSTM(12, 16, batch_first=True), head=nn.Linear(16, 6))


@shelf.add(cut="one two", whole="head", batch=images(2))
def sine_network_on_random_features() -> nn.Module:
    """Coordinates, a fixed matrix, sines: nothing is zero where a channel is masked but its own row."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = x @ net.frequencies
        x = torch.cat([x.sin(), x.cos()], -1)
        return net.head(torch.sin(30 * net.two(torch.sin(net.one(x)))))

    net = Net(run, one=nn.Linear(16, 24), two=nn.Linear(24, 24), head=nn.Linear(24, 3))
    net.register_buffer("frequencies", torch.randn(2, 8))
    return net


@shelf.add(cut="encode.0 encode.3", whole="predict.3", batch=images(10))
def self_supervised_heads() -> nn.Module:
    """BYOL: projector and predictor with BatchNorm1d; two answers, one not followed by gradients."""

    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        z = net.encode(x)
        return net.predict(z), F.normalize(z.detach(), dim=-1)

    return Net(
        run,
        encode=nn.Sequential(
            nn.Linear(10, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 8)
        ),
        predict=nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8)),
    )


@shelf.add(cut="into", whole="head", batch=images(9, 10))
def gated_state_space_block() -> nn.Module:
    """Mamba without its scan: one layer gives signal and gate, a causal depthwise convolution is cropped."""

    def run(net: Net, x: Tensor) -> Tensor:
        length = x.shape[1]
        signal, gate = net.into(x).chunk(2, dim=-1)
        signal = net.wise(signal.transpose(1, 2))[..., :length].transpose(1, 2)
        return net.head(net.out(F.silu(signal) * F.silu(gate)).mean(1))

    return Net(
        run,
        into=nn.Linear(10, 32),
        wise=nn.Conv1d(16, 16, 3, padding=2, groups=16),
        out=nn.Linear(16, 10),
        head=nn.Linear(10, 5),
    )


@shelf.add(cut="a.0 b.0 c.0", whole="head")
def nested_skip_network() -> nn.Module:
    """UNet++: nodes of a grid read all nodes before them."""

    def run(net: Net, x: Tensor) -> Tensor:
        a = net.a(x)
        b = net.b(F.max_pool2d(a, 2))
        c = net.c(F.max_pool2d(b, 2))
        up = nn.functional.interpolate
        a1 = net.a1(torch.cat([a, up(b, scale_factor=2)], 1))
        b1 = net.b1(torch.cat([b, up(c, scale_factor=2)], 1))
        a2 = net.a2(torch.cat([a, a1, up(b1, scale_factor=2)], 1))
        return (net.head(a1) + net.head(a2)) / 2

    return Net(
        run,
        a=block(3, 6),
        b=block(6, 8),
        c=block(8, 10),
        a1=block(14, 6),
        b1=block(18, 8),
        a2=block(20, 6),
        head=conv(6, 2, 1),
    )


@shelf.add(cut="stem.0 reduce", whole="head")
def residual_features_in_residual_groups() -> nn.Module:
    """RCAN: blocks in groups in a long skip, each block with a gate, then pixel shuffle twice."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = first = net.stem(x)
        for body, reduce, expand in ((net.b1, net.reduce, net.expand), (net.b2, net.reduce2, net.expand2)):
            y = body(x)
            gate = torch.sigmoid(expand(F.relu(reduce(y.mean((2, 3), keepdim=True)))))
            x = x + 0.1 * y * gate
        x = F.pixel_shuffle(net.up(x + first), 2)
        return net.head(F.leaky_relu(x, 0.1))

    return Net(
        run,
        stem=block(3, 16),
        b1=conv(16, 16),
        b2=conv(16, 16),
        reduce=conv(16, 4, 1),
        expand=conv(4, 16, 1),
        reduce2=conv(16, 4, 1),
        expand2=conv(4, 16, 1),
        up=conv(16, 32),
        head=conv(8, 3),
    )


@shelf.add(cut="d1 d2 u1", whole="head")
def pooling_indices_between_encoder_and_decoder() -> nn.Module:
    """SegNet."""

    def run(net: Net, x: Tensor) -> Tensor:
        x, one = F.max_pool2d(F.relu(net.d1(x)), 2, return_indices=True)
        x, two = F.max_pool2d(F.relu(net.d2(x)), 2, return_indices=True)
        x = F.relu(net.u1(F.max_unpool2d(x, two, 2)))
        return net.head(F.max_unpool2d(x, one, 2))

    return Net(run, d1=conv(3, 8), d2=conv(8, 12), u1=conv(12, 8), head=conv(8, 2))
