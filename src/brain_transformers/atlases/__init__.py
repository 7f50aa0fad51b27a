"""What is known of parcels by their names: labels, centres, networks, gradients, harmonics, and orders of rows."""
