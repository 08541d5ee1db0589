"""What the controllers of a study share: lease, requests, journal."""
