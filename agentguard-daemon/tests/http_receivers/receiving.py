"""What the receivers have in common: `python SCRIPT PORT OUTPUT OPTIONS`.

A receiver listens on PORT of loopback, on a free one if that is 0, and prints which. Records that it
received are lines of OUTPUT, written before they are acknowledged. OPTIONS are JSON.
"""

import ctypes
import http.server
import json
import os
import signal
import ssl
import sys
import threading
import time

PR_SET_PDEATHSIG = 1


def begin():
    """Returns the port, the output and the options. The receiver ends with the test that began it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        sys.exit("the test is gone")
    return int(sys.argv[1]), Output(sys.argv[2]), json.loads(sys.argv[3])


def ready(port):
    print(port, flush=True)


class Output:
    """A file of lines, kept whole also where the writer was killed within one."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self.lock = threading.Lock()
        self.start = os.fstat(self.file).st_size
        written = os.pread(self.file, self.start, 0)
        os.ftruncate(self.file, written.rfind(b"\n") + 1)

    def append(self, lines):
        data = "".join(line + "\n" for line in lines).encode()
        with self.lock:
            while data:
                data = data[os.write(self.file, data) :]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers POST with what `received` of a subclass returns: status, body."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        cls = type(self)
        cls.requests += 1
        # Half of the delay comes before the answer is decided on, half after.
        half = cls.options.get("delay", 0) / 2
        time.sleep(half)
        injected = cls.options.get("inject")
        if injected and cls.requests % injected["every"] == 0:
            status, answer = injected["status"], injected["body"].encode()
        else:
            status, answer = self.received(body)
        time.sleep(half)
        if not isinstance(answer, bytes):
            answer = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", self.answer_type())
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def answer_type(self):
        return "application/json"

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        # A client that went away, or was refused by TLS.
        pass

    def get_request(self):
        connection, address = super().get_request()
        if self.tls:
            # The handshake is made by the thread of the connection, at its first byte.
            connection = self.tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address


def serve(handler):
    serve_http(handler, *begin())


def serve_http(handler, port, output, options):
    handler.output, handler.options = output, options
    server = Server(("127.0.0.1", port), handler)
    server.tls = None
    if "certificate" in handler.options:
        server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.tls.load_cert_chain(handler.options["certificate"])
    if "client_ca" in handler.options:
        server.tls.verify_mode = ssl.CERT_REQUIRED
        server.tls.load_verify_locations(handler.options["client_ca"])
    ready(server.server_port)
    server.serve_forever()
