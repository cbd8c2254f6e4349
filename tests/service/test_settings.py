import pytest
from pydantic import ValidationError

from service.settings import ServiceSettings


def test_environment_wins_over_file_and_arguments_over_both(tmp_path, monkeypatch):
    file = tmp_path / "service.yaml"
    file.write_text("port: 1\nqueue_limit: 2\nbody_bytes: 3\n")
    monkeypatch.setenv("SERVICE_QUEUE_LIMIT", "20")
    monkeypatch.setenv("SERVICE_BODY_BYTES", "30")
    settings = ServiceSettings.load(file, body_bytes=300, host=None)
    assert (settings.port, settings.queue_limit, settings.body_bytes) == (1, 20, 300)
    assert type(settings) is ServiceSettings


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no settings file"):
        ServiceSettings.load(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"port: 1\ntokens: [\n", r"service\.yaml' is no YAML, mend it there(?s:.)*line 3"),
        (b"port: \xff\n", r"service\.yaml' is no YAML, mend it there"),
        (b"- port\n", r"service\.yaml' has no settings by name"),
    ],
    ids=["broken", "no text", "a list"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content, message):
    file = tmp_path / "service.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ServiceSettings.load(file)


def test_an_empty_file_leaves_the_defaults(tmp_path):
    file = tmp_path / "service.yaml"
    file.write_text("")
    assert ServiceSettings.load(file) == ServiceSettings()


def test_a_field_that_does_not_exist_is_an_error(tmp_path):
    file = tmp_path / "service.yaml"
    file.write_text("prot: 8001\n")
    with pytest.raises(ValidationError, match="prot"):
        ServiceSettings.load(file)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "judge.example"])
def test_a_public_host_without_a_token_is_refused(host):
    with pytest.raises(ValidationError, match="token"):
        ServiceSettings(host=host)
    assert ServiceSettings(host=host, tokens=["t"]).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.3.2.1"])
def test_loopback_needs_no_token(host):
    assert ServiceSettings(host=host).host == host


def test_tokens_come_from_the_environment_and_from_a_file(tmp_path, monkeypatch):
    file = tmp_path / "tokens"
    file.write_text("three\n\nfour\n")
    monkeypatch.setenv("SERVICE_TOKENS", "one,two")
    assert ServiceSettings(token_file=file).accepted_tokens() == [b"one", b"two", b"three", b"four"]


def test_the_hash_covers_the_settings_and_no_secret():
    plain, secret = ServiceSettings(), ServiceSettings(tokens=["secret"])
    assert plain.config_sha256() == secret.config_sha256()
    assert plain.config_sha256() != ServiceSettings(queue_limit=7).config_sha256()
    assert "secret" not in repr(secret)
