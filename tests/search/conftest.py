"""The LUT that most tests of the search share."""

import pytest
from made import small_hyperspace
from search.luts import made_lut

from spaceevo.search.lut import AccuracyLut


@pytest.fixture(scope="session")
def lut() -> AccuracyLut:
    return made_lut(small_hyperspace())
