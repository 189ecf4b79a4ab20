"""The shipped demo model: invented items, an invented shop's log, and the bundle made of them."""
