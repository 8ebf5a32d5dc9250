"""A server of one file that throttles, cuts, redirects, lies or goes away, as the path says."""

import hashlib
import http.server
import time

import numpy as np

CONTENT = np.random.default_rng(0).bytes(300_000)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives the server's content; the first folder of the path says in which way."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        getattr(self, "way_" + self.path.split("/")[1])()

    def _give(self, content=None, *, ranges=True, etag='"1"', cut=None, pause=0.0, kind="x/y"):
        start = 0
        content = self.server.content if content is None else content
        header = self.headers.get("Range", "")
        if ranges and header and self.headers.get("If-Range", etag) == etag:
            start = int(header.removeprefix("bytes=").split("-")[0])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", kind)
        self.send_header("ETag", etag)
        self.end_headers()
        for index in range(start, len(content), 20_000):
            if cut is not None and index - start >= cut:
                self.close_connection = True
                return None
            self.wfile.write(content[index : min(index + 20_000, len(content))])
            time.sleep(pause)
        return None

    def _redirect(self, target, **headers):
        self.send_response(302)
        self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def way_good(self):
        self._give()

    def way_cut(self):
        self._give(cut=100_000)

    def way_cutonce(self):
        first = len(self.server.requests) == 1
        self._give(cut=100_000 if first else None)

    def way_changes(self):
        first = len(self.server.requests) == 1
        other = bytes(len(CONTENT))
        self._give(other if first else CONTENT, etag=f'"{first}"', cut=100_000 if first else None)

    def way_norange(self):
        self._give(ranges=False)

    def way_slow(self):
        self._give(pause=0.05)

    def way_wrong(self):
        self._give(bytes(len(CONTENT)))

    def way_longer(self):
        self._give(CONTENT + b"more")

    def way_endless(self):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(self.server.content)
        self.close_connection = True

    def way_html(self):
        self._give(b"<html>log in</html>" + CONTENT[19:], kind="text/html")

    def way_absent(self):
        self.send_error(404)

    def way_busy(self):
        self.send_error(503) if len(self.server.requests) == 1 else self._give()

    def way_silent(self):
        self.close_connection = True
        time.sleep(1.0)

    def way_moved(self):
        self._redirect("/good/f.bin", X_Linked_Etag=f'"{SHA256}"')

    def way_movedwrong(self):
        self._redirect("/wrong/f.bin", X_Linked_Etag=f'"{SHA256}"')

    def way_file(self):
        self._redirect("file:///etc/passwd")

    def way_ftp(self):
        self._redirect("ftp://localhost/f.bin")

    def way_circle(self):
        self._redirect("/circle/f.bin")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """The client may hang up."""
