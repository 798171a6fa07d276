"""Entry-point discovery of provider plugins."""
