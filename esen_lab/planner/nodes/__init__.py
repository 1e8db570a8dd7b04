"""Sub-models on several nodes, which inputs have to reach and outputs have to leave (docs/nodes.md)."""
