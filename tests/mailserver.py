"""A mail server of this machine, and the letters that came: as much of SMTP (RFC 5321) as a client asks for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from socketserver import StreamRequestHandler, TCPServer
from threading import Thread
from typing import cast


@contextmanager
def mail_server(*, refuse: bool = False) -> Iterator[tuple[int, list[EmailMessage]]]:
    """The port of a server, and what it took; one that says no to every recipient where it is to `refuse`."""
    came: list[EmailMessage] = []

    class Letters(StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            self.say("220 house")
            while line := self.rfile.readline():
                word = line[:4].decode().upper()
                if word == "DATA":
                    self.say("354 go on")
                    lines = []
                    while (line := self.rfile.readline()) != b".\r\n":
                        lines.append(line.removeprefix(b"."))
                    came.append(cast(EmailMessage, message_from_bytes(b"".join(lines), policy=policy.default)))
                self.say("550 no such box" if word == "RCPT" and refuse else "250 fine")

    with TCPServer(("127.0.0.1", 0), Letters) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], came
        finally:
            server.shutdown()
            thread.join()
