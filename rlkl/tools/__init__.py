"""What people do around training; the core never imports it."""
