"""What leaves the process as a log line."""

import logging
import sys

import pytest

from dispatcher.operator.logs import JsonFormatter, TextFormatter, configure

TOKEN = "eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6YTpiIn0.c2lnbmF0dXJl-_x"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQ\n-----END EC PRIVATE KEY-----"
SECRETS = {
    "a token": (TOKEN, TOKEN),
    "a header": ("Authorization: Bearer s3cr3t-opaque-value", "s3cr3t-opaque-value"),
    "basic credentials": ("basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    "a private key": (KEY, "MHcCAQEEIIrYSSNQ"),
    "a key's base64": (
        "client-key-data: LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0tCk1IY0NBUUVF",
        "IEtFWS0tLS0tCk1IY0NBUUVF",
    ),
}


@pytest.mark.parametrize("form", [TextFormatter("%(levelname)s %(message)s"), JsonFormatter()])
@pytest.mark.parametrize(("text", "secret"), SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("place", ["message", "field", "exception"])
def test_credentials_are_left_out(form: logging.Formatter, text: str, secret: str, place: str) -> None:
    record = logging.LogRecord("x", logging.WARNING, __file__, 1, "the server said", (), None)
    if place == "message":
        record.msg = f"the server said {text}"
    elif place == "field":
        record.answer = text
    else:
        try:
            raise ValueError(text)
        except ValueError:
            record.exc_info = sys.exc_info()
    line = form.format(record)
    assert secret not in line
    assert "the server said" in line


def test_the_rest_stays_as_it_is() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "bearer of news: token renewed", (), None)
    record.cluster = "worker-1"
    assert TextFormatter("%(message)s").format(record) == 'bearer of news: token renewed cluster="worker-1"'


def test_a_clean_end_warns_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """kopf warns of handlers that it had no time for when it is ended; there are none."""
    root = logging.getLogger()
    kopf = logging.getLogger("kopf._core.reactor.running")
    before = (
        root.handlers[:],
        root.level,
        kopf.filters[:],
        {name: logging.getLogger(name).level for name in ("kopf", "aiohttp", "asyncio", "kubernetes")},
    )
    try:
        configure("info", "text")
        kopf.warning("Cleanup activity is not executed at all due to cancellation.")
        kopf.warning("Something else is wrong.")
    finally:
        root.handlers[:], root.level, kopf.filters[:] = before[:3]
        for name, level in before[3].items():
            logging.getLogger(name).setLevel(level)
    assert "Something else" in (said := capsys.readouterr().err)
    assert "Cleanup" not in said
