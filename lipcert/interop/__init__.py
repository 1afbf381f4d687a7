"""Other libraries' networks, data, attacks and files: accepted as they are, and handed over as they expect them.

Each module speaks to one of them, and none of these libraries but foolbox is needed to import lipcert: protocols are
followed by their shape. What is taken over is certified and attacked in [0, 1] pixel units, whatever its own units are.
"""
