"""How results look: tables for terminals, pipes and notebooks; a study's status as it changes."""
