import json

from kezuri.core.measurement import Measurement


def test_survives_json():
    found = Measurement("latency", 1.5, "ms", 1.4, 1.9, 60, {"threads": 1})
    assert Measurement.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_absent_spread_is_left_out():
    assert "low" not in Measurement("params", 10, "count").to_json()


def test_under_adds_conditions_and_keeps_the_original():
    found = Measurement("size", 10, "bytes", conditions={"format": "onnx"})
    assert found.under(model="final").conditions == {"format": "onnx", "model": "final"}
    assert found.conditions == {"format": "onnx"}
