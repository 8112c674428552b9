"""Why `up` ends: each with one sentence for the user and an exit code for scripts."""

from typing import ClassVar

from server.errors import RegistryError


class StackError(RegistryError):
    """A part of the stack cannot be started, or does not come up."""

    code = "stack_failed"
    exit_code: ClassVar[int] = 1


class AlreadyRunningError(StackError):
    """Another `up` holds the data folder."""

    code = "already_running"
    exit_code = 4


class MosquittoMissingError(StackError):
    """There is no broker to start."""

    code = "mosquitto_missing"
    exit_code = 3

    def __init__(self) -> None:
        super().__init__(
            "The MQTT broker `mosquitto` is not installed: run `sudo apt-get install mosquitto`, "
            "or name a running MQTT 5 broker with SHOAL_MQTT_URL=mqtts://host:8883."
        )


class PortTakenError(StackError):
    """A port that devices know by now belongs to another program."""

    code = "port_taken"
