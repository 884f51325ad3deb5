"""Joining the accuracy LUT with a device's latencies; a LUT with gaps is an error that names the gap."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from made import small_hyperspace

from spaceevo.config import QTSettings
from spaceevo.errors import ArtifactError, ParamsError
from spaceevo.latency.predictor import Prediction
from spaceevo.search.lut import ANY, build_lut
from spaceevo.space import StageOptions, format_stage, parse_stage, sample_stage

HYPERSPACE = small_hyperspace()
CLASSES = 4
PREDICTED = QTSettings(samples=100)
TABLE = QTSettings(samples=100, latency="table", fixed_latency_ms={8: 0.5, 12: 0.75})


class MadePredictor:
    """A device on which a stage's milliseconds tell what they were asked of."""

    overhead_ms = 1000.0

    def stage_ms(self, block_type, in_channels, choice, stride, height):
        size = sum(block.width for block in choice) + 100 * in_channels + 10_000 * height
        return Prediction(size + (0.5 if block_type.block == "mobilenetv2_res" else 0.0), False)

    def head_ms(self, hyperspace, in_channels, height, num_classes):
        assert hyperspace is HYPERSPACE
        return Prediction(in_channels + 100 * height + 10_000 * num_classes, False)

    def boundary_ms(self, resolution, num_classes):
        return Prediction(0.01 * resolution, False)


def made_table(samples=2):
    rng = np.random.default_rng(0)
    rows = []
    for stage in HYPERSPACE.searched_stages:
        keys = product(range(len(HYPERSPACE.block_types)), range(stage.windows), HYPERSPACE.in_widths(stage.name))
        for (index, window, in_width), resolution in product(keys, HYPERSPACE.block_kd_resolutions):
            options = StageOptions(stage, HYPERSPACE.block_types[index], stage.window_widths(window))
            for _ in range(samples):
                choice = sample_stage(options, rng)
                rows.append((stage.name, index, window, in_width, choice[-1].width, format_stage(choice), resolution))
    columns = ["stage", "block_type", "window", "in_width", "out_width", "choice", "resolution"]
    return pd.DataFrame(rows, columns=columns).assign(loss=rng.uniform(0, 1, len(rows)))


def test_every_row_is_found_under_its_key():
    table = made_table()
    lut = build_lut(table, HYPERSPACE, MadePredictor(), CLASSES, PREDICTED)
    assert lut.resolutions == HYPERSPACE.block_kd_resolutions
    assert set(lut.searched) == {(0, t, w) for t in range(3) for w in range(2)} | {(1, t, 0) for t in range(3)}
    found = sum(len(c.loss) for stage_table in lut.searched.values() for c in stage_table.values())
    assert found == len(table)
    for row in table.itertuples():
        index = [stage.name for stage in HYPERSPACE.searched_stages].index(row.stage)
        candidates = lut.searched[index, row.block_type, row.window][row.resolution, row.in_width]
        (position,) = np.flatnonzero(candidates.loss == row.loss)
        height = HYPERSPACE.map_size(row.stage, row.resolution)
        size = sum(block.width for block in parse_stage(row.choice)) + 100 * row.in_width + 10_000 * height
        assert candidates.latency_ms[position] == size + (0.5 if row.block_type == 1 else 0.0)
        assert candidates.out_width[position] == row.out_width


def test_stages_that_are_not_searched_offer_all_their_choices_without_loss():
    lut = build_lut(made_table(), HYPERSPACE, MadePredictor(), CLASSES, PREDICTED)
    assert set(lut.fixed) == {"stem"}
    for resolution in HYPERSPACE.block_kd_resolutions:
        candidates = lut.fixed["stem"][resolution, 3]
        assert candidates.out_width.tolist() == [8, 16] and not candidates.loss.any()
        assert candidates.latency_ms.tolist() == [width + 300 + 10_000 * resolution for width in (8, 16)]


def stem_rows():
    rows = [
        ("stem", 0, 0, 3, width, f"3#{width}#0", resolution, loss + resolution / 100)
        for resolution in HYPERSPACE.block_kd_resolutions
        for width, loss in ((16, 0.0), (8, 0.3))
    ]
    return pd.DataFrame(rows, columns=made_table().columns)


def test_stages_that_are_not_searched_have_the_losses_of_their_rows():
    table = pd.concat([made_table(), stem_rows()])
    lut = build_lut(table, HYPERSPACE, MadePredictor(), CLASSES, PREDICTED)
    without_latency = build_lut(table.assign(latency_ms=1.0), HYPERSPACE, None, CLASSES, TABLE)
    for resolution in HYPERSPACE.block_kd_resolutions:
        candidates = lut.fixed["stem"][resolution, 3]
        assert candidates.out_width.tolist() == [16, 8]
        assert candidates.loss.tolist() == [resolution / 100, 0.3 + resolution / 100]
        assert candidates.latency_ms.tolist() == [width + 300 + 10_000 * resolution for width in (16, 8)]
        # Where the latency of all that is not searched is given, they have none of their own.
        given = without_latency.fixed["stem"][resolution, 3]
        assert given.loss.tolist() == candidates.loss.tolist() and not given.latency_ms.any()


