"""NVIDIA GPUs: shared by MPS or by green contexts, looked for, and read through NVML."""
