"""A study's actor that fails at its first attempts."""

from __future__ import annotations

from sparsing.actors.orchestration import study_actor
from sparsing.actors.orchestration.study_actor import Outcome, StudyActor


class Clumsy(StudyActor):
    """Finds the study finished, at the third attempt."""

    def __init__(self, study_path: str, error: Exception) -> None:
        study_actor.PAUSE_SECONDS = 0.1
        self._error, self._tries = error, 0
        super().__init__(study_path, 0)

    def _work_alone(self) -> Outcome:
        self._tries += 1
        if self._tries < 3:
            raise self._error
        return Outcome()
