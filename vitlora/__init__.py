"""Fine-tune Vision Transformers on a folder of images with LoRA or NF4 QLoRA."""

__version__ = "0.1.0"
