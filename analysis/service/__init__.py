"""The law service: what it says of studies, as documents and over HTTP."""
