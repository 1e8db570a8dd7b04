"""The CPU as a device: cores as units, which of them this process may use, and what else runs on them."""
