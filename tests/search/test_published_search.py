"""On the published tables, evolution finds spaces that beat every published one, whatever the seed."""

import pytest
from made import REFERENCE

from spaceevo.config import EvolutionSettings, QTSettings
from spaceevo.search.evolve import evolve_space
from spaceevo.search.exact import best_space
from spaceevo.search.lut import build_lut
from spaceevo.search.published_lut import read_published_lut
from spaceevo.search.score import make_scorer
from spaceevo.space import load_hyperspace, parse_space

BUDGETS = {"mobilew": (15.0, 20.0), "onnxw": (10.0,)}
FIXED = {"mobilew": {160: 1.5, 192: 2.1, 224: 2.8}, "onnxw": {160: 0.40, 192: 0.55, 224: 0.75}}
PUBLISHED = {
    "mobilew": ("spaceevo@pixel4", "spaceevo@pixel4-tiny", "spaceevo@pixel4-medium"),
    "onnxw": ("spaceevo@vnni", "spaceevo@vnni-large"),
}
SIZE = EvolutionSettings(population=500, parent_sample=125, evaluations=3000)


@pytest.fixture(scope="module", params=list(PUBLISHED))
def scorer(request):
    folder = REFERENCE / "block_lut" / request.param
    if not folder.is_dir():
        pytest.skip(f"no published table in {folder}")
    hyperspace = load_hyperspace(request.param)
    settings = QTSettings(mode="independent", samples=100_000, latency="table", fixed_latency_ms=FIXED[request.param])
    lut = build_lut(read_published_lut(folder, hyperspace), hyperspace, None, 1000, settings)
    return make_scorer(lut, BUDGETS[request.param], settings, 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_evolved_space_beats_every_published_one(scorer, seed):
    best, _ = evolve_space(scorer, SIZE, seed)
    published = [scorer(parse_space(name)).score for name in PUBLISHED[scorer.lut.hyperspace.name]]
    assert scorer(best).score > max(published) + 0.003


def test_the_best_of_all_onnxw_spaces_is_found_and_is_not_far_from_the_evolved_one(scorer):
    if scorer.lut.hyperspace.name != "onnxw":
        pytest.skip("takes minutes: benchmarks/space_search.py does it")
    evolved, _ = evolve_space(scorer, SIZE, 0)
    best = best_space(scorer, evolved)
    assert best.spaces == 95_551_488 and best.scored < 0.001 * best.spaces
    assert scorer(evolved).score <= best.score.score < 1.002 * scorer(evolved).score
