"""Names of datasets and how their splits are stored. Imports nothing heavy."""

from spaceevo.errors import DataError

ARRAY_SUFFIX = ".safetensors"
MANIFEST_SUFFIX = ".parquet"

# How the splits of each dataset are stored; its keys are the names of all datasets.
SUFFIXES = {
    "clutter": ARRAY_SUFFIX,
    "cifar10": ARRAY_SUFFIX,
    "cifar100": ARRAY_SUFFIX,
    "imagefolder": MANIFEST_SUFFIX,
}


def split_suffix(name: str) -> str:
    """The suffix of the split files of dataset `name`: ".safetensors" or ".parquet".

    Raises:
        DataError: there is no dataset of this name.
    """
    if name not in SUFFIXES:
        raise DataError(f"There is no dataset {name}: choose one of {', '.join(SUFFIXES)}.")
    return SUFFIXES[name]
