"""The LUT that most tests of the search share."""

import pytest
from luts import made_lut
from made import small_hyperspace

from spaceevo.search.lut import AccuracyLut


@pytest.fixture(scope="session")
def lut() -> AccuracyLut:
    return made_lut(small_hyperspace())
