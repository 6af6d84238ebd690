"""A run is proved and timed where its model ships."""

from importlib.util import find_spec

import pytest

from kezuri.artifact.folder import RunFolder
from kezuri.artifact.journal import Journal
from kezuri.artifact.manifest import Manifest
from kezuri.core.errors import KezuriError, ParityFailed, UsageError
from kezuri.recipe.document import parse
from kezuri.recipe.prepare import prepare
from kezuri.recipe.recipe import recipe_from
from kezuri.recipe.run import run
from kezuri.runtime.runner import runners
from kezuri.runtime.runners.openvino import OpenVinoSession

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


def shipped_on(text, runtime, steps=""):
    assert "goal: {" in text
    return recipe_from(parse(text.replace("goal: {", f"goal: {{runtime: {runtime}, ") + steps))


def trained_only(text):
    return text[: text.index("  - use: pcas")]


@pytest.fixture(scope="module")
def journey(recipe_text, tmp_path_factory):
    """The folder of a run that goes all the way for OpenVINO: timed rounds, a latency budget, integers."""
    text = recipe_text.replace("goal: {", "goal: {objective: fastest, ").replace("rounds: 2", "rounds: 1")
    timed = "    payoff: 0.5\n    budget: {latency: 0.01}\n  - use: quantize\n"
    recipe = shipped_on(text, "openvino", timed)
    return run(prepare(recipe, device="cpu"), runs=tmp_path_factory.mktemp("runs"), threads=1)


@needs_openvino
def test_everything_that_is_timed_is_timed_there(journey):
    rows = Journal(journey.measurements).read()
    held = {
        metric: {row.conditions.get("runtime") for row in rows if row.metric == metric}
        for metric in ("latency", "expected_latency", "memory")
    }
    assert held == {metric: {"openvino"} for metric in held}
    tested = [row for row in rows if row.metric == "accuracy" and row.conditions.get("split") == "test"]
    assert {row.conditions["runtime"] for row in tested} == {"openvino"} and len(tested) == 2
    assert {row.conditions["model"] for row in rows if row.metric == "latency"} == {"dense", "final", "round"}
    answer = Manifest(journey).read()["answer"]
    assert answer["question"].startswith("fastest model in OpenVINO with")


@needs_openvino
def test_the_file_is_proved_there(recipe_text, tmp_path, monkeypatch):
    """OpenVINO answers wrongly, ONNX Runtime would not: the run fails."""
    honest = OpenVinoSession.run
    monkeypatch.setattr(OpenVinoSession, "run", lambda self, images: -honest(self, images))
    with pytest.raises(ParityFailed, match="in openvino"):
        run(
            prepare(shipped_on(trained_only(recipe_text), "openvino"), device="cpu"), runs=tmp_path, threads=1
        )


@needs_openvino
def test_bench_goes_where_a_run_ships(journey, ended, kezuri):
    assert "OpenVINO, batch 1" in kezuri("bench", journey.path, "--seconds", "0.2")[1]
    said = kezuri("bench", journey.path, "--seconds", "0.2", "--runtime", "onnxruntime")[1]
    assert "ONNX Runtime, batch 1" in said
    code, _, said = kezuri("bench", journey.path, ended)
    assert code == 2 and "ship on onnxruntime and openvino: say --runtime" in said
    assert kezuri("bench", journey.path, ended, "--runtime", "openvino", "--seconds", "0.2")[0] == 0
    said = kezuri("compare", journey.path, ended)[1]
    assert "latency: not in one runtime (" in said and "OpenVINO: " in said
    assert "latency: ONNX Runtime, one image" in kezuri("compare", ended)[1]


@pytest.mark.parametrize(
    ("runtime", "message"),
    [
        ("openvin", "did you mean 'openvino'"),
        ("torch", "which torch does not run .these do: onnxruntime, openvino"),
    ],
)
def test_a_runtime_that_cannot_be_is_refused_before_the_data_is_read(recipe_text, runtime, message):
    text = recipe_text.replace("small images", "no such folder")
    with pytest.raises(KezuriError, match=message):
        prepare(shipped_on(text, runtime), device="cpu")


def test_one_that_is_not_installed_is_named(recipe_text, monkeypatch):
    monkeypatch.setattr("kezuri.runtime.runners.openvino.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"OpenVINO is not installed \(pip install 'kezuri\[openvino\]'\)"):
        prepare(shipped_on(recipe_text, "openvino"), device="cpu")


def test_another_runtime_makes_another_run(recipe_text):
    one, other = (
        prepare(shipped_on(recipe_text, name), device="cpu") for name in ("onnxruntime", "openvino")
    )
    assert one.fingerprint != other.fingerprint


def test_a_runtime_of_ones_own_needs_no_measure_of_memory(recipe_text, tmp_path, monkeypatch):
    """A runner that a user registered takes every role but the one that needs a process of its own."""
    members = {**runners._members, "own": runners["onnxruntime"]}
    monkeypatch.setattr(runners, "_members", members)
    folder = run(
        prepare(shipped_on(trained_only(recipe_text), "own"), device="cpu"), runs=tmp_path, threads=1
    )
    metrics = {row.metric for row in Journal(RunFolder(folder.path).measurements).read()}
    assert "latency" in metrics and "memory" not in metrics
