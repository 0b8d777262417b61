@attempt("what Codex sends passes", "200")
def _():
    return post(body())


@attempt("other paths", "403")
def _():
    paths = [
        "/v1/files",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/responses/resp_1",
        "/v1/responses/",
        "/responses",
        "/",
        "/v1",
        "/v1/conversations",
        "/v1/vector_stores",
        "/v1/containers",
        "/v1/uploads",
        "/v1/batches",
        "/backend-api/codex/responses",
        "/admin",
    ]
    return statuses(post(body(), path=p) for p in paths)


@attempt("paths in other spellings", "400|403")
def _():
    paths = [
        "/v1/../v1/files",
        "/v1/responses/../files",
        "//v1/responses",
        "/v1//responses",
        "/v1/%72esponses",
        "/v1/responses%2f..%2ffiles",
        "/V1/RESPONSES",
        "/v1/responses?x=1",
        "/v1/responses;x",
        "/./v1/responses",
        "/v1/responses\\..\\files",
    ]
    return statuses(post(body(), path=p) for p in paths)


@attempt("other methods", "400|403")
def _():
    return statuses(
        post(body(), method=m)
        for m in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "post", "MAGIC")
    )


@attempt("a tunnel through it", "403")
def _():
    return status(http(b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: 169.254.169.254\r\n\r\n", 1))


@attempt("another host in the request line", "403 200")
def _():
    return (
        post(body(), path="http://169.254.169.254/latest/meta-data")
        + " "
        + post(
            body(), path="http://169.254.169.254/v1/responses", headers="x-forwarded-host: evil\r\n"
        )
    )


@attempt("another host in a header", "200")
def _():
    return post(
        body(),
        headers="x-forwarded-host: evil.example\r\nforwarded: host=evil.example\r\nx-original-url: /v1/files\r\nx-rewrite-url: /v1/files\r\n",
    )


@attempt("a WebSocket", "426")
def _():
    return status(
        http(
            b"GET /v1/responses HTTP/1.1\r\nhost: g\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            1,
        )
    )


@attempt("HTTP/2", "closed 403|400 403")
def _():
    return (
        status(http(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 1))
        + " "
        + status(
            http(
                b"GET /v1/files HTTP/1.1\r\nhost: g\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
                1,
            )
        )
    )


@attempt("bytes that are no HTTP", "400 400|closed closed|400 closed|closed 400")
def _():
    return status(http(b"\x16\x03\x01" + bytes(200), 1)) + " " + status(http(b"hello\n\n", 1))
