"""Recurrent layers, and loops over time."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Batch, Net, Shelf, images

shelf = Shelf()
SERIES = images(7, 10)


def time_first(size: int) -> tuple[Tensor, ...]:
    """(time, batch, features)"""
    (series,) = SERIES(size)
    return (series.transpose(0, 1).contiguous(),)


FIRST: Batch = time_first


@shelf.add(cut="rnn.weight_hh_l0 a", whole="head", batch=SERIES)
def lstm() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y, _ = net.rnn(F.relu(net.a(x)))
        return net.head(y[:, -1])

    return Net(run, a=nn.Linear(10, 12), rnn=nn.LSTM(12, 16, batch_first=True), head=nn.Linear(16, 5))


@shelf.add(cut="rnn.weight_hh_l0 rnn.weight_hh_l1 hidden", whole="head", batch=FIRST)
def lstm_stacked() -> nn.Module:
    """Two layers, time first, and the last hidden state is used too."""

    def run(net: Net, x: Tensor) -> Tensor:
        y, (h, _) = net.rnn(x)
        return net.head(F.relu(net.hidden(torch.cat([y.mean(0), h[-1]], -1))))

    return Net(run, rnn=nn.LSTM(10, 16, 2), hidden=nn.Linear(32, 12), head=nn.Linear(12, 5))


@shelf.add(cut="rnn.weight_hh_l0 rnn.weight_hh_l0_reverse", whole="head", batch=SERIES)
def lstm_bidirectional() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y, _ = net.rnn(x)
        return net.head(y).mean(1)

    rnn = nn.LSTM(10, 12, 2, batch_first=True, bidirectional=True, dropout=0.1)
    return Net(run, rnn=rnn, head=nn.Linear(24, 5))


@shelf.add(cut="hidden", whole="head", batch=SERIES)
def lstm_with_projection() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y, _ = net.rnn(x)
        return net.head(F.relu(net.hidden(y[:, -1])))

    rnn = nn.LSTM(10, 16, batch_first=True, proj_size=8)
    return Net(run, rnn=rnn, hidden=nn.Linear(8, 12), head=nn.Linear(12, 5))


@shelf.add(cut="rnn.weight_hh_l0", whole="head", batch=SERIES)
def gru() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        _, h = net.rnn(x)
        return net.head(h.squeeze(0))

    return Net(run, rnn=nn.GRU(10, 16, batch_first=True), head=nn.Linear(16, 5))


@shelf.add(cut="conv rnn.weight_hh_l0 rnn.weight_hh_l1_reverse", whole="head", batch=SERIES)
def gru_stacked_bidirectional_behind_convolution() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.conv(x.transpose(1, 2))).transpose(1, 2)
        y, _ = net.rnn(x)
        return net.head(net.norm(y.amax(1)))

    return Net(
        run,
        conv=nn.Conv1d(10, 12, 3, padding=1),
        rnn=nn.GRU(12, 8, 2, batch_first=True, bidirectional=True),
        norm=nn.BatchNorm1d(16),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="rnn.weight_hh_l0", whole="head", batch=SERIES)
def plain_recurrence() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y, _ = net.rnn(x)
        return net.head(y[:, -1])

    return Net(run, rnn=nn.RNN(10, 16, batch_first=True, nonlinearity="relu"), head=nn.Linear(16, 5))


@shelf.add(cut="cell.weight_hh second.weight_hh", whole="head", batch=images(4, 10))
def recurrent_cells() -> nn.Module:
    """Cells in a loop; the first state is zeros of a size written out."""

    def run(net: Net, x: Tensor) -> Tensor:
        h, c = x.new_zeros(x.shape[0], 12), x.new_zeros(x.shape[0], 12)
        s = x.new_zeros(x.shape[0], 8)
        for t in range(4):
            h, c = net.cell(x[:, t], (h, c))
            s = net.second(h, s)
        return net.head(s)

    return Net(run, cell=nn.LSTMCell(10, 12), second=nn.GRUCell(12, 8), head=nn.Linear(8, 5))


@shelf.add(cut="rnn.weight_hh_l0", whole="head", batch=SERIES)
def gru_with_learned_first_state() -> nn.Module:
    def run(net: Net, x: Tensor) -> Tensor:
        y, _ = net.rnn(x, net.state.expand(-1, x.shape[0], -1).contiguous())
        return net.head(y.mean(1))

    return Net(
        run,
        rnn=nn.GRU(10, 16, batch_first=True),
        state=nn.Parameter(torch.zeros(1, 1, 16)),
        head=nn.Linear(16, 5),
    )


@shelf.add(cut="gates", whole="head", batch=images(4, 10))
def lstm_by_hand() -> nn.Module:
    """One linear layer gives four gates, taken apart by chunk."""

    def run(net: Net, x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], 12)
        for t in range(4):
            i, f, g, o = net.gates(torch.cat([x[:, t], h], -1)).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        return net.head(h)

    return Net(run, gates=nn.Linear(22, 48), head=nn.Linear(12, 5))


@shelf.add(cut="inner", whole="head", batch=images(6, 10))
def scan_over_states() -> nn.Module:
    """A selective state space in a loop: every channel has four states of its own."""

    def run(net: Net, x: Tensor) -> Tensor:
        x = F.silu(net.inner(x))
        b, n, c = x.shape
        step = F.softplus(net.step(x))
        state, outs = x.new_zeros(b, c, 4), []
        decay = -torch.exp(net.decay)
        into, out = net.mix(x).chunk(2, -1)
        for t in range(n):
            state = state * torch.exp(step[:, t, :, None] * decay)
            state = state + step[:, t, :, None] * into[:, t, None, :] * x[:, t, :, None]
            outs.append((state * out[:, t, None, :]).sum(-1))
        y = torch.stack(outs, 1) + x * net.skip
        return net.head(y.mean(1))

    return Net(
        run,
        inner=nn.Linear(10, 16),
        step=nn.Linear(16, 16),
        decay=nn.Parameter(torch.randn(16, 4) * 0.1),
        mix=nn.Linear(16, 8),
        skip=nn.Parameter(torch.ones(16)),
        head=nn.Linear(16, 5),
    )
