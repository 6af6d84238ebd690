import pytest

from kezuri.artifact.folder import RunFolder
from kezuri.core.errors import CorruptArtifact
from kezuri.core.measurement import Measurement
from kezuri.recipe.stages import Stages


@pytest.fixture
def stages(tmp_path):
    def save(path, state):
        path.mkdir(parents=True)
        (path / "m").write_text(state)

    def load(path):
        text = (path / "m").read_text()
        if text == "damaged":
            raise CorruptArtifact(f"{path} is damaged")
        return text

    return Stages(RunFolder(tmp_path), save=save, load=load)


def test_a_stage_is_finished_when_its_record_is_there(stages):
    assert stages.record("1-a") is None
    stages.finish("1-a", record={"x": 1}, state="model", measurements=[Measurement("size", 3, "bytes")])
    assert stages.record("1-a") == {"x": 1} and stages.state("1-a") == "model"
    (row,) = stages.journal.read()
    assert row.conditions["stage"] == "1-a"


def test_finishing_ends_its_checkpoints(stages):
    stages.checkpoint("1-a").mkdir(parents=True)
    stages.finish("1-a", record={})
    assert not stages.checkpoint("1-a").exists()


def test_a_forgotten_model_leaves_the_record_and_a_forgotten_stage_nothing(stages):
    stages.finish("1-a", record={"x": 1}, state="model")
    stages.forget_model("1-a")
    assert stages.record("1-a") == {"x": 1} and not (stages.folder.stage("1-a") / "model").exists()
    stages.forget("1-a")
    assert stages.record("1-a") is None


@pytest.mark.parametrize("content", ["{", "[]", "null"])
def test_a_damaged_record_comes_with_a_way_out(stages, content):
    stages.finish("2-b.round-1.attempt-0", record={})
    (stages.folder.stage("2-b.round-1.attempt-0") / "record.json").write_text(content)
    with pytest.raises(CorruptArtifact, match=r"record.json .*remove the folders .*/2-b\* and resume"):
        stages.record("2-b.round-1.attempt-0")


def test_a_damaged_model_comes_with_a_way_out(stages):
    stages.finish("2-b", record={}, state="damaged")
    with pytest.raises(CorruptArtifact, match=r"is damaged; remove the folders .*/2-b\* and resume"):
        stages.state("2-b")
