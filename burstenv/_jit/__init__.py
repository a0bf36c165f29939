"""How compiled code is compiled, cached and linked, and the containers that it works on."""
