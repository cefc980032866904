"""A packed network as portable C99, for microcontrollers: one .c, one .h, nothing allocated."""
