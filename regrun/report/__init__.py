"""`regrun report DIR`: what a folder's tables say, as a page, as pictures, in a terminal. Made from CSV files alone."""
