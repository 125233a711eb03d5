from __future__ import annotations

import pytest

from instancefcn.inference.predictor import Predictor
from small import predictor_of, small_fcis


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The small FCIS, ready for use; its images have 96 x 144 pixels."""
    return predictor_of(small_fcis())
