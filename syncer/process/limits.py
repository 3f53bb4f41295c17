"""The limits of an HTTP server. What exceeds one is refused with a code; nobody can fill it up.

Sizes are bytes, times are seconds.
"""

from __future__ import annotations

#: Connections at a time, and the files that the process needs besides.
CONNECTIONS, OTHER_FILES = 2000, 128
#: A request's first line and headers, and the number of headers.
MAX_HEAD, MAX_HEADERS = 64 * 1024, 500
#: The framing of a chunked body, and the bytes of body that allow a further byte of it. A body in
#: chunks of one byte costs a hundred times what it costs in one piece.
MAX_FRAMING, BODY_PER_FRAMING = 16 * 1024, 16
#: What all unanswered requests of a server hold in memory.
MAX_HELD = 48 * 1024 * 1024
#: What a header takes in memory besides its own bytes.
HEADER_OVERHEAD = 200
#: Requests that a connection may send before the first of them is answered.
MAX_PIPELINED = 32
#: The time from a request's first byte (the first request's: from its connection) to its last, and
#: the bytes of body that extend it by a second each.
REQUEST_TIMEOUT, MIN_BODY_RATE = 20.0, 8 * 1024
#: The time that a response may wait for its client to read it.
WRITE_TIMEOUT = 20.0
#: The time that a connection may wait for its next request.
IDLE_TIMEOUT = 75.0
#: The time after which a request that is still being sent may be evicted for others.
EVICTABLE_AFTER = 5.0
#: The time that a client has to read why it was refused, and the bytes it may send meanwhile.
LINGER_TIMEOUT, MAX_UNREAD = 2.0, 512 * 1024
#: The time that requests under way get to end after a stop.
DRAIN_TIMEOUT = 10

#: Codes of requests that the server refuses before its app sees them.
NOT_HTTP, LARGE_HEAD, TOO_SLOW, BUSY = "not_http", "headers_too_large", "too_slow", "busy"
SMALL_CHUNKS = "small_chunks"
#: The status and the message of each.
REFUSALS = {
    NOT_HTTP: (400, "this is not HTTP"),
    LARGE_HEAD: (431, f"the headers are larger than {MAX_HEAD // 1024} KB or too many"),
    SMALL_CHUNKS: (400, "the chunks of the body are too small or have large extensions"),
    TOO_SLOW: (408, "the request took too long to arrive; send it again"),
    BUSY: (503, "too many requests at the same time; send it again later"),
}
