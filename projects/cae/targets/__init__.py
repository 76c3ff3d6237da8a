"""What the student is compared with: tokens of a codebook, pixels, gradients, features of a frozen network."""
