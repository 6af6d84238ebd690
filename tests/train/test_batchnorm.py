import torch
from torch import nn

from kezuri.train.batchnorm import reestimate_batchnorm_


def test_the_statistics_are_the_mean_over_all_batches(patterns) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5))
    model[0].running_mean.fill_(99.0)
    model[0].num_batches_tracked.fill_(7)
    reestimate_batchnorm_(model, patterns.train, seed=0, batches=1000, batch_size=64, device="cpu")
    batches = [batch.images for batch in patterns.train.batches(64)]
    assert len(patterns.train) % 64 == 0  # so that each batch, and each image, counts the same
    images = torch.cat(batches)
    torch.testing.assert_close(model[0].running_mean, images.mean().reshape(1))
    torch.testing.assert_close(model[0].running_var, images.var().reshape(1), rtol=0.02, atol=0)


def test_changes_statistics_only_and_depends_on_the_seed_only(net, patterns) -> None:
    first, second, other = net(), net(), net()
    for model, seed in ((first, 1), (second, 1), (other, 2)):
        reestimate_batchnorm_(model, patterns.train, seed=seed, batches=2, batch_size=32, device="cpu")
    fresh = net().state_dict()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
        changed = name in ("1.running_mean", "1.running_var", "1.num_batches_tracked")
        assert torch.equal(tensor, fresh[name]) is not changed
    assert not torch.equal(first[1].running_mean, other[1].running_mean)
    assert first[1].momentum == 0.1 and first.training


def test_a_model_without_batchnorm_is_left_alone(patterns) -> None:
    reestimate_batchnorm_(nn.Flatten(), patterns.train, seed=0, device="cpu")
