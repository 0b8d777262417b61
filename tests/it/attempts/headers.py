@attempt("two lengths", "400")
def _():
    inner = "POST /v1/files HTTP/1.1\r\nhost: g\r\ncontent-length: 2\r\n\r\n{}"
    return post(inner, headers="content-length: 5\r\n")


@attempt("a length and chunks", "nothing passed")
def _():
    inner = b"0\r\n\r\nPOST /v1/files HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
    said = status(
        http(
            b"POST /v1/responses HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\ncontent-length: %d\r\n\r\n"
            % len(inner)
            + inner,
            1,
        )
    )
    return "nothing passed" if "200" not in said else said


@attempt("chunks in other spellings", "nothing passed")
def _():
    heads = [
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "transfer-encoding : chunked",
        "transfer-encoding:\x0bchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    ]
    said = [
        status(
            http(
                (
                    "POST /v1/responses HTTP/1.1\r\nhost: g\r\nconnection: close\r\n%s\r\n\r\n0\r\n\r\n"
                    % h
                ).encode(),
                1,
            )
        )
        for h in heads
    ]
    return "nothing passed" if not [s for s in said if "200" in s] else said


@attempt("a request in the body of another", "400")
def _():
    inner = "POST /v1/files HTTP/1.1\r\nhost: g\r\ncontent-length: 2\r\n\r\n{}"
    return post(body() + inner)


@attempt("lines in a header", "nothing passed")
def _():
    said = [
        status(
            http(
                b"POST /v1/responses HTTP/1.1\r\nhost: g\r\nconnection: close\r\n"
                + h
                + b"\r\ncontent-length: 0\r\n\r\n",
                1,
            )
        )
        for h in (
            b"user-agent: a\rauthorization: b",
            b"user-agent: a\nauthorization: b",
            b"user-agent: a\0b",
            b"x-codex-a: a\r\n authorization: b",
            b"bad name: x",
            b": x",
        )
    ]
    return "nothing passed" if not [s for s in said if "200" in s] else said


@attempt("credentials and cookies of its own", "200")
def _():
    return post(
        body(),
        headers="authorization: Bearer stolen\r\napi-key: stolen\r\nx-api-key: stolen\r\ncookie: a=stolen\r\nproxy-authorization: Basic stolen\r\nopenai-organization: stolen\r\nopenai-project: stolen\r\nchatgpt-account-id: stolen\r\nx-forwarded-for: stolen\r\n",
    )


@attempt("headers of the connection", "100 200|200")
def _():
    return post(
        body(),
        headers="te: trailers\r\ntrailer: x-stolen\r\nkeep-alive: stolen\r\nexpect: 100-continue\r\nproxy-connection: stolen\r\n",
    )


@attempt("headers without end", "431|414|400|closed")
def _():
    return (
        status(
            http(
                b"POST /v1/responses HTTP/1.1\r\n"
                + b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(500))
                + b"\r\n",
                1,
            )
        )
        + " "
        + status(http(b"POST /v1/responses HTTP/1.1\r\n" + b"x-a: b\r\n" * 5000 + b"\r\n", 1))
        + " "
        + status(http(b"GET /" + b"a" * 200000 + b" HTTP/1.1\r\n\r\n", 1))
    )


@attempt("many requests in one connection", "each refused")
def _():
    one = b"GET /v1/files HTTP/1.1\r\nhost: g\r\n\r\n"
    said = status(http(one * 200, 1)).split()
    return "each refused" if said and set(said) == {"403"} else said
