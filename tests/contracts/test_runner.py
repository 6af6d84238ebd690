"""Laws that every runner obeys."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kezuri.core.errors import DataError, ShapeError, UsageError
from kezuri.model.load import load_model
from kezuri.runtime.export import export_onnx
from kezuri.runtime.runner import Runner, Session, runners

SHAPE = (1, 28, 28)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return load_model("lenet5", classes=10, image_shape=SHAPE)


@pytest.fixture(scope="module")
def forms(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> list[Path | nn.Module]:
    return [model, export_onnx(model, SHAPE, tmp_path_factory.mktemp("runner") / "model.onnx")]


@pytest.fixture(params=list(runners))
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "openvino" and find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    return runners[request.param]()


@pytest.fixture
def session(runner: Runner, forms: list[Path | nn.Module]) -> Session:
    return prepared(runner, forms)[0]


def prepared(runner: Runner, forms: list[Path | nn.Module]) -> list[Session]:
    sessions = []
    for form in forms:
        try:
            sessions.append(runner.prepare(form))
        except UsageError as error:
            assert type(form).__name__ in str(error)
    return sessions


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((6, *SHAPE), dtype=np.float32)


def test_it_takes_one_form_of_a_model_and_refuses_the_other_by_name(
    runner: Runner, forms: list[Path | nn.Module]
) -> None:
    assert len(prepared(runner, forms)) == 1


def test_it_answers_as_the_model_does(session: Session, model: nn.Module, images: np.ndarray) -> None:
    with torch.no_grad():
        expected = model.eval()(torch.from_numpy(images)).numpy()
    found = session.run(images)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_it_answers_the_same_twice_and_leaves_the_images_alone(session: Session, images: np.ndarray) -> None:
    before = images.copy()
    first = session.run(images).copy()
    np.testing.assert_array_equal(session.run(images), first)
    np.testing.assert_array_equal(images, before)


def test_images_alone_or_together_answer_alike(session: Session, images: np.ndarray) -> None:
    alone = np.concatenate([session.run(images[index : index + 1]) for index in range(len(images))])
    np.testing.assert_allclose(alone, session.run(images), rtol=1e-4, atol=1e-4)


def test_images_in_another_memory_layout_are_understood(session: Session, images: np.ndarray) -> None:
    turned = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(session.run(turned), session.run(images))
    mirrored = images[:, :, ::-1]
    np.testing.assert_array_equal(session.run(mirrored), session.run(mirrored.copy()))


def test_images_of_another_shape_are_refused_with_the_shape(session: Session) -> None:
    with pytest.raises(ShapeError, match="3, 28, 28"):
        session.run(np.zeros((2, 3, 28, 28), dtype=np.float32))


def test_it_says_how_it_runs(runner: Runner, session: Session) -> None:
    assert session.runtime == runners.name_of(runner)
    assert session.threads == 1


def test_no_threads_are_refused(runner: Runner, forms: list[Path | nn.Module]) -> None:
    with pytest.raises(UsageError):
        for form in forms:
            runner.prepare(form, threads=0)


def test_more_threads_answer_alike_and_leave_the_process_as_it_was(
    runner: Runner, forms: list[Path | nn.Module], session: Session, images: np.ndarray
) -> None:
    before = torch.get_num_threads()
    for form in forms:
        try:
            wide = runner.prepare(form, threads="all")
        except UsageError:
            continue
        np.testing.assert_allclose(wide.run(images), session.run(images), rtol=1e-4, atol=1e-4)
    assert torch.get_num_threads() == before


def test_changing_the_model_later_does_not_change_the_session(runner: Runner, images: np.ndarray) -> None:
    model = load_model("lenet5", classes=10, image_shape=SHAPE, seed=1)
    for session in prepared(runner, [model]):
        before = session.run(images)
        nn.init.zeros_(model.fc3.weight)
        np.testing.assert_array_equal(session.run(images), before)
    assert model.training


def test_a_file_that_cannot_be_run_is_named(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "torn.onnx").write_bytes(b"not a model")
    for name in ("torn.onnx", "absent.onnx"):
        with pytest.raises((DataError, UsageError), match=rf"{name}|Path"):
            runner.prepare(tmp_path / name)
