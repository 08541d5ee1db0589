from service_client import ask, store

__all__ = ["ask", "store"]
