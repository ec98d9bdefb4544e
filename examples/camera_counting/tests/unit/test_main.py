import pytest

from camera_counting.__main__ import main

pytestmark = pytest.mark.unit

UNREACHABLE = "postgresql://postgres@127.0.0.1:1/postgres"


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_a_missing_database_url_is_one_clear_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main([command]) == 1
    error = capsys.readouterr().err
    assert error.startswith("camera_counting: DATABASE_URL is not set")
    assert error.count("\n") == 1


@pytest.mark.parametrize("port", ["http", "-1", "65536", ""])
def test_a_port_that_is_none_is_one_clear_line(
    port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", UNREACHABLE)
    monkeypatch.setenv("PORT", port)
    assert main(["serve"]) == 1
    assert capsys.readouterr().err.startswith("camera_counting: PORT must be a number")


def test_migrating_an_unreachable_database_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", UNREACHABLE)
    assert main(["migrate"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("camera_counting: connection failed")
    assert error.count("\n") == 1


def test_help_names_the_environment_variables(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for name in ("DATABASE_URL", "HOST", "PORT", "CAMERA_COUNTING_COMMIT"):
        assert name in text
