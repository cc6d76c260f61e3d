"""Images as users know them, and the garbage they leave."""
