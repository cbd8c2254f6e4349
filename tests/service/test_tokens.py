import hmac
import os

import pytest
from pydantic import ValidationError

from service.settings import ServiceSettings
from service.tokens import Tokens


def test_a_token_file_is_read_again_when_it_changes(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("old\n")
    tokens = Tokens(ServiceSettings(token_file=file, tokens=["always"]))
    assert tokens.accept(b"old")
    file.write_text("old\nnew\n")
    assert tokens.accept(b"new")
    assert tokens.accept(b"old")
    file.write_text("new\n")
    assert not tokens.accept(b"old")
    assert tokens.accept(b"always")


def test_a_file_that_is_a_link_is_read_again_when_the_link_is_turned(tmp_path):
    """As Kubernetes does with a secret."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(name)
    link = tmp_path / "token"
    link.symlink_to(tmp_path / "old")
    tokens = Tokens(ServiceSettings(token_file=link))
    (tmp_path / "next").symlink_to(tmp_path / "new")
    os.replace(tmp_path / "next", link)
    assert tokens.accept(b"new")
    assert not tokens.accept(b"old")


def test_a_file_that_goes_or_is_emptied_leaves_the_tokens_as_they_were_and_is_told_once(tmp_path, caplog):
    file = tmp_path / "tokens"
    file.write_text("first\n")
    tokens = Tokens(ServiceSettings(token_file=file))
    file.write_text("\n")
    for _ in range(3):
        assert tokens.accept(b"first")
    assert tokens.are_wanted
    file.unlink()
    for _ in range(3):
        assert tokens.accept(b"first")
    assert len(caplog.records) == 2
    assert "first" not in caplog.text


def test_a_file_without_a_token_or_that_is_not_there_is_refused_at_the_start(tmp_path):
    """It was meant to guard the service; an open service on loopback is not what was asked for."""
    with pytest.raises(ValidationError, match="cannot be read"):
        ServiceSettings(token_file=tmp_path / "missing")
    (tmp_path / "empty").write_text("\n\n")
    with pytest.raises(ValidationError, match="has no token"):
        ServiceSettings(token_file=tmp_path / "empty")


@pytest.mark.parametrize("candidate", [b"", b"a", b"first", b"second", b"secon", b"x" * 10_000, b"\xff"])
def test_every_token_is_compared_in_full_whatever_comes(candidate, monkeypatch):
    """Constant time: as many comparisons, each of digests of one length, and each by the comparison that does not stop
    at the first difference."""
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    tokens = Tokens(ServiceSettings(tokens=["first", "second", "third"]))
    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert tokens.accept(candidate) == (candidate in (b"first", b"second"))
    assert compared == [(32, 32)] * 3
