"""Stage `pretrain`: item vectors and a projection of text into their space, for each domain."""
