"""The demo model's figures: recognition, the birds' shortcut, object masks, footprint, and the model card."""
