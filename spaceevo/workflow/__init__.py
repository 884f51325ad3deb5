"""What keeps Snakemake and DVC in step: the code behind a rule, named parameters, why an artifact is not current."""
