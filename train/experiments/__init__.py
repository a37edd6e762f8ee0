"""The paper's experiments: definitions as YAML files, their runs, and what comes of them."""
