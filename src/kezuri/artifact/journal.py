"""The measurements of a run, one a line, grouped by the stage that took them."""

import json
from collections.abc import Iterable
from pathlib import Path

from kezuri.artifact.atomic import write_bytes
from kezuri.core.errors import CorruptArtifact
from kezuri.core.measurement import Measurement


class Journal:
    """Reads and writes `measurements.jsonl`.

    A stage is recorded whole, and recording it again replaces it, so a stage that a killed run repeats is
    never counted twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Measurement]:
        """All measurements, oldest stage first; the stage is in `conditions["stage"]`.

        Raises:
            CorruptArtifact: a line is not a measurement; the line is named.
        """
        if not self.path.exists():
            return []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            raise CorruptArtifact(f"{self.path} cannot be read: {error}") from error
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows.append(Measurement.from_json(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise CorruptArtifact(f"{self.path}:{number}: not a measurement: {error}") from error
        return rows

    def record(self, stage: str, measurements: Iterable[Measurement]) -> None:
        """Replaces what `stage` measured."""
        others = [m for m in self.read() if m.conditions.get("stage") != stage]
        rows = [*others, *(m.under(stage=stage) for m in measurements)]
        text = "".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows)
        write_bytes(self.path, text.encode())
