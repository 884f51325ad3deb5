"""Write the three splits of the dataset."""

from pathlib import Path

from spaceevo.config import Dataset
from spaceevo.data.prepare import prepare_dataset
from spaceevo.scripting import run


def main(dataset: Dataset, download: int, seed: int, train: Path, val: Path, test: Path) -> None:
    """Make or list the pictures of `dataset`; 1 to `download` those that are not there."""
    prepare_dataset(
        dataset.name,
        {"train": train, "val": val, "test": test},
        seed=seed,
        clutter_options=dataset.clutter,
        root=dataset.root,
        download=bool(download),
        val_fraction=dataset.val_fraction,
        test_fraction=dataset.test_fraction,
        skip_unreadable=dataset.skip_unreadable,
        copy_side=dataset.copy_side,
    )


if __name__ == "__main__":
    run(main)
