"""The messages and services of the wire: `.proto` files and the code that `./dev proto` generates from them."""
