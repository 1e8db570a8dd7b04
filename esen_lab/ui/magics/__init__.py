"""The `%esen` magics: each line is one call of a `Lab` method, and shows its result."""
