"""A tea shop on an ordinary day, for the pictures of the documentation."""
