"""What trust refuses, by whose fault it is."""

from server.errors import InvalidError, RegistryError


class BadRequestError(InvalidError):
    """A certificate request that nobody gets a certificate for: the requester's fault."""

    code = "bad_certificate_request"


class TrustError(RegistryError):
    """The folder of keys and certificates is missing, incomplete or damaged: the operator's affair."""

    code = "trust_unusable"
