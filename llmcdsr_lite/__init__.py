"""Cross-domain sequential recommendation on a plain CPU."""
