import math
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kezuri.core.errors import (
    DataError,
    Interrupted,
    KezuriWarning,
    ResourceError,
    TrainingDiverged,
    UsageError,
)
from kezuri.data import load_data
from kezuri.data.augment import Flip, Mixup, PadCrop
from kezuri.model.load import load_model
from kezuri.train.checkpoint import Checkpoints
from kezuri.train.evaluate import evaluate
from kezuri.train.fit import fit
from kezuri.train.hooks import Hook
from kezuri.train.lr_schedules import Constant, Cosine
from kezuri.train.optimizers import SGD, Adam
from kezuri.train.training import Training

SHORT = Training(epochs=2, batch_size=32, lr=0.05)


class Steps(Hook):
    """Notes the order of events and the learning rates."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.rates: list[float] = []

    def before_forward(self, _model, step):
        self.events.append(("before_forward", step))

    def after_backward(self, model, _optimizer, step):
        assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
        self.events.append(("after_backward", step))

    def after_step(self, _model, optimizer, step):
        self.events.append(("after_step", step))
        self.rates.append(optimizer.param_groups[0]["lr"])


class Once(Hook):
    """Does something after one step."""

    def __init__(self, step, action) -> None:
        self.at, self.action = step, action

    def after_step(self, model, _optimizer, step):
        if step == self.at:
            self.action(model)


class Bar:
    def __init__(self) -> None:
        self.started, self.steps, self.figures, self.ended = None, 0, [], 0

    def start(self, task, *, total, done):
        self.started = (task, total, done)

    def advance(self, steps, figures):
        self.steps += steps
        self.figures.append(dict(figures))

    def done(self):
        self.ended += 1


def test_learns(net, patterns) -> None:
    model = net()
    fitted = fit(model, patterns, Training(epochs=6, batch_size=32, lr=0.05), seed=0, device="cpu")
    assert fitted.best_accuracy > 0.95
    assert fitted.epochs[-1].train_loss < fitted.epochs[0].train_loss / 3
    assert evaluate(model, patterns.validation, device="cpu").accuracy == fitted.best_accuracy
    assert [record.epoch for record in fitted.epochs] == [1, 2, 3, 4, 5, 6]


def test_learns_real_images() -> None:
    data = load_data("fashion-mini")
    data = replace(data, train=data.train.subset(3000), validation=data.validation.subset(500))
    training = Training(epochs=3, batch_size=64, lr=0.05, augment=(PadCrop(2), Flip()))
    model = load_model("lenet5", classes=10, image_shape=data.image_shape)
    assert fit(model, data, training, seed=0, device="cpu").best_accuracy > 0.65


def test_learns_the_same_in_float32(net, patterns) -> None:
    training = Training(epochs=6, batch_size=32, lr=0.05, precision="float32")
    assert fit(net(), patterns, training, seed=0, device="cpu").best_accuracy > 0.95


def test_the_seed_decides_everything_and_global_random_state_nothing(net, patterns, same) -> None:
    models = []
    for seed, noise in ((1, 10), (1, 20), (2, 10)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        models.append(net())
        fit(models[-1], patterns, SHORT, seed=seed, device="cpu")
        assert torch.equal(torch.get_rng_state(), before)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_one_step_is_the_textbook_step(patterns) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    by_hand = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    by_hand.load_state_dict(linear.state_dict())
    count = len(patterns.train)
    training = Training(
        epochs=1,
        batch_size=count,
        lr=0.1,
        lr_schedule=Constant(),
        optimizer=SGD(weight_decay=0.01),
        label_smoothing=0.1,
        precision="float32",
    )
    fit(linear, patterns, training, seed=0, device="cpu")
    (batch,) = patterns.train.batches(count)
    F.cross_entropy(by_hand(batch.images), batch.targets, label_smoothing=0.1).backward()
    for trained, parameter in zip(linear.parameters(), by_hand.parameters(), strict=True):
        gradient = parameter.grad + 0.01 * parameter.data
        torch.testing.assert_close(trained.data, parameter.data - 0.1 * 1.9 * gradient)


def test_hooks_are_called_in_order_with_the_scheduled_rate(net, patterns) -> None:
    steps = Steps()
    training = Training(epochs=1.5, batch_size=32, lr=0.2, lr_schedule=Cosine(warmup=0.5))
    fitted = fit(net(), patterns, training, seed=0, device="cpu", hooks=[steps])
    assert steps.events == [
        (name, step) for step in range(12) for name in ("before_forward", "after_backward", "after_step")
    ]
    assert steps.rates == [0.2 * Cosine(warmup=0.5)((step + 0.5) / 8, 1.5) for step in range(12)]
    assert len(fitted.epochs) == 2


@pytest.mark.parametrize(("epochs", "steps"), [(0.01, 1), (0.5, 4), (1, 8), (1.25, 10), (2, 16)])
def test_fractions_of_an_epoch(net, patterns, epochs, steps) -> None:
    counted = Steps()
    fit(net(), patterns, Training(epochs=epochs, batch_size=32), seed=0, device="cpu", hooks=[counted])
    assert len(counted.rates) == steps


def test_a_penalty_is_part_of_what_is_made_small(net, patterns) -> None:
    class Shrink(Hook):
        def penalty(self, model):
            return 10.0 * model[0].weight.square().sum()

    free, held = net(), net()
    plain = fit(free, patterns, SHORT, seed=0, device="cpu")
    penalised = fit(held, patterns, SHORT, seed=0, device="cpu", hooks=[Shrink()])
    assert held[0].weight.norm() < 0.1 * free[0].weight.norm()
    assert (
        penalised.epochs[0].train_loss < 3 * plain.epochs[0].train_loss
    )  # the penalty is not reported as loss


def test_only_the_given_parameters_change(net, patterns) -> None:
    model = net()
    model[8].bias.requires_grad_(False)
    fit(model, patterns, SHORT, seed=0, device="cpu", parameters=[model[3].weight], frozen_batchnorm=True)
    fresh = net().state_dict()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, fresh[name])}
    assert changed == {"3.weight"}
    asked = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert asked == set(dict(model.named_parameters())) - {"8.bias"}
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_given_parameters_are_thawed_and_the_others_get_no_gradient(net, patterns) -> None:
    class Gradients(Hook):
        def after_backward(self, model, _optimizer, _step):
            assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == [
                "3.weight"
            ]

    model = net()
    model[3].requires_grad_(False)
    settings = {"seed": 0, "device": "cpu", "hooks": [Gradients()], "parameters": [model[3].weight]}
    fit(model, patterns, SHORT, **settings)
    assert not torch.equal(model[3].weight, net()[3].weight)
    assert not model[3].weight.requires_grad and model[0].weight.requires_grad


def test_what_was_frozen_stays_frozen(net, patterns) -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    fit(model, patterns, SHORT, seed=0, device="cpu")
    assert torch.equal(model[0].weight, net()[0].weight)
    assert not torch.equal(model[3].weight, net()[3].weight)


def test_frozen_batchnorm_uses_and_keeps_its_statistics(net, patterns) -> None:
    class Modes(Hook):
        def before_forward(self, model, _step):
            assert model.training and model[5].training and not model[1].training

    model = net()
    fit(model, patterns, SHORT, seed=0, device="cpu", hooks=[Modes()], frozen_batchnorm=True)
    assert torch.equal(model[1].running_mean, torch.zeros(8)) and int(model[1].num_batches_tracked) == 0
    assert not torch.equal(model[1].weight, torch.ones(8))


def test_nothing_to_train_or_to_train_on(net, patterns) -> None:
    with pytest.raises(UsageError, match="1 of the parameters to train are not the model's"):
        fit(net(), patterns, SHORT, seed=0, device="cpu", parameters=[nn.Parameter(torch.zeros(1))])
    with pytest.raises(UsageError, match="nothing to train"):
        fit(net().requires_grad_(False), patterns, SHORT, seed=0, device="cpu")
    empty = replace(patterns, train=patterns.train.subset([]))
    with pytest.raises(DataError, match="0 training images"):
        fit(net(), empty, SHORT, seed=0, device="cpu")


def test_the_model_comes_back_as_it_was_given(net, patterns) -> None:
    model = net().eval()
    model[5].train()
    fit(model, patterns, SHORT, seed=0, device="cpu")
    assert not model.training and model[5].training and not model[1].training
    for parameter in model.parameters():
        assert parameter.stride() == torch.empty(parameter.shape).stride()


def test_ends_with_the_best_epoch_or_the_last(net, patterns) -> None:
    def spoil(model):
        with torch.no_grad():
            model[8].weight.zero_()
            model[8].bias.copy_(torch.tensor([1.0, 0, 0, 0]))

    accuracies = {}
    for keep in ("best", "last"):
        model = net()
        training = Training(epochs=3, batch_size=32, lr=0.05, keep=keep)
        fitted = fit(model, patterns, training, seed=0, device="cpu", hooks=[Once(23, spoil)])
        accuracies[keep] = [record.validation_accuracy for record in fitted.epochs]
        chosen = max(accuracies[keep]) if keep == "best" else accuracies[keep][-1]
        assert fitted.best_accuracy == chosen == evaluate(model, patterns.validation, device="cpu").accuracy
        record = next(r for r in reversed(fitted.epochs) if r.validation_accuracy == chosen)
        assert fitted.train_accuracy == record.train_accuracy
    assert accuracies["best"] == accuracies["last"]
    assert max(accuracies["best"]) > accuracies["best"][-1] + 0.2


def test_of_equal_epochs_the_later_is_kept(net, patterns, same) -> None:
    easy = replace(patterns, validation=patterns.validation.subset([0]))
    best, last = net(), net()
    for keep, model in (("best", best), ("last", last)):
        training = Training(epochs=4, batch_size=32, lr=0.05, keep=keep)
        fitted = fit(model, easy, training, seed=0, device="cpu")
        assert [record.validation_accuracy for record in fitted.epochs][1:] == [1.0] * 3
    assert same(best, last)


def test_no_epochs_only_evaluate(net, patterns, same) -> None:
    model = net()
    fitted = fit(model, patterns, Training(epochs=0), seed=0, device="cpu")
    assert fitted.best_accuracy == evaluate(model, patterns.validation, device="cpu").accuracy
    assert fitted.train_accuracy == evaluate(model, patterns.train, device="cpu").accuracy
    assert fitted.epochs == [] and same(model, net())


def test_progress_hears_every_step(net, patterns) -> None:
    bar = Bar()
    fitted = fit(net(), patterns, SHORT, seed=0, device="cpu", progress=bar)
    assert bar.started == ("train", 16, 0) and bar.steps == 16 and bar.ended == 1
    heard = [figures["validation_accuracy"] for figures in bar.figures if "validation_accuracy" in figures]
    assert heard == [record.validation_accuracy for record in fitted.epochs]
    assert {"epoch", "loss", "accuracy", "lr"} <= bar.figures[0].keys()


def plant(value):
    def action(model):
        with torch.no_grad():
            model[3].weight[0, 0, 0, 0] = value

    return action


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stops_within_one_step_of_a_bad_number(net, patterns, tmp_path, value) -> None:
    steps, bar = Steps(), Bar()
    with pytest.raises(TrainingDiverged) as caught:
        fit(
            net(),
            patterns,
            Training(epochs=3, batch_size=32),
            seed=0,
            device="cpu",
            hooks=[Once(10, plant(value)), steps],
            checkpoint=tmp_path,
            progress=bar,
        )
    assert steps.events[-1] == ("before_forward", 11) and bar.ended == 1
    message = str(caught.value)
    assert message.startswith("training diverged in epoch 2, step 12: the loss is nan with lr ")
    assert re.search(r"with lr 0\.\d+ \(0\.\d+ by then\); not finite", message)
    assert "1 of 8 weight tensors and 8 of 8 gradient tensors, first 3.weight" in message
    saved = Checkpoints(tmp_path).read()
    assert saved.about["state"]["step"] == 8
    assert all(torch.isfinite(tensor).all() for tensor in saved.tensors.values())


def test_bad_weights_that_the_loss_does_not_show_are_found_at_the_end_of_the_epoch(
    net, patterns, tmp_path
) -> None:
    model = net()
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))

    def spoil(model):
        model.unused.data[0] = math.nan

    with pytest.raises(TrainingDiverged, match=r"step 8: unused holds .*1 of 9 weight tensors.*first unused"):
        fit(model, patterns, SHORT, seed=0, device="cpu", hooks=[Once(3, spoil)], checkpoint=tmp_path)
    assert Checkpoints(tmp_path).read() is None


def test_a_buffer_that_came_with_infinities_is_no_divergence(net, patterns) -> None:
    model = net()
    model.register_buffer("attention_mask", torch.tensor([0.0, -math.inf]))
    fit(model, patterns, SHORT, seed=0, device="cpu")


def test_exhausted_memory_comes_with_advice(patterns) -> None:
    class Greedy(nn.Linear):
        def forward(self, images):
            return super().forward(images.flatten(1)) + torch.empty(10**15).sum()

    with pytest.raises(ResourceError, match="batches of 128 images; try batch_size 64"):
        fit(Greedy(64, 4), patterns, Training(epochs=1), seed=0, device="cpu")


ROUGH = Training(epochs=3, batch_size=32, lr=0.01, optimizer=Adam(), augment=(Mixup(),))


class StopsAt(Bar):
    def __init__(self, step) -> None:
        super().__init__()
        self.at = step

    def advance(self, steps, figures):
        super().advance(steps, figures)
        if self.steps == self.at and steps:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "changes", [{"keep": "best"}, {"keep": "last"}, {"precision": "float16"}], ids=lambda it: str(it)
)
def test_interrupted_and_resumed_anywhere_it_ends_the_same(net, patterns, same, tmp_path, changes) -> None:
    training = replace(ROUGH, **changes)
    whole = net()
    expected = fit(whole, patterns, training, seed=5, device="cpu")
    done = 0
    for more in (3, 5, 1, 9):
        bar = StopsAt(more)
        with pytest.raises(Interrupted, match=rf"after {done + more} of 24 steps; run the same again"):
            fit(net(), patterns, training, seed=5, device="cpu", checkpoint=tmp_path, progress=bar)
        assert bar.started == ("train", 24, done)
        done += more
    model = net(seed=99)  # where it starts from does not matter any more
    fitted = fit(model, patterns, training, seed=5, device="cpu", checkpoint=tmp_path)
    assert same(model, whole)
    figures = [(r.epoch, r.train_loss, r.train_accuracy, r.validation_accuracy) for r in fitted.epochs]
    assert figures == [
        (r.epoch, r.train_loss, r.train_accuracy, r.validation_accuracy) for r in expected.epochs
    ]


def test_float16_skips_steps_whose_scaled_gradients_overflow_and_learns(net, patterns) -> None:
    class Watch(Hook):
        def __init__(self) -> None:
            self.finite = []

        def after_backward(self, model, _optimizer, _step):
            self.finite.append(all(one.grad.isfinite().all() for one in model.parameters()))
            self.before = [one.detach().clone() for one in model.parameters()]

        def after_step(self, model, _optimizer, _step):
            moved = any(not torch.equal(a, b) for a, b in zip(self.before, model.parameters(), strict=True))
            assert moved == self.finite[-1]  # an overflow changes no weight

    class Loud(nn.Module):  # gradients of the front are a thousand times those of a usual network
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, images):
            return 30 * self.net(images)

    watch, model = Watch(), Loud()
    training = Training(epochs=6, batch_size=32, lr=0.003, optimizer=Adam(), precision="float16")
    fitted = fit(model, patterns, training, seed=0, device="cpu", hooks=[watch])
    assert not all(watch.finite) and all(watch.finite[-8:])  # the scale came down, then it held
    assert fitted.best_accuracy > 0.9 and all(one.isfinite().all() for one in model.parameters())


def test_ctrl_c_waits_for_the_step_to_be_whole(net, patterns, same, tmp_path) -> None:
    whole, model = net(), net()
    fit(whole, patterns, ROUGH, seed=5, device="cpu")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it

    class Press(Steps):
        def after_backward(self, model, optimizer, step):
            super().after_backward(model, optimizer, step)
            if step == 9:
                os.kill(os.getpid(), signal.SIGINT)

    press = Press()
    with pytest.raises(Interrupted, match="after 10 of 24 steps"):
        fit(model, patterns, ROUGH, seed=5, device="cpu", checkpoint=tmp_path, hooks=[press])
    assert press.events[-1] == ("after_step", 9)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    fit(model, patterns, ROUGH, seed=5, device="cpu", checkpoint=tmp_path, hooks=[Press()])
    assert same(model, whole)


def test_ctrl_c_in_the_last_evaluation_is_not_lost(net, patterns, same, tmp_path) -> None:
    whole, model = net(), net()
    fit(whole, patterns, SHORT, seed=5, device="cpu")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    presses = []

    def press(module, _inputs, _output):
        if not module.training and len(presses) < SHORT.epochs:
            presses.append(module)
            if len(presses) == SHORT.epochs:
                os.kill(os.getpid(), signal.SIGINT)

    heard = model.register_forward_hook(press)
    with pytest.raises(Interrupted, match=r"after (\d+) of \1 steps"):
        fit(model, patterns, SHORT, seed=5, device="cpu", checkpoint=tmp_path)
    heard.remove()
    again, bar = net(), Bar()
    fit(again, patterns, SHORT, seed=5, device="cpu", checkpoint=tmp_path, progress=bar)
    assert same(again, whole) and bar.started is None


def test_a_half_made_step_is_not_saved(net, patterns, tmp_path) -> None:
    class Twice(Hook):
        def after_backward(self, _model, _optimizer, step):
            if step == 9:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="after 9 of 24"):
        fit(net(), patterns, ROUGH, seed=5, device="cpu", checkpoint=tmp_path, hooks=[Twice()])
    assert Checkpoints(tmp_path).read().about["state"]["step"] == 8


def test_a_finished_training_returns_at_once_with_the_same_result(net, patterns, same, tmp_path) -> None:
    first, second, bar = net(), net(seed=3), Bar()
    fitted = fit(first, patterns, SHORT, seed=0, device="cpu", checkpoint=tmp_path)
    again = fit(second, patterns, SHORT, seed=0, device="cpu", checkpoint=tmp_path, progress=bar)
    assert again == fitted and same(first, second) and bar.started is None


def test_a_damaged_checkpoint_is_passed_over_and_the_end_is_the_same(net, patterns, same, tmp_path) -> None:
    whole, model = net(), net()
    fit(whole, patterns, ROUGH, seed=5, device="cpu")
    with pytest.raises(Interrupted):
        fit(model, patterns, ROUGH, seed=5, device="cpu", checkpoint=tmp_path, progress=StopsAt(13))
    newest = max(tmp_path.glob("*.safetensors"))
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    bar = Bar()
    with pytest.warns(KezuriWarning, match="is damaged"):
        fit(model, patterns, ROUGH, seed=5, device="cpu", checkpoint=tmp_path, progress=bar)
    assert bar.started == ("train", 24, 8)
    assert same(model, whole)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"training": replace(SHORT, lr=0.04)}, "lr"),
        ({"training": replace(SHORT, optimizer=Adam())}, "optimizer"),
        ({"training": replace(SHORT, augment=(Mixup(),))}, "augment"),
        ({"seed": 1}, "seed"),
        ({"frozen_batchnorm": True}, "frozen_batchnorm"),
        ({"hooks": [Steps()]}, "hooks"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(net, patterns, tmp_path, change, name) -> None:
    settings = {"training": SHORT, "seed": 0, "device": "cpu", "checkpoint": tmp_path}
    fit(net(), patterns, **settings)
    with pytest.raises(UsageError, match=rf"a different training \(not the same: {name}\)"):
        fit(net(), patterns, **{**settings, **change})


def test_a_checkpoint_of_another_model_is_refused(net, patterns, tmp_path) -> None:
    fit(net(), patterns, SHORT, seed=0, device="cpu", checkpoint=tmp_path)
    with pytest.raises(UsageError, match=r"not the same: model\)"):
        fit(net()[:8].append(nn.Linear(128, 5)), patterns, SHORT, seed=0, device="cpu", checkpoint=tmp_path)


def test_another_thread_count_is_warned_of(net, patterns, tmp_path) -> None:
    with pytest.raises(Interrupted):
        fit(net(), patterns, ROUGH, seed=0, device="cpu", checkpoint=tmp_path, progress=StopsAt(3))
    torch.set_num_threads(2)
    with (
        pytest.warns(KezuriWarning, match=r"threads 1 → 2.*may differ in the last"),
        pytest.raises(Interrupted),
    ):
        fit(net(), patterns, ROUGH, seed=0, device="cpu", checkpoint=tmp_path, progress=StopsAt(1))
