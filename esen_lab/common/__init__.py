"""What the whole package uses: units, tensors, inputs, the comparison of answers, locks, text for tables."""
