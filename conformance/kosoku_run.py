"""kosoku with one fault of its own mended: run by the Python of its environment, with its arguments.

Where compression was agreed on, the cases of sections 12 and 13 expect a message as bytes, but one that
came uncompressed is given to them as a string (of bytes, if it was binary), over which they fall
("Strings must be encoded before hashing"). RFC 7692 lets an endpoint send any message uncompressed, and
wireline does where compression does not make it smaller.

With --deflate the cases of sections 1 to 10, which know nothing of compression, have it agreed on all the
same. What they send as a whole message, or as one whole frame, is then compressed; their fragments, and
frames that are cut or broken on purpose, go out as they are. Case 10.1.1 also counts the fragments that the
suite itself made of its message, of which there are fewer then: only the echo is looked at.
"""

import sys

import kosoku.cases
import case12_x_x
from case import Case
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponseAccept,
)
from kosoku._cli import main

TEXT, BINARY = 1, 2


def as_bytes(message, binary):
    return message.encode("latin-1" if binary else "utf-8") if isinstance(message, str) else message


def as_string(message, binary):
    return message.decode("latin-1" if binary else "utf-8") if isinstance(message, bytes) else message


def take_messages(case, convert):
    on_message = case.onMessage
    case.onMessage = lambda self, message, binary: on_message(self, convert(message, binary), binary)


class Compressing:
    """A case's protocol that compresses what the case sends as one whole frame."""

    def __init__(self, protocol):
        vars(self)["protocol"] = protocol

    def __getattr__(self, name):
        return getattr(self.protocol, name)

    def __setattr__(self, name, value):
        setattr(self.protocol, name, value)

    def sendFrame(self, opcode, payload="", fin=True, rsv=0, payload_len=None, **how):
        if opcode not in (TEXT, BINARY) or not fin or rsv or how:
            self.protocol.sendFrame(opcode, payload, fin=fin, rsv=rsv, payload_len=payload_len, **how)
            return
        if payload_len is not None:
            payload = (payload * (payload_len // max(len(payload), 1) + 1))[:payload_len]
        self.protocol.sendMessage(payload, opcode == BINARY)


def agree_to_deflate(case):
    """What sections 12 and 13 do for themselves; here with context takeover both ways."""
    init = case.__init__

    def init_with_deflate(self, connection):
        init(self, connection)
        if connection.factory.isServer:
            connection.perMessageCompressionAccept = lambda offers: PerMessageDeflateOfferAccept(offers[0])
        else:
            connection.perMessageCompressionOffers = [PerMessageDeflateOffer(acceptNoContextTakeover=False)]
            connection.perMessageCompressionAccept = PerMessageDeflateResponseAccept
        self.p = Compressing(connection)

    case.__init__ = init_with_deflate


if __name__ == "__main__":
    for case in case12_x_x.Case12_X_X + case12_x_x.Case13_X_X:
        take_messages(case, as_bytes)
    if "--deflate" in sys.argv:
        sys.argv.remove("--deflate")
        for name, case in kosoku.cases.CASES.items():
            if int(name.split(".")[0]) <= 10:
                take_messages(case, as_string)
                agree_to_deflate(case)
        kosoku.cases.CASES["10.1.1"].onConnectionLost = Case.onConnectionLost
    main()
