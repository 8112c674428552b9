import sys
from pathlib import Path

import pytest

from server.errors import SettingsError
from server.settings import RegistrySettings, load_settings


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SHOAL_CONFIG", raising=False)
    for name in RegistrySettings.model_fields:
        monkeypatch.delenv(f"SHOAL_{name.upper()}", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_load_settings_without_anything_gives_the_defaults(tmp_path: Path) -> None:
    settings = load_settings()
    assert settings.data_dir == tmp_path / "xdg" / "shoal" / "registry"
    assert settings.host == "127.0.0.1"
    assert settings.database_url == f"sqlite:///{settings.data_dir}/registry.db"
    assert settings.telemetry_url == f"sqlite:///{settings.data_dir}/telemetry.db"
    assert settings.runtime_pythons == dict.fromkeys(("litert", "onnx", "executorch"), Path(sys.executable))


def test_load_settings_file_beats_default_environment_beats_file_flag_beats_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "registry.toml", 'host = "file"\ns3_region = "file"\nworker_count = 7\n')
    monkeypatch.setenv("SHOAL_HOST", "environment")
    monkeypatch.setenv("SHOAL_S3_REGION", "environment")
    settings = load_settings(tmp_path, overrides={"host": "flag", "api_port": None})
    assert (settings.host, settings.s3_region, settings.worker_count) == ("flag", "environment", 7)


def test_load_settings_runtime_pythons_of_file_and_environment_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "registry.toml", '[runtime_pythons]\ntflite = "/file/python"\nonnx = "/file/onnx"\n')
    monkeypatch.setenv("SHOAL_RUNTIME_PYTHONS", '{"tflite": "/environment/python"}')
    pythons = load_settings(tmp_path).runtime_pythons
    assert pythons["tflite"] == Path("/environment/python")
    assert pythons["onnx"] == Path("/file/onnx")
    assert pythons["litert"] == Path(sys.executable)


def test_load_settings_named_file_may_set_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path / "my.toml", f'data_dir = "{tmp_path}/data"\n')
    assert load_settings(config=config).data_dir == tmp_path / "data"
    monkeypatch.setenv("SHOAL_CONFIG", str(config))
    assert load_settings().data_dir == tmp_path / "data"
    assert load_settings(tmp_path / "flag").data_dir == tmp_path / "flag"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('mqtt_ulr = "mqtt://x"', "unknown setting 'mqtt_ulr': did you mean 'mqtt_url'?"),
        ("zzz = 1", "unknown setting 'zzz': known are"),
        ("host = ", "not valid TOML"),
        ('data_dir = "/elsewhere"', "must not set data_dir"),
        ("api_port = 70000", "api_port in .* not usable: .*less than or equal to 65535"),
        ("api_port = 0", "api_port in"),
        ('worker_count = "many"', "worker_count in"),
        ('mqtt_url = "broker:1883"', "not an address such as mqtt://"),
        ('mqtt_url = "mqtt://broker:99999"', "not an address such as mqtt://"),
        ('webhook_url = "ftp://hooks"', "webhook_url in .* it is not an address such as https://"),
        ('webhook_url = "file:///etc/passwd"', "it is not an address such as https://"),
        ('webhook_secret = ""', "webhook_secret in .* at least 1"),
        ('s3_endpoint = "ftp://s3"', "not an address such as http://"),
        ('s3_endpoint = "http://s3"', "needs s3_access_key and s3_secret_key"),
        ('s3_bucket = "a"', "s3_bucket in"),
        ("job_memory_bytes = -1", "job_memory_bytes in"),
        ("runtime_pythons = 3", "runtime_pythons in"),
    ],
)
def test_load_settings_bad_file_is_one_clear_sentence(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "registry.toml", text)
    with pytest.raises(SettingsError, match=message) as raised:
        load_settings(tmp_path)
    assert "\n" not in str(raised.value)


def test_load_settings_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load_settings(tmp_path)


def test_load_settings_named_file_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(config=tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SHOAL_API_PORT", "http", "SHOAL_API_PORT is not usable"),
        ("SHOAL_RUNTIME_PYTHONS", "{", "SHOAL_RUNTIME_PYTHONS must be JSON"),
    ],
)
def test_load_settings_bad_environment_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        load_settings(tmp_path)


def test_settings_repr_hides_the_secret_key(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, overrides={"s3_secret_key": "very-secret", "s3_access_key": "key"})
    assert "very-secret" not in repr(settings)


def test_settings_webhook_shows_neither_its_secret_nor_its_address(tmp_path: Path) -> None:
    hook = {"webhook_url": "https://hooks.example/very-secret", "webhook_secret": "very-secret"}
    assert "very-secret" not in repr(load_settings(tmp_path, overrides=hook))
    with pytest.raises(SettingsError) as raised:
        load_settings(tmp_path, overrides={"webhook_url": "hooks.example/very-secret"})
    assert "very-secret" not in str(raised.value)


def test_child_environment_gives_the_same_settings_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"s3_access_key": "a", "s3_secret_key": "b c", "worker_count": 3, "webhook_url": "https://h/x?y=1"}
    settings = load_settings(tmp_path, overrides=given)
    for name, value in settings.child_environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
