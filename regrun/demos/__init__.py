"""Claims about networks that have a closed form: small functions of numbers, and what `regrun demo` prints of them."""
