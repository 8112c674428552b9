"""HTTP below the client: one request, its answer as a document, every failure as a RegistryClientError."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from edge_agent.protocol.base import Name
from edge_agent.protocol.refusal import shown
from server.client.errors import RegistryClientError
from server.schemas.common import ErrorDocument
from server.schemas.sentence import NAME_RULE

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

CA_VARIABLE: Final = "SHOAL_CA"
CONNECT_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 60.0
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


class Transport:
    """A connection pool to one registry."""

    def __init__(self, url: str, *, ca: Path | None = None, timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.url, host = _checked_url(url)
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        # a proxy of the environment can't reach this machine's own loopback
        self._http = httpx.Client(
            base_url=self.url,
            timeout=timeout,
            trust_env=host not in LOOPBACK,
            verify=_trust(ca or _ca_of_environment()),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        answer: TypeAdapter[T] | None = None,
        patience_s: float | None = None,
        **request: Any,  # noqa: ANN401  httpx's own arguments, passed through
    ) -> T:
        """One request.

        Args:
            method: HTTP method.
            path: with its names quoted already (see `segment`).
            answer: how to read the body; None: there is none to read.
            patience_s: how long the answer may take once all is sent; None: as long as any.
            request: what httpx takes: json, params, headers, data, files.

        Raises:
            RegistryClientError: refused, failed, or not reached.
        """
        if patience_s is not None:
            usual = self._http.timeout
            request["timeout"] = httpx.Timeout(
                connect=usual.connect, read=patience_s, write=usual.write, pool=usual.pool
            )
        content = self.raw(method, path, **request)
        if answer is None:
            return None  # type: ignore[return-value]  # callers without an adapter want none
        try:
            return answer.validate_json(content)
        except ValidationError as exc:
            raise self._not_ours() from exc

    def raw(self, method: str, path: str, **request: Any) -> bytes:  # noqa: ANN401  see `ask`
        """One request; the bytes of the answer.

        Raises:
            RegistryClientError: refused, failed, or not reached.
        """
        try:
            response = self._http.request(method, path, **request)
        except httpx.TimeoutException as exc:
            raise RegistryClientError("timeout", f"The registry at {self.url} did not answer in time.") from exc
        except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError) as exc:
            sentence = f"The registry at {self.url} closed the connection in the middle of the request: try again."
            raise RegistryClientError("connection_lost", sentence) from exc
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            if _is_distrust(exc):
                sentence = (
                    f"What answers at {self.url} is not who it should be ({exc}): give the registry's root certificate "
                    f"(trust/root.crt of its data folder) with {CA_VARIABLE}."
                )
                raise RegistryClientError("not_trusted", sentence) from exc
            sentence = f"No registry answers at {self.url}: is `edge-registry up` running, and is the address right?"
            raise RegistryClientError("unreachable", sentence) from exc
        if response.is_success:
            return response.content
        raise self._refused(response)

    def _refused(self, response: httpx.Response) -> RegistryClientError:
        try:
            error = ErrorDocument.model_validate_json(response.content).error
        except ValidationError:
            return self._not_ours(response.status_code)
        return RegistryClientError(error.code, error.message, response.status_code)

    def _not_ours(self, status: int | None = None) -> RegistryClientError:
        return RegistryClientError("not_a_registry", f"What answers at {self.url} is not this registry's API.", status)


def _ca_of_environment() -> Path | None:
    return Path(os.environ[CA_VARIABLE]) if os.environ.get(CA_VARIABLE) else None


def _trust(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise RegistryClientError("bad_ca", f"{ca} can't be read as a root certificate: {exc}.") from exc


def _is_distrust(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _checked_url(url: str) -> tuple[str, str]:
    """The URL without a slash at its end, and its host."""
    try:
        parts = urlsplit(url if "://" in url else f"https://{url}")
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise RegistryClientError(
            "bad_url", f"{url!r} is no address of a registry; give one such as https://host:8080."
        )
    return parts.geturl().rstrip("/"), parts.hostname or ""


def segment(value: str, what: str) -> str:
    """A name as part of a path; refused here already, because `..` in a path would name something else.

    Raises:
        RegistryClientError: it is no name.
    """
    try:
        return quote(_NAME.validate_python(value), safe="")
    except ValidationError as exc:
        raise RegistryClientError("invalid", f"{what} is {shown(value)}, but a name has {NAME_RULE}.") from exc


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Only those parameters that have a value."""
    return {name: value for name, value in parameters.items() if value is not None}
