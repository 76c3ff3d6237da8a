"""Several data sets of detection as one: annotation files, labels, images, and the metric of each."""
