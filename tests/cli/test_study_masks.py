import json

import pytest

SMALL = (
    "--searchers",
    "genetic:population=6,random,magnitude",
    "--sparsity",
    0.8,
    "--draws",
    1,
    "--evaluations",
    12,
)
QUICK = ("--train-epochs", 3, "--epochs", 1, "--few-epochs", 2, "--batch-size", 16, "--threads", 1)


def test_help_names_what_can_be_studied(kezuri):
    code, said, _ = kezuri("study-masks", "--help")
    assert code == 0
    for word in ("--searchers", "--per-class", "--draws", "--workers", "--distill", "--norms"):
        assert word in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--searchers", "genetik"), "did you mean 'genetic'"),
        (("--searchers", "genetic:populaton=8"), "did you mean 'population'"),
        (("--sparsity", "0.8,most"), "expected a number, got 'most'"),
        (("--per-class", "none"), "a number from 1 up, or 'all'; got 'none'"),
        (("--csv", "--json"), "choose one"),
        (("--norms", "warm"), "'frozen' or 'reestimated'"),
    ],
)
def test_mistakes_are_said_before_any_work(kezuri, images, tmp_path, options, message):
    code, _, said = kezuri("study-masks", "plain2", "--data", images, *options)
    assert code == 2 and message in said
    assert not (tmp_path / "runs").exists()


def test_a_small_study_ends_with_table_page_and_pictures(kezuri, images, tmp_path):
    code, said, heard = kezuri(
        "study-masks", "plain2,width=0.25", "--data", images, *SMALL, *QUICK, "--name", "tiny", "--json"
    )
    assert code == 0, heard
    rows = json.loads(said)
    assert [row["searcher"] for row in rows] == ["genetic:population=6", "random", "magnitude"]
    assert all(
        0 <= row[key] <= 1 for row in rows for key in ("accuracy_before", "accuracy_1", "accuracy_all")
    )
    folder = tmp_path / "runs" / "tiny"
    assert "Search for masks" in (folder / "report.html").read_text(encoding="utf-8")
    assert {path.name for path in (folder / "plots").iterdir()} == {"accuracy.png", "differences.png"}
    assert "3/3  magnitude, 80 %, draw 0: before " in heard
