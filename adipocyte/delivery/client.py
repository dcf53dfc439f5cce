"""The client under the address that users import; it stands in `adipocyte.client`."""

from adipocyte.client import Answer, Objects, ServiceError, StainClient

__all__ = ["Answer", "Objects", "ServiceError", "StainClient"]
