"""A hospital's own service: studies that are sent to it, predicted on."""
