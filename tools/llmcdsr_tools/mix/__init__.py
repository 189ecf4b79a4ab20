"""Learning the mix of experts: which of them a bundle weighs, and how much, is decided on validation."""
