"""How networks are evaluated and differentiated."""
