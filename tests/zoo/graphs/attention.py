"""Attention in its usual forms, whole transformers, and products of two activations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Net, Pair, Shelf, block, conv, images, pooled, several

shelf = Shelf()
TOKENS = images(9, 16)


@shelf.add(cut="a", whole="head", batch=TOKENS)
def torch_attention() -> nn.Module:
    """nn.MultiheadAttention, batch second."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x)).transpose(0, 1)
        y, _ = net.attend(x, x, x, need_weights=False)
        return net.head((x + y).mean(0))

    return Net(run, a=nn.Linear(16, 24), attend=nn.MultiheadAttention(24, 4), head=nn.Linear(24, 5))


@shelf.add(cut="up", whole="head", batch=TOKENS)
def torch_attention_between_normalised() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y = net.n1(x)
        x = x + net.attend(y, y, y)[0]
        return net.head((x + net.down(F.gelu(net.up(net.n2(x))))).mean(1))

    return Net(
        run,
        n1=nn.LayerNorm(16),
        attend=nn.MultiheadAttention(16, 4, batch_first=True),
        n2=nn.LayerNorm(16),
        up=nn.Linear(16, 40),
        down=nn.Linear(40, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a b up", whole="head", batch=several((9, 16), (7, 10)))
def torch_cross_attention() -> nn.Module:
    """Query, key and value of different widths and lengths, bias of their own, weights given back."""

    def run(net: Pair, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        x, memory = F.relu(net.a(x)), F.relu(net.b(memory))
        y, weights = net.attend(x, memory, memory)
        return net.head(F.relu(net.up(y)).mean(1)), weights

    attend = nn.MultiheadAttention(16, 2, kdim=12, vdim=12, batch_first=True, add_bias_kv=True)
    return Pair(
        run,
        a=nn.Linear(16, 16),
        b=nn.Linear(10, 12),
        attend=attend,
        up=nn.Linear(16, 20),
        head=nn.Linear(20, 5),
    )


class Literal(nn.Module):
    """Attention by hand; four heads of six, as numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(16, 24)
        self.out, self.head = nn.Linear(24, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(-1, 9, 4, 6).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-2, -1) / 6**0.5).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(-1, 9, 24)
        return self.head(F.relu(self.out(y)).mean(1))


@shelf.add(cut="q k v out", whole="head", batch=TOKENS)
def heads_as_numbers() -> nn.Module:
    return Literal()


@shelf.add(cut="q k v out", whole="head", batch=TOKENS)
def heads_that_follow() -> nn.Module:
    """The number of heads follows from the width, the head size is a number."""

    def run(net: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, -1, 6).transpose(1, 2) for f in (net.q, net.k, net.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return net.head(F.relu(net.out(y)).mean(1))

    return Net(
        run,
        q=nn.Linear(16, 24),
        k=nn.Linear(16, 24),
        v=nn.Linear(16, 24),
        out=nn.Linear(24, 16),
        head=nn.Linear(16, 5),
    )


class Fused(nn.Module):
    """One layer gives query, key and value, as in timm."""

    def __init__(self, width: int = 24, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(b, n, c))


@shelf.add(cut="attend.qkv", whole="head", batch=TOKENS)
def fused_projection() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(F.relu(net.attend(F.relu(net.a(x)))).mean(1))

    return Net(run, a=nn.Linear(16, 24), attend=Fused(), head=nn.Linear(24, 5))


@shelf.add(cut="qkv", whole="head", batch=TOKENS)
def fused_projection_with_normalised_queries() -> nn.Module:
    """Queries and keys are normalised over the head width, which therefore stays; whole heads may go."""

    def run(net: Net, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).view(x.shape[0], 9, 3, 4, 6).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(net.nq(q), net.nk(k), v)
        return net.head(net.out(y.transpose(1, 2).reshape(x.shape[0], 9, -1)).mean(1))

    return Net(
        run,
        qkv=nn.Linear(16, 72, bias=False),
        nq=nn.LayerNorm(6),
        nk=nn.RMSNorm(6),
        out=nn.Linear(24, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="q kv out", whole="head", batch=TOKENS)
def grouped_queries() -> nn.Module:
    """Eight query heads share four heads of keys and values."""

    def run(net: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = net.q(x).view(b, n, 8, 4).transpose(1, 2)
        k, v = net.kv(x).chunk(2, -1)
        k, v = (t.view(b, n, 4, 4).transpose(1, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return net.head(F.relu(net.out(y.transpose(1, 2).flatten(2))).mean(1))

    return Net(run, q=nn.Linear(16, 32), kv=nn.Linear(16, 32), out=nn.Linear(32, 16), head=nn.Linear(16, 5))


@shelf.add(cut="q kv out", whole="head", batch=TOKENS)
def grouped_queries_by_hand() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = net.q(x).view(b, n, 8, 4).transpose(1, 2)
        k, v = net.kv(x).view(b, n, 2, 4, 4).permute(2, 0, 3, 1, 4).repeat_interleave(2, dim=2)
        y = (q @ k.mT * 0.5).softmax(-1) @ v
        return net.head(F.relu(net.out(y.transpose(1, 2).reshape(b, n, 32))).mean(1))

    return Net(run, q=nn.Linear(16, 32), kv=nn.Linear(16, 32), out=nn.Linear(32, 16), head=nn.Linear(16, 5))


@shelf.add(cut="q out", whole="head", batch=TOKENS)
def one_key_for_all_heads() -> nn.Module:
    """Multi-query attention: keys and values have a single head."""

    def run(net: Net, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = net.q(x).view(b, n, 4, 6).transpose(1, 2)
        k, v = net.kv(x).split(6, -1)
        y = (q @ k.unsqueeze(1).transpose(-1, -2)).softmax(-1) @ v.unsqueeze(1)
        return net.head(F.relu(net.out(y.transpose(1, 2).flatten(2))).mean(1))

    return Net(run, q=nn.Linear(16, 24), kv=nn.Linear(16, 12), out=nn.Linear(24, 16), head=nn.Linear(16, 5))


@shelf.add(cut="q k v out", whole="head", batch=TOKENS)
def einsum_attention() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (4, 6)) for f in (net.q, net.k, net.v))
        weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(6**-0.5).softmax(-1)
        y = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
        return net.head(F.relu(net.out(y)).mean(1))

    return Net(
        run,
        q=nn.Linear(16, 24),
        k=nn.Linear(16, 24),
        v=nn.Linear(16, 24),
        out=nn.Linear(24, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="layers.layers.0.linear1 layers.layers.1.linear1", whole="head", batch=TOKENS)
def torch_transformer_encoder() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        return net.head(net.layers(x).mean(1))

    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    return Net(run, layers=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), head=nn.Linear(16, 5))


@shelf.add(
    cut="layers.encoder.layers.0.linear1 layers.decoder.layers.0.linear1",
    whole="head",
    batch=several((9, 16), (5, 16)),
)
def torch_transformer_with_decoder() -> nn.Module:
    """Both halves, normalised before, with a causal mask."""

    def run(net: Pair, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return net.head(net.layers(source, target, tgt_mask=causal, tgt_is_causal=True))

    layers = nn.Transformer(
        16, 2, 1, 1, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return Pair(run, layers=layers, head=nn.Linear(16, 5))


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 4, 4)
        self.token, self.position = nn.Parameter(torch.zeros(1, 1, 24)), nn.Parameter(torch.zeros(1, 17, 24))
        self.n1, self.attend, self.n2 = nn.LayerNorm(24), Fused(), nn.LayerNorm(24)
        self.up, self.down = nn.Linear(24, 48), nn.Linear(48, 24)
        self.scale = nn.Parameter(torch.full((24,), 1e-4))
        self.norm, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        x = x + self.attend(self.n1(x))
        x = x + self.scale * self.down(F.gelu(self.up(self.n2(x))))
        return self.head(self.norm(x)[:, 0])


@shelf.add(cut="attend.qkv up", whole="head patches", batch=images(3, 16, 16))
def vision_transformer() -> nn.Module:
    return VisionTransformer()


class Window(nn.Module):
    """Attention inside windows of 4x4, shifted, with a table of biases by relative position."""

    def __init__(self, width: int, heads: int, shift: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.heads, self.shift = heads, shift
        self.table = nn.Parameter(torch.randn(49, heads) * 0.1)
        at = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None]) + 3
        self.register_buffer("index", (apart[0] * 7 + apart[1]).flatten())

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        y = self.norm(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = y.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(y.shape[0], 16, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index].view(16, 16, -1).permute(2, 0, 1).unsqueeze(0)
        weights = (q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1) + bias).softmax(-1)
        y = self.proj((weights @ v).transpose(1, 2).reshape(-1, 16, c))
        y = y.view(b, h // 4, w // 4, 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Swin(nn.Module):
    """Two stages of windowed attention with patch merging between."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 2, 2)
        self.one, self.two = Window(16, 2, 0), Window(16, 2, 2)
        self.merge_norm, self.merge = nn.LayerNorm(64), nn.Linear(64, 32, bias=False)
        self.three = Window(32, 4, 0)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(self.patches(x).permute(0, 2, 3, 1)))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        x = self.three(self.merge(self.merge_norm(torch.cat(corners, -1))))
        return self.head(self.norm(x).mean((1, 2)))


@shelf.add(cut="one.qkv one.up two.up three.qkv three.up", whole="head", batch=images(3, 16, 16))
def windows_with_patch_merging() -> nn.Module:
    return Swin()


@shelf.add(cut="out", whole="head", batch=TOKENS)
def biases_by_a_table_and_talking_heads() -> nn.Module:
    """Heads are mixed by a linear layer before and after the softmax, so no head may go."""

    def run(net: Net, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (4, 6)).transpose(1, 2) for f in (net.q, net.k, net.v))
        weights = q @ k.transpose(-2, -1) * 6**-0.5 + net.bias
        weights = net.before(weights.permute(0, 2, 3, 1)).softmax(-2)
        y = net.after(weights).permute(0, 3, 1, 2) @ v
        return net.head(F.relu(net.out(y.transpose(1, 2).flatten(2))).mean(1))

    return Net(
        run,
        q=nn.Linear(16, 24),
        k=nn.Linear(16, 24),
        v=nn.Linear(16, 24),
        bias=nn.Parameter(torch.randn(4, 9, 9)),
        before=nn.Linear(4, 4),
        after=nn.Linear(4, 4),
        out=nn.Linear(24, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="qkv out", whole="head", batch=TOKENS)
def rotary_positions() -> nn.Module:
    """Pairs inside each head are turned by angles; whole heads may go."""

    def turn(t: Tensor, angles: Tensor) -> Tensor:
        one, two = t.chunk(2, -1)
        return t * angles.cos() + torch.cat([-two, one], -1) * angles.sin()

    def run(net: Net, x: Tensor) -> Tensor:
        n = x.shape[1]
        q, k, v = net.qkv(x).chunk(3, -1)
        q, k, v = (t.view(-1, n, 4, 8).transpose(1, 2) for t in (q, k, v))
        angles = torch.arange(n)[:, None] * 10.0 ** -torch.arange(4.0)
        angles = torch.cat([angles, angles], -1)
        y = F.scaled_dot_product_attention(turn(q, angles), turn(k, angles), v, is_causal=True)
        return net.head(F.relu(net.out(y.transpose(1, 2).flatten(2))).mean(1))

    return Net(run, qkv=nn.Linear(16, 96), out=nn.Linear(32, 16), head=nn.Linear(16, 5))


@shelf.add(cut="a", whole="head", batch=images(3, 12, 12))
def attention_between_channels() -> nn.Module:
    """XCiT: the softmax runs over channels of a head; whole heads may go."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x)).flatten(2).transpose(1, 2)
        q, k, v = net.qkv(x).view(x.shape[0], 144, 3, 4, 4).permute(2, 0, 3, 4, 1)
        weights = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        y = (weights * net.heat).softmax(-1) @ v
        return net.head(net.out(y.permute(0, 3, 1, 2).flatten(2)).mean(1))

    return Net(
        run,
        a=conv(3, 12),
        qkv=nn.Linear(12, 48),
        heat=nn.Parameter(torch.ones(4, 1, 1)),
        out=nn.Linear(16, 8),
        head=nn.Linear(8, 5),
    )


@shelf.add(cut="a v.0", whole="head", batch=images(3, 12, 12))
def linear_attention() -> nn.Module:
    """Keys meet values first; queries and keys go through a function that is not zero at zero."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        q, k = (F.elu(f(x)).flatten(2) + 1 for f in (net.q, net.k))
        v = net.v(x).flatten(2)
        context = k @ v.transpose(1, 2)
        y = (q.transpose(1, 2) @ context) / (q.transpose(1, 2) @ k.sum(-1, keepdim=True))
        return net.head(y.mean(1))

    return Net(
        run,
        a=conv(3, 12),
        q=conv(12, 8, 1),
        k=conv(12, 8, 1),
        v=block(12, 16, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="theta phi value", whole="head", batch=images(3, 8, 8))
def non_local_block() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        b, _, h, w = x.shape
        theta = net.theta(x).flatten(2)
        phi, value = (F.max_pool2d(f(x), 2).flatten(2) for f in (net.phi, net.value))
        weights = torch.bmm(theta.transpose(1, 2), phi).softmax(-1)
        y = torch.bmm(weights, value.transpose(1, 2)).transpose(1, 2).reshape(b, -1, h, w)
        return net.head(pooled(x + net.out(y)))

    return Net(
        run,
        a=block(3, 16),
        theta=conv(16, 8, 1),
        phi=conv(16, 8, 1),
        value=conv(16, 8, 1),
        out=conv(8, 16, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="q v up", whole="head", batch=images(3, 8, 8))
def attention_with_fewer_keys() -> nn.Module:
    """PVT: keys and values come from a strided convolution and a LayerNorm."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.a(x)
        b, _, h, w = x.shape
        few = net.norm(net.reduce(x).flatten(2).transpose(1, 2))
        q = net.q(x.flatten(2).transpose(1, 2)).view(b, h * w, 2, -1).transpose(1, 2)
        k, v = (f(few).view(b, few.shape[1], 2, -1).transpose(1, 2) for f in (net.k, net.v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = (net.out(y)).transpose(1, 2).reshape(b, -1, h, w)
        return net.head(pooled(net.down(F.gelu(net.wise(net.up(x))))))

    return Net(
        run,
        a=block(3, 16),
        reduce=nn.Conv2d(16, 16, 2, 2),
        norm=nn.LayerNorm(16),
        q=nn.Linear(16, 16),
        k=nn.Linear(16, 16),
        v=nn.Linear(16, 16),
        out=nn.Linear(16, 16),
        up=conv(16, 32, 1),
        wise=conv(32, 32, groups=32),
        down=conv(32, 16, 1),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a up", whole="head", batch=images(3, 8, 8))
def learned_queries_ask_pixels() -> nn.Module:
    """Latent vectors, as in Perceiver and DETR."""

    def run(net: Net, x: Tensor) -> Tensor:
        memory = F.relu(net.a(x)).flatten(2).transpose(1, 2)
        latent = net.queries.expand(x.shape[0], -1, -1)
        k, v = net.k(memory), net.v(memory)
        latent = F.scaled_dot_product_attention(latent, k, v)
        return net.head(F.relu(net.up(latent)))

    return Net(
        run,
        a=conv(3, 16),
        queries=nn.Parameter(torch.randn(1, 4, 8)),
        k=nn.Linear(16, 8),
        v=nn.Linear(16, 12),
        up=nn.Linear(12, 16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="a", whole="head", batch=images(3, 8, 8))
def pooled_by_attention() -> nn.Module:
    """Pixels are averaged with weights from a softmax over pixels."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.a(x)).flatten(2)
        weights = net.score(x.transpose(1, 2)).softmax(1)
        return net.head((x @ weights).squeeze(-1))

    return Net(run, a=conv(3, 16), score=nn.Linear(16, 1), head=nn.Linear(16, 5))


@shelf.add(cut="b.0", whole="head", batch=images(3, 8, 8))
def sigmoid_gate_contracted() -> nn.Module:
    """A masked channel is one half after the sigmoid and still counts in the product of activations."""

    def run(net: Net, x: Tensor) -> Tensor:
        gate = torch.sigmoid(net.gate(x)).flatten(2)
        x = gate.transpose(1, 2) @ gate
        return net.head(pooled(net.b(x.unsqueeze(1))))

    return Net(run, gate=conv(3, 12), b=block(1, 8), head=nn.Linear(8, 5))


@shelf.add(cut="v.0", whole="head", batch=images(3, 8, 8))
def softmax_gate_contracted() -> nn.Module:
    """Channels of the gate compete in a softmax, then are summed over."""

    def run(net: Net, x: Tensor) -> Tensor:
        gate = net.gate(x).flatten(2).softmax(1)
        value = net.v(x).flatten(2)
        codes = gate @ value.transpose(1, 2)
        return net.head((gate.transpose(1, 2) @ codes).mean(1))

    return Net(run, gate=conv(3, 6), v=block(3, 12), head=nn.Linear(12, 5))


@shelf.add(cut="a.0", whole="head", batch=images(3, 8, 8))
def outer_product_of_features() -> nn.Module:
    """Bilinear pooling: every pair of channels is a feature."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = net.b(net.a(x)).flatten(2)
        pairs = (x @ x.transpose(1, 2) / x.shape[-1]).flatten(1)
        return net.head(F.normalize(pairs.sign() * (pairs.abs() + 1e-5).sqrt()))

    return Net(run, a=block(3, 12), b=conv(12, 8), head=nn.Linear(64, 5))


@shelf.add(cut="image.0 word", batch=several((3, 8, 8), (7,)))
def two_towers_compared() -> nn.Module:
    """As CLIP: two encoders end in vectors of length one, whose products are the answer."""

    def run(net: Pair, x: Tensor, words: Tensor) -> Tensor:
        x = F.normalize(net.project(pooled(net.image(x))), dim=-1)
        y = F.normalize(net.last(F.relu(net.word(words))), dim=-1)
        return net.heat.exp() * x @ y.t()

    return Pair(
        run,
        image=block(3, 16),
        project=nn.Linear(16, 12),
        word=nn.Linear(7, 16),
        last=nn.Linear(16, 12),
        heat=nn.Parameter(torch.tensor(1.0)),
    )


@shelf.add(cut="a", whole="head", batch=images(6, 10))
def graph_convolution() -> nn.Module:
    """Nodes are mixed by a matrix; channels are not."""

    def run(net: Net, x: Tensor) -> Tensor:
        mixing = net.adjacency.softmax(-1)
        x = mixing @ F.relu(net.a(x))
        return net.head((mixing @ F.relu(net.b(x))).mean(1))

    return Net(
        run,
        adjacency=nn.Parameter(torch.randn(6, 6)),
        a=nn.Linear(10, 16),
        b=nn.Linear(16, 12),
        head=nn.Linear(12, 5),
    )
