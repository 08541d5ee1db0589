"""The preparation: parts of sources that are worked on apart, and what is made of them."""
