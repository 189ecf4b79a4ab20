"""What only training needs of the NumPy reference: losses, and derivatives of derivatives (JVPs)."""
