"""Stage `export`: a trained run becomes a bundle, with what pseudo items and new items need."""
