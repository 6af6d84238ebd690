from torch import nn

from kezuri.model.sites import prunable_weights, tensors_of


def test_convolutions_of_every_kind_and_linear_layers_are_prunable() -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 2, 1),
        nn.Conv2d(2, 2, 1),
        nn.Conv3d(2, 2, 1),
        nn.ConvTranspose2d(2, 2, 1),
        nn.BatchNorm2d(2),
        nn.Embedding(3, 2),
        nn.Sequential(nn.Linear(2, 2)),
    )
    found = prunable_weights(model)
    assert list(found) == ["0.weight", "1.weight", "2.weight", "3.weight", "6.0.weight"]
    assert found["6.0.weight"] is model[6][0].weight


def test_a_layer_that_is_the_model_has_no_prefix() -> None:
    assert list(prunable_weights(nn.Linear(2, 2))) == ["weight"]


def test_a_tensor_held_twice_is_named_once_unless_aliases_are_asked_for() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2))
    model[1].weight = model[0].weight
    norm = ["2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked"]
    assert list(tensors_of(model)) == ["0.weight", *norm]
    assert list(tensors_of(model, aliases=True)) == ["0.weight", "1.weight", *norm]
