"""What moves in a page: board, sliders, live plots, progress."""
