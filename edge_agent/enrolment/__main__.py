"""`python -m edge_agent.enrolment DATA_DIR`: renew the certificate there; the supervisor starts it when it is time."""

import logging
import sys
from pathlib import Path

from edge_agent.enrolment.renew import renew
from edge_agent.errors import EdgeAgentError
from edge_agent.layout import Layout


def main(arguments: list[str]) -> int:
    """0: renewed; 1: not, and one line on stderr says why."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        identity = renew(Layout(Path(arguments[0])))
    except EdgeAgentError as exc:
        logging.getLogger(__name__).warning("the certificate is not renewed: %s", exc)
        return 1
    serial = identity.credential.serial if identity.credential else ""
    logging.getLogger(__name__).info("the certificate is renewed, its number is %s", serial)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
