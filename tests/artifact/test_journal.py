import pytest

from kezuri.artifact.journal import Journal
from kezuri.core.errors import CorruptArtifact
from kezuri.core.measurement import Measurement


def test_a_stage_recorded_again_is_not_counted_twice(tmp_path):
    journal = Journal(tmp_path / "m.jsonl")
    journal.record("a", [Measurement("size", 1, "bytes"), Measurement("params", 2, "count")])
    journal.record("b", [Measurement("size", 3, "bytes")])
    journal.record("a", [Measurement("size", 4, "bytes")])
    assert [(m.conditions["stage"], m.value) for m in journal.read()] == [("b", 3), ("a", 4)]


def test_a_new_journal_is_empty(tmp_path):
    assert Journal(tmp_path / "m.jsonl").read() == []


@pytest.mark.parametrize("line", ['{"metric": "size"', "[]", '{"metric": "size", "what": 1}'])
def test_a_broken_line_is_named(tmp_path, line):
    journal = Journal(tmp_path / "m.jsonl")
    journal.record("a", [Measurement("size", 1, "bytes")])
    with journal.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(CorruptArtifact, match=r"m\.jsonl:2: not a measurement"):
        journal.read()
