"""Loose parameters, functional layers, shared and tied weights, weights that are computed."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from ..graph import Net, Shelf, block, conv, images, pooled, tokens

shelf = Shelf()


@shelf.add(cut="a b", whole="head")
def layer_scale_and_shift() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x) * net.scale + net.shift)
        return net.head(pooled(x + net.gamma[:, None, None] * net.b(x)))

    return Net(
        run,
        a=conv(3, 16),
        scale=nn.Parameter(torch.ones(1, 16, 1, 1)),
        shift=nn.Parameter(torch.zeros(16, 1, 1)),
        gamma=nn.Parameter(torch.full((16,), 1e-5)),
        b=conv(16, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="patches hidden", whole="head")
def class_token_and_position_map() -> nn.Module:
    """No normalisation, so that the token width itself may go."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1) + net.position
        x = x + net.out(F.gelu(net.hidden(x)))
        return net.head(x[:, 0] + x[:, 1:].mean(1))

    return Net(
        run,
        patches=nn.Conv2d(3, 16, 4, 4),
        token=nn.Parameter(torch.zeros(1, 1, 16)),
        position=nn.Parameter(torch.zeros(1, 17, 16)),
        hidden=nn.Linear(16, 24),
        out=nn.Linear(24, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a.0 b.0", whole="head")
def position_map_over_pixels() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(pooled(net.b(x + F.interpolate(net.map, size=x.shape[2:], mode="bilinear"))))

    return Net(
        run,
        a=block(3, 12),
        map=nn.Parameter(torch.randn(1, 12, 8, 8)),
        b=block(12, 8),
        head=nn.Linear(8, 5),
    )


class Functional(nn.Module):
    """Weights without modules."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(16, 3, 3, 3) * 0.2)
        self.shift = nn.Parameter(torch.randn(16) * 0.1)
        self.wise = nn.Parameter(torch.randn(16, 1, 3, 3) * 0.3)
        self.mix, self.last = nn.Parameter(torch.randn(12, 16) * 0.2), nn.Parameter(torch.randn(12, 5))
        self.bn_weight, self.bn_bias = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("var", torch.ones(16))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, self.shift, padding=1)
        x = F.batch_norm(x, self.mean, self.var, self.bn_weight, self.bn_bias, self.training)
        x = F.conv2d(F.relu(x), self.wise, padding=1, groups=16)
        return F.relu(F.linear(pooled(x), self.mix)) @ self.last


@shelf.add(cut="kernel wise mix")
def functional_layers_with_own_parameters() -> nn.Module:
    return Functional()


@shelf.add(cut="a.0", whole="head")
def products_with_a_parameter() -> nn.Module:
    """matmul, einsum, addmm and bmm with loose parameters as weights."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x).flatten(2).transpose(1, 2)
        x = F.relu(torch.matmul(x, net.one))
        x = F.relu(torch.einsum("bnc,dc->bnd", x, net.two))
        return net.head(torch.addmm(net.shift, x.mean(1), net.three))

    return Net(
        run,
        a=block(3, 12),
        one=nn.Parameter(torch.randn(12, 16) * 0.2),
        two=nn.Parameter(torch.randn(10, 16) * 0.2),
        shift=nn.Parameter(torch.randn(8)),
        three=nn.Parameter(torch.randn(10, 8) * 0.2),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0", whole="head")
def one_weight_a_head() -> nn.Module:
    """Linear layers of several heads in one three-dimensional parameter."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = pooled(net.a(x))
        x = F.relu(torch.einsum("bi,hio->bho", x, net.up) + net.shift)
        return net.head(torch.einsum("bho,hoi->bi", x, net.down))

    return Net(
        run,
        a=block(3, 12),
        up=nn.Parameter(torch.randn(4, 12, 6) * 0.2),
        shift=nn.Parameter(torch.randn(4, 6)),
        down=nn.Parameter(torch.randn(4, 6, 8) * 0.2),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 b.0 hidden", whole="head")
def shared_modules() -> nn.Module:
    """One block is used three times, one linear layer at two places."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        for _ in range(3):
            x = net.b(x) + x
        one, two = net.hidden(x.mean((2, 3))), net.hidden(x.amax((2, 3)))
        return net.head(F.relu(one) * F.relu(two))

    return Net(run, a=block(3, 12), b=block(12, 12), hidden=nn.Linear(12, 16), head=nn.Linear(16, 5))


@shelf.add(cut="a b.0", whole="head")
def one_convolution_for_two_streams() -> nn.Module:
    """The same weight reads two tensors of different layers, so those are coupled."""

    def run(net: Net, x: Tensor) -> Tensor:
        one, two = net.b(F.relu(net.a(x))), net.b(F.relu(net.c(x)))
        return net.head(pooled(one - two))

    return Net(run, a=conv(3, 12), c=conv(3, 12, 5), b=block(12, 8), head=nn.Linear(8, 5))


class Tied(nn.Module):
    """The embedding's table is the head's weight: the vocabulary stays, the features may go."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden = nn.Embedding(20, 12), nn.Linear(12, 24)
        self.back, self.head = nn.Linear(24, 12), nn.Linear(12, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        return self.head(x + self.back(F.gelu(self.hidden(x))))


@shelf.add(cut="hidden back", whole="head", batch=tokens(6, 20))
def tied_embedding_and_head() -> nn.Module:
    return Tied()


@shelf.add(cut="hidden", batch=images(10))
def autoencoder_with_tied_weights() -> nn.Module:
    """The decoder is the encoder's transpose; its output is as wide as the input."""

    def run(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(net.hidden(x))
        code = F.relu(net.code(h))
        h = F.relu(F.linear(code, net.code.weight.t()))
        return F.linear(h, net.hidden.weight.t()), code

    return Net(run, hidden=nn.Linear(10, 16), code=nn.Linear(16, 4))


@shelf.add(cut="b", whole="head")
def weight_norm_parametrization() -> nn.Module:
    """The weight is computed from a length and a direction for each output."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        return net.head(pooled(F.relu(net.b(x))))

    return Net(run, a=parametrizations.weight_norm(conv(3, 12)), b=conv(12, 12), head=nn.Linear(12, 5))


@shelf.add(cut="c.0", whole="head")
def spectral_norm_parametrization() -> nn.Module:
    """The weight is divided by its largest singular value, which a cut would change."""

    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(pooled(net.c(F.relu(net.b(net.a(x))))))

    b = parametrizations.spectral_norm(conv(12, 12))
    return Net(run, a=block(3, 12), b=b, c=block(12, 8), head=nn.Linear(8, 5))


class StandardConv(nn.Conv2d):
    """Its weight is standardised over inputs and taps before use."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


@shelf.add(cut="c", whole="head")
def weight_standardisation() -> nn.Module:
    """Inputs of such a convolution stay, its outputs may go."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.b(F.relu(net.a(x))))
        return net.head(pooled(F.relu(net.c(x))))

    return Net(
        run,
        a=conv(3, 12),
        b=StandardConv(12, 12, 3, padding=1),
        c=conv(12, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0", whole="head")
def weights_made_by_a_network() -> nn.Module:
    """A depthwise kernel for every image, computed from the image."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.c(net.a(x))
        b, c, h, w = x.shape
        kernels = net.kernels(pooled(x)).view(b * c, 1, 3, 3)
        y = F.conv2d(x.reshape(1, b * c, h, w), kernels, padding=1, groups=b * c)
        return net.head(pooled(y.view(b, c, h, w)))

    return Net(run, a=block(3, 12), c=block(12, 8), kernels=nn.Linear(8, 72), head=nn.Linear(8, 5))


@shelf.add(cut="c.0", whole="head")
def mixture_of_kernels() -> nn.Module:
    """CondConv: each image mixes four kernels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        b, _, h, w = x.shape
        gates = torch.sigmoid(net.route(pooled(x)))
        kernels = (gates @ net.kernels).view(b * 12, 12, 3, 3)
        y = F.conv2d(x.reshape(1, -1, h, w), kernels, padding=1, groups=b).view(b, 12, h, w)
        return net.head(pooled(net.c(y)))

    return Net(
        run,
        a=block(3, 12),
        route=nn.Linear(12, 4),
        kernels=nn.Parameter(torch.randn(4, 12 * 12 * 9) * 0.1),
        c=block(12, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a.0 one.0 two.0", whole="head route")
def soft_mixture_of_experts() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        gates = net.route(pooled(x)).softmax(-1)
        experts = torch.stack([net.one(x), net.two(x), net.three(x)], 1)
        return net.head(pooled((gates[:, :, None, None, None] * experts).sum(1)))

    return Net(
        run,
        a=block(3, 12),
        route=nn.Linear(12, 3),
        one=block(12, 8),
        two=block(12, 8, 5),
        three=block(12, 8, 1),
        head=nn.Linear(8, 5),
    )


class Normalised(nn.Module):
    """Features are normalised by constants that are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv(3, 12), block(12, 8), nn.Linear(8, 5)
        self.register_buffer("mean", torch.linspace(-0.1, 0.1, 12).view(1, -1, 1, 1))
        self.register_buffer("std", torch.linspace(0.5, 2, 12).view(12, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(pooled(self.b((self.a(x) - self.mean) / self.std)))


@shelf.add(cut="a b.0", whole="head")
def normalised_by_buffers() -> nn.Module:
    return Normalised()


@shelf.add(cut="a", whole="classes", batch=images(3, 8, 8))
def prototypes_by_cosine() -> nn.Module:
    """Features and class vectors are scaled to length one; zeros do not change a length."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.normalize(pooled(F.relu(net.a(x))), dim=1)
        return 10 * F.linear(x, F.normalize(net.classes, dim=1))

    return Net(run, a=conv(3, 16), classes=nn.Parameter(torch.randn(5, 16)))


@shelf.add(cut="a.0 b.0", whole="head", batch=images(3, 8, 8))
def bilinear_layer() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        return net.head(F.relu(net.pairs(pooled(x), pooled(net.b(x)))))

    return Net(run, a=block(3, 8), b=block(8, 6), pairs=nn.Bilinear(8, 6, 10), head=nn.Linear(10, 5))


class Asking(nn.Module):
    """A block whose first input is a parameter of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(16, 12), nn.Linear(12, 16)

    def forward(self, token: Tensor, x: Tensor) -> Tensor:
        return token + self.out(F.relu(self.mix(x.mean(1, keepdim=True) + token)))


@shelf.add(cut="a ask.mix", whole="head", batch=images(9, 10))
def parameter_given_to_a_module() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        token = net.token.expand(x.shape[0], -1, -1)
        return net.head(net.ask(token, F.relu(net.a(x))).squeeze(1))

    return Net(
        run,
        a=nn.Linear(10, 16),
        token=nn.Parameter(torch.zeros(1, 1, 16)),
        ask=Asking(),
        head=nn.Linear(16, 5),
    )
