import pytest
import torch

from kezuri.calibrate.collector import collectors
from kezuri.calibrate.collectors.gradient import TaylorChannel, TaylorWeight
from kezuri.calibrate.collectors.norm_scale import NormScale
from kezuri.calibrate.run import Sample, collect
from kezuri.core.errors import MissingEvidence, UsageError
from kezuri.data import TensorPart


class Counted:
    """A part that counts the batches it gives."""

    def __init__(self, part):
        self.part, self.count = part, 0

    def batches(self, *args, **settings):
        for batch in self.part.batches(*args, **settings):
            self.count += 1
            yield batch


def test_many_listeners_share_one_pass(net, part):
    counted = Counted(part)
    everything = [TaylorWeight(), TaylorChannel(), NormScale()]
    together = collect(net, counted, everything, sample=Sample(batch_size=5))
    assert counted.count == 4
    for collector in everything:
        alone = collect(net, part, [collector], sample=Sample(batch_size=5))
        name = collectors.name_of(collector)
        for weight, parts in alone.items():
            assert parts.keys() <= {name}
            if parts:
                assert torch.equal(parts[name], together[weight][name])


def test_looks_at_as_many_batches_as_it_is_told(net, part):
    short = collect(net, part, [TaylorChannel()], sample=Sample(batches=2, batch_size=5))
    whole = collect(net, part, [TaylorChannel()], sample=Sample(batches=None, batch_size=5))
    assert not torch.equal(short["0.weight"]["taylor_channel"], whole["0.weight"]["taylor_channel"])


def test_the_seed_chooses_the_images(net, part):
    def learnt(seed):
        sample = Sample(batches=1, batch_size=5, seed=seed)
        return collect(net, part, [TaylorChannel()], sample=sample)["0.weight"]["taylor_channel"]

    assert torch.equal(learnt(1), learnt(1))
    assert not torch.equal(learnt(1), learnt(2))


def test_the_model_s_own_random_numbers_and_training_mode_play_no_part(net, part):
    net.train()
    training = collect(net, part, [TaylorWeight()])
    net.eval()
    assert torch.equal(
        training["0.weight"]["taylor_weight"],
        collect(net, part, [TaylorWeight()])["0.weight"]["taylor_weight"],
    )


def test_frozen_weights_are_learnt_about_and_stay_frozen(net, part):
    before = collect(net, part, [TaylorChannel()])
    net.requires_grad_(False)
    after = collect(net, part, [TaylorChannel()])
    assert torch.equal(after["3.weight"]["taylor_channel"], before["3.weight"]["taylor_channel"])
    assert not any(p.requires_grad for p in net.parameters())


def test_a_failing_pass_leaves_no_hook_and_the_mode_behind(net):
    net.train()
    wrong = TensorPart(torch.randn(4, 7, 6, 6), torch.zeros(4, dtype=torch.long), classes=5)
    with pytest.raises(RuntimeError, match="channels"):
        collect(net, wrong, [NormScale(), TaylorChannel()])
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_layer_the_loss_does_not_depend_on_is_left_out(net, part):
    net[0].aside = torch.nn.Linear(2, 2)
    learnt = collect(net, part, [TaylorChannel()])
    assert learnt["0.aside.weight"] == {}
    assert learnt["0.weight"].keys() == {"taylor_channel"}


def test_no_data_and_no_batches_are_mistakes(net, part):
    with pytest.raises(MissingEvidence, match="no batch was seen"):
        collect(net, part.subset([]), [TaylorChannel()])
    for wrong in ("batches", "batch_size", "single"):
        with pytest.raises(UsageError, match=f"{wrong}=0"):
            Sample(**{wrong: 0})
