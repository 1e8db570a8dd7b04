"""What moves in a page: live plots, sliders, progress, and how they talk to the kernel."""