def test_a_gap_in_a_stage_that_is_not_searched_is_named():
    rows = stem_rows()
    with pytest.raises(ArtifactError, match=r"no row for stem, block type 0, window 0, 3 arriving .* at 8 pixels"):
        build_lut(
            pd.concat([made_table(), rows[rows["resolution"] == 12]]), HYPERSPACE, MadePredictor(), CLASSES, PREDICTED
        )
    for column, value in (("block_type", 1), ("window", 1), ("in_width", 8), ("out_width", 12)):
        with pytest.raises(ArtifactError, match=r"has a row for stem, block type .* which small does not have"):
            build_lut(
                pd.concat([made_table(), rows.assign(**{column: value})]),
                HYPERSPACE,
                MadePredictor(),
                CLASSES,
                PREDICTED,
            )


def test_the_head_holds_what_every_network_pays():
    lut = build_lut(made_table(), HYPERSPACE, MadePredictor(), CLASSES, PREDICTED)
    assert set(lut.head_ms) == set(product(HYPERSPACE.block_kd_resolutions, HYPERSPACE.body[-1].widths))
    for (resolution, width), latency_ms in lut.head_ms.items():
        height = HYPERSPACE.map_size("mix", resolution)
        assert latency_ms == pytest.approx(1000 + 0.01 * resolution + width + 100 * height + 10_000 * CLASSES)


@pytest.mark.parametrize("key", [("stage1", 2, 1, 16, 12), ("stage2", 0, 0, 24, 8)])
def test_a_gap_is_named(key):
    stage, block_type, window, in_width, resolution = key
    table = made_table()
    gap = (
        (table["stage"] == stage)
        & (table["block_type"] == block_type)
        & (table["window"] == window)
        & (table["in_width"] == in_width)
        & (table["resolution"] == resolution)
    )
    assert gap.sum() == 2
    with pytest.raises(ArtifactError) as caught:
        build_lut(table[~gap], HYPERSPACE, MadePredictor(), CLASSES, PREDICTED)
    expected = f"{stage}, block type {block_type}, window {window}, {in_width} arriving channels at {resolution} pixels"
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_of_another_hyperspace_is_refused():
    table = made_table()
    with pytest.raises(ArtifactError):
        build_lut(
            table.assign(stage=table["stage"].replace("stage2", "stage9")),
            HYPERSPACE,
            MadePredictor(),
            CLASSES,
            PREDICTED,
        )


def test_latencies_of_a_table_with_its_own():
    table = made_table()
    table = table.assign(latency_ms=np.linspace(1, 2, len(table)))
    lut = build_lut(table, HYPERSPACE, None, CLASSES, TABLE)
    for row in table.itertuples():
        index = [stage.name for stage in HYPERSPACE.searched_stages].index(row.stage)
        candidates = lut.searched[index, row.block_type, row.window][row.resolution, row.in_width]
        (position,) = np.flatnonzero(candidates.loss == row.loss)
        assert candidates.latency_ms[position] == row.latency_ms
    assert lut.head_ms == {(r, w): {8: 0.5, 12: 0.75}[r] for r, w in product((8, 12), (16, 24))}
    assert all(not candidates.latency_ms.any() for candidates in lut.fixed["stem"].values())


def test_independent_stages_have_all_rows_of_a_resolution_as_candidates():
    table = made_table().assign(latency_ms=1.0)
    independent = TABLE.model_copy(update={"mode": "independent"})
    lut = build_lut(table, HYPERSPACE, None, CLASSES, independent)
    assert lut.head_ms == {(8, ANY): 0.5, (12, ANY): 0.75} and not lut.fixed
    rows = table[(table["stage"] == "stage1") & (table["block_type"] == 1) & (table["window"] == 0)]
    for resolution in (8, 12):
        expected = rows[rows["resolution"] == resolution]["loss"]
        assert sorted(lut.searched[0, 1, 0][resolution, ANY].loss) == sorted(expected)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"latency": "table"}, "space.score.latency"),
        ({"fixed_latency_ms": {8: 0.5}}, "space.score.fixed_latency_ms"),
        ({"mode": "independent"}, "space.score.fixed_latency_ms"),
    ],
)
def test_latencies_that_are_missing_are_named(changes, named):
    with pytest.raises(ParamsError, match=named):
        build_lut(made_table(), HYPERSPACE, MadePredictor(), CLASSES, PREDICTED.model_copy(update=changes))
