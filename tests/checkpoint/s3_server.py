"""A small S3 server for tests, in memory: objects, listings, multipart uploads. It checks each
request's Signature Version 4 as Amazon's documentation tells, from the request as it came over the
wire, so it shares nothing with the client. The real servers are tried by scripts/s3.

POST /_control/cut/N: after N more parts every request is refused (403), until another such POST.
POST /_control/lose/N: the next N completions are done, but their answers are lost (503).
POST /_control/ranges/N: after N more ranges of objects such requests are refused (403), until
another such POST (below 0: never). It is answered with the bytes of ranges given since the last.
POST /_control/endless/1: listings have no end (0: they have one).
"""

import hashlib
import hmac
import http.server
import re
import threading
import urllib.parse
from xml.sax.saxutils import escape

ACCESS, SECRET, REGION = "atoll-key", "atoll-secret/+=", "eu-atoll-1"


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        if isinstance(body, str):
            body = body.encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name == "Content-Length" for name, _ in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, f"<Error><Code>{code}</Code><Message>refused</Message></Error>")

    def signature_fits(self, path, query, body):
        header = self.headers.get("Authorization", "")
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
            r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})", header)
        if not match or match[1] != ACCESS or match[3] != REGION:
            return False
        day, signed, given = match[2], match[4].split(";"), match[5]
        payload = self.headers.get("x-amz-content-sha256", "")
        if payload != hashlib.sha256(body).hexdigest() or "x-amz-content-sha256" not in signed:
            return False
        # Names and values are taken apart, decoded and encoded again: not what was sent, but what
        # the standard says that it has to be.
        pairs = sorted(
            (urllib.parse.quote(name, safe="-_.~"), urllib.parse.quote(value, safe="-_.~"))
            for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True))
        canonical = "\n".join([
            self.command, urllib.parse.quote(urllib.parse.unquote(path), safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{' '.join(self.headers.get(name, '').split())}" for name in signed),
            "", ";".join(signed), payload])
        when = self.headers.get("x-amz-date", "")
        scope = f"{day}/{REGION}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", when, scope,
                          hashlib.sha256(canonical.encode()).hexdigest()])
        key = sign(sign(sign(sign(("AWS4" + SECRET).encode(), day), REGION), "s3"), "aws4_request")
        return hmac.compare_digest(hmac.new(key, text.encode(), hashlib.sha256).hexdigest(), given)

    def handle_one(self):
        state = self.server.state
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path.startswith("/_control/cut/"):
            state.parts_left = int(path.rsplit("/", 1)[1])
            return self.answer(200)
        if path.startswith("/_control/lose/"):
            state.lost_answers = int(path.rsplit("/", 1)[1])
            return self.answer(200)
        if path.startswith("/_control/ranges/"):
            with state.lock:
                state.ranges_left = int(path.rsplit("/", 1)[1])
                given, state.ranges_given = state.ranges_given, 0
            return self.answer(200, str(given))
        if path.startswith("/_control/endless/"):
            state.endless = path.endswith("/1")
            return self.answer(200)
        with state.lock:
            if state.parts_left == 0:
                return self.refuse(403, "Cut")
            if not self.signature_fits(path, query, body):
                return self.refuse(403, "SignatureDoesNotMatch")
            bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
            if bucket != "bucket":
                return self.refuse(404, "NoSuchBucket")
            asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
            return getattr(self, "do_" + self.command.lower())(state, key, asked, body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one

    def do_put(self, state, key, asked, body):
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        if "uploadId" in asked:
            if asked["uploadId"] not in state.uploads:
                return self.refuse(404, "NoSuchUpload")
            state.parts_left -= 1
            state.uploads[asked["uploadId"]][2][int(asked["partNumber"])] = body
        else:
            state.objects[key] = (body, self.headers.get("x-amz-meta-atoll-root", ""))
        return self.answer(200, headers=[("ETag", etag)])

    def do_post(self, state, key, asked, body):
        if "uploads" in asked:
            upload = f"upload/{len(state.uploads)}+="
            state.uploads[upload] = (key, self.headers.get("x-amz-meta-atoll-root", ""), {})
            return self.answer(200, "<R><UploadId>" + escape(upload) + "</UploadId></R>")
        if asked.get("uploadId") not in state.uploads:
            return self.refuse(404, "NoSuchUpload")
        _, root, parts = state.uploads[asked["uploadId"]]
        named = re.findall(r"<PartNumber>(\d+)</PartNumber><ETag>\"([0-9a-f]+)\"</ETag>",
                           body.decode())
        for number, etag in named:
            if hashlib.md5(parts.get(int(number), b"?")).hexdigest() != etag:
                return self.answer(200, "<Error><Code>InvalidPart</Code></Error>")
        state.objects[key] = (b"".join(parts[int(number)] for number, _ in named), root)
        del state.uploads[asked["uploadId"]]
        if state.lost_answers > 0:
            state.lost_answers -= 1
            return self.refuse(503, "ServiceUnavailable")
        return self.answer(200, "<CompleteMultipartUploadResult/>")

    def do_get(self, state, key, asked, _):
        if "uploads" in asked:
            text = "".join(f"<Upload><Key>{escape(name)}</Key><UploadId>{escape(upload)}</UploadId>"
                           "<Initiated>2026-01-01T00:00:00.000Z</Initiated></Upload>"
                           for upload, (name, _, _) in state.uploads.items()
                           if name.startswith(asked["prefix"]))
            return self.answer(200, f"<R>{text}</R>")
        if "uploadId" in asked:
            after = int(asked.get("part-number-marker", 0))
            parts = [(number, part) for number, part in sorted(state.uploads[asked["uploadId"]][2]
                                                               .items()) if number > after]
            # Pages of one, so that they are tried.
            text = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;"
                           f"{hashlib.md5(part).hexdigest()}&quot;</ETag><Size>{len(part)}</Size>"
                           f"</Part><NextPartNumberMarker>{number}</NextPartNumberMarker>"
                           for number, part in parts[:1])
            return self.answer(200, f"<R><IsTruncated>{str(len(parts) > 1).lower()}</IsTruncated>"
                                    f"{text}</R>")
        if "list-type" in asked:
            return self.answer(200, self.listing(state, asked))
        if key not in state.objects:
            return self.refuse(404, "NoSuchKey")
        data, root = state.objects[key]
        headers = [("x-amz-meta-atoll-root", root)]
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match:
            if state.ranges_left == 0:
                return self.refuse(403, "Cut")
            state.ranges_left -= 1
            state.ranges_given += int(match[2]) + 1 - int(match[1])
            return self.answer(206, data[int(match[1]):int(match[2]) + 1], headers)
        if self.command == "HEAD":
            headers.append(("Content-Length", str(len(data))))
        return self.answer(200, data, headers)

    do_head = do_get

    @staticmethod
    def listing(state, asked):
        prefix, delimiter = asked["prefix"], asked.get("delimiter")
        if state.endless:
            text = "<Contents><Key>x</Key></Contents>" * 30000
            return (f"<R><IsTruncated>true</IsTruncated><NextContinuationToken>x"
                    f"</NextContinuationToken>{text}</R>")
        entries = set()
        for name in state.objects:
            if name.startswith(prefix):
                rest = name[len(prefix):]
                if delimiter and delimiter in rest:
                    entries.add((prefix + rest.split(delimiter)[0] + delimiter, True))
                else:
                    entries.add((name, False))
        after = asked.get("continuation-token", "")
        page = sorted(entry for entry in entries if entry[0] > after)
        text = "".join(f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
                       if folder else f"<Contents><Key>{escape(name)}</Key></Contents>"
                       for name, folder in page[:2])
        more = len(page) > 2
        token = ""
        if more:
            token = f"<NextContinuationToken>{escape(page[1][0])}</NextContinuationToken>"
        return f"<R><IsTruncated>{str(more).lower()}</IsTruncated>{token}{text}</R>"

    def do_delete(self, state, key, _asked, _body):
        state.objects.pop(key, None)
        return self.answer(204)


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.objects = {}
        self.uploads = {}
        self.parts_left = -1  # below 0: no cut
        self.lost_answers = 0
        self.ranges_left = -1  # below 0: no end
        self.ranges_given = 0  # bytes
        self.endless = False


SERVERS = {}  # by URL


def objects(url):
    """The server's objects: key -> (bytes, root)."""
    return SERVERS[url].state.objects


def start():
    """Serves in a thread; the answer is its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.state = State()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    SERVERS[url] = server
    return url
