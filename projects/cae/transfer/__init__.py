"""The encoder after pretraining: probes, fine-tuning, detection and segmentation."""
