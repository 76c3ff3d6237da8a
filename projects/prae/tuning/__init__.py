"""What is found by holding images out: calibration errors, the curve after the fusion, and its settings."""
