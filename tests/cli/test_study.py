import pytest

SMALL = ("--student", "plain2,width=0.25", "--teacher", "plain2,width=0.5", "--batch-size", 8, "--threads", 1)


def test_help_names_the_methods(kezuri):
    code, said, _ = kezuri("study", "--help")
    assert code == 0
    for word in ("baseline", "assistant", "ptq", "chain", "--seeds", "--epochs", "--teacher"):
        assert word in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--methods", "prun"), "did you mean 'prune'"),
        (("--student", "plain2,0.5"), "--student is a model, or one with options as plain2,width=0.5"),
        (("--student", "plan2"), "no model named 'plan2'"),
        (("--csv", "--json"), "choose one"),
        (("--epochs", 0), "epochs must be above 0"),
        (("--device", "foo"), "no device 'foo' on this machine (have: auto, cpu"),
    ],
)
def test_mistakes_are_said_before_any_work(kezuri, images, options, message):
    code, _, said = kezuri("study", "--data", images, *options)
    assert code == 2 and message in said


def test_what_fails_is_shown_and_tried_again(kezuri, images, tmp_path):
    words = ("study", "--data", images, "--seeds", 1, "--epochs", 1, "--lr", 1e30, *SMALL)
    code, said, wrong = kezuri(*words, "--methods", "ptq", "--name", "tiny", "--csv")
    assert code == 1 and "2 runs failed; the same command tries them again: student: " in wrong
    assert "needs the weights of student, whose training failed" in wrong
    assert [row.partition(",")[0] for row in said.splitlines()] == ["name", "student", "ptq"]
    assert said.count("failed") == 2
    assert (tmp_path / "runs/tiny/report.html").is_file()
