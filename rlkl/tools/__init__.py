"""Tools around training; the core never imports them."""
