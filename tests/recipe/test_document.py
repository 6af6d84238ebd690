import pytest
from hypothesis import given
from hypothesis import strategies as st

from kezuri.core.errors import DataError, RecipeError
from kezuri.recipe.document import parse, read_document


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("1e-3", 0.001),
        ("5", 5),
        ("-0.01", -0.01),
        (".5", 0.5),
        ("no", "no"),
        ("yes", "yes"),
        ("3.10", 3.1),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("0o17", "0o17"),
    ],
)
def test_scalars_mean_what_a_reader_expects(written, meant):
    value = parse(f"key: {written}\n").value["key"]
    assert value == meant and type(value) is type(meant)


def test_a_key_given_twice_is_refused_with_both_lines():
    with pytest.raises(RecipeError, match=r"r.yaml:4: steps\[0\].rate is given twice \(first in line 3\)"):
        parse("name: x\nsteps:\n  - rate: 0.3\n    rate: 0.2\n", "r.yaml")


def test_every_value_knows_its_line():
    document = parse("name: x\nsteps:\n  - use: train\n    lr: 0.1\n", "r.yaml")
    assert document.where(("steps", 0, "lr")) == "r.yaml:4: steps[0].lr"
    assert document.where(("steps", 0, "absent")) == "r.yaml:3: steps[0].absent"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", r"r.yaml:\d+: not valid YAML"),
        ("a: !!python/object/apply:os.system ['x']", r"r.yaml:1: the tag .* is not allowed"),
        ("a: !mine 3", r"r.yaml:1: the tag !mine is not allowed"),
        ("? [a, b]\n: 1", r"r.yaml:1: a key must be a word"),
        ("a: 1e999", r"r.yaml:1: 1e999 is too large"),
        ("a: .nan", r"r.yaml:1: .nan is not a usable number"),
        ("a: 1\n---\nb: 2", r"r.yaml:\d+: not valid YAML"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(text, message):
    with pytest.raises(RecipeError, match=message):
        parse(text, "r.yaml")


def test_aliases_cannot_blow_up():
    text = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
    )
    with pytest.raises(RecipeError, match="repeated without end"):
        parse(text)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"no recipe file .*absent\.yaml"):
        read_document(tmp_path / "absent.yaml")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        parse(text)
    except RecipeError as error:
        assert "\n\n" not in str(error)
