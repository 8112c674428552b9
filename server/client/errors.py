"""What goes wrong for a client: the registry's own code and sentence, or that it can't be reached."""


class RegistryClientError(Exception):
    """`str(error)` is one sentence; `code` is for programs; `status` is None when no answer came.

    `challenge`: where somebody must log in first, how to (the header WWW-Authenticate).
    """

    def __init__(self, code: str, message: str, status: int | None = None, *, challenge: str = "") -> None:
        super().__init__(message)
        self.challenge = challenge
        self.code = code
        self.message = message
        self.status = status
