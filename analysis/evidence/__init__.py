"""What a curve says when no law is certain: the set of laws, its answers, the verdict."""
