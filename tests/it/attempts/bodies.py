@attempt("hosted tools", "400")
def _():
    kinds = [
        "web_search",
        "web_search_preview",
        "code_interpreter",
        "file_search",
        "image_generation",
        "computer_use_preview",
        "mcp",
        "programmatic_tool_calling",
        "tool_search",
        "shell",
        "anything",
    ]
    return statuses(post(body('"tools":[{"type":"%s"}],' % k)) for k in kinds)


@attempt("hosted tools among the input", "400")
def _():
    kinds = ["web_search", "mcp", "code_interpreter", "anything"]
    return statuses(
        post(body(items=',{"type":"additional_tools","tools":[{"type":"%s"}]}' % k)) for k in kinds
    )


@attempt("hosted tools within others", "400")
def _():
    tries = [
        '"tools":[{"type":"namespace","name":"n","tools":[{"type":"web_search"}]}],',
        '"tool_choice":{"type":"web_search"},',
        '"tool_choice":{"type":"allowed_tools","tools":[{"type":"mcp"}]},',
        '"tools":[{"type":"web_\\u0073earch"}],',
        '"t\\u006fols":[{"type":"web_search"}],',
        '"tools":{"type":"web_search"},',
        '"tools":["web_search"],',
        '"tools":[{"type":["web_search"]}],',
        '"tools":[{"type":"function","type":"web_search"}],',
        '"tools":[],"tools":[{"type":"web_search"}],',
    ]
    return statuses(post(body(t)) for t in tries)


@attempt("a server for the provider to ask", "400")
def _():
    return post(
        body(
            '"tools":[{"type":"mcp","server_label":"x","server_url":"https://evil.example/mcp","require_approval":"never"}],'
        )
    )


@attempt("addresses for the provider to fetch", "400")
def _():
    import json

    def item(part):
        return post(
            body(items="," + json.dumps({"type": "message", "role": "user", "content": [part]}))
        )

    parts = [
        {"type": "input_image", "image_url": "https://evil.example/?leak"},
        {"type": "input_image", "image_url": {"url": "http://evil.example"}},
        {"type": "input_file", "file_url": "https://evil.example/x"},
        {"type": "input_image", "image_url": " https://evil.example"},
        {"type": "input_image", "image_url": "HTTPS://evil.example"},
        {"type": "input_image", "image_url": "//evil.example"},
        {"type": "input_audio", "audio_url": "ftp://evil.example"},
        {"type": "input_file", "file_url": "file:///etc/passwd"},
    ]
    return statuses(item(p) for p in parts)


@attempt("addresses in the answer of a tool", "400 400")
def _():
    return (
        post(
            body(
                items=',{"type":"function_call_output","call_id":"x","output":[{"type":"input_image","image_url":"https://evil.example/"}]}'
            )
        )
        + " "
        + post(
            body(
                items=',{"type":"computer_call_output","call_id":"x","output":{"type":"computer_screenshot","image_url":"https://evil.example/"}}'
            )
        )
    )


@attempt("what is stored at the provider", "400 400")
def _():
    tries = [
        '"previous_response_id":"resp_1",',
        '"conversation":"conv_1",',
        '"conversation":{"id":"conv_1"},',
        '"prompt":{"id":"pmpt_1"},',
        '"background":true,',
    ]
    return (
        statuses(post(body(t)) for t in tries)
        + " "
        + statuses(
            post(body(items=i))
            for i in (
                ',{"type":"item_reference","id":"msg_1"}',
                ',{"type":"message","role":"user","content":[{"type":"input_file","file_id":"file-1"}]}',
            )
        )
    )


@attempt("storing there", "400")
def _():
    passes = body()
    tries = [
        passes.replace('"store":false,', ""),
        passes.replace("false", "true"),
        passes.replace('"store":false', '"store":0'),
        passes.replace('"store":false', '"store":null'),
        passes.replace('"store":false', '"store":false,"store":true'),
        passes.replace('"stream":true', '"stream":false'),
    ]
    return statuses(post(t) for t in tries)


@attempt("keys that nobody knows", "400")
def _():
    return statuses(
        post(body('"%s":"x",' % k))
        for k in ("webhook", "callback_url", "files", "container", "metadata2", "n", "functions")
    )


@attempt("no JSON, half of it, two of it", "400")
def _():
    return statuses(
        post(b)
        for b in (
            "",
            "{",
            "null",
            "[]",
            body() + body(),
            body() + " x",
            "\ufeff" + body(),
            "[" * 100000,
            '{"input":' * 50000,
        )
    )


@attempt("a body over the limit", "413 413 400|413 413 413")
def _():
    return (
        post(b"x" * (3 << 20))
        + " "
        + status(
            http(
                b"POST /v1/responses HTTP/1.1\r\nhost: g\r\ncontent-length: 1099511627776\r\n\r\n",
                1,
            )
        )
        + " "
        + status(
            http(
                b"POST /v1/responses HTTP/1.1\r\nhost: g\r\ncontent-length: 99999999999999999999999\r\n\r\n",
                1,
            )
        )
    )


@attempt("a body without end", "413")
def _():
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    return status(
        http(
            b"POST /v1/responses HTTP/1.1\r\nhost: g\r\ntransfer-encoding: chunked\r\n\r\n"
            + chunk * 64
        )
    )


@attempt("much packed by gzip", "413")
def _():
    import zlib

    packer = zlib.compressobj(1, wbits=31)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    return post(packed, headers="content-encoding: gzip\r\n")


@attempt("a gibibyte packed by zstd", "413 4")
def _():
    block = (1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b" "
    packed = (
        b"\x28\xb5\x2f\xfd\x00\x58"
        + block * 8191
        + (1 | 1 << 1 | (128 << 10) << 3).to_bytes(3, "little")
        + b" "
    )
    wide = b"\x28\xb5\x2f\xfd\x00\xf8" + block * 10
    return (
        post(packed, headers="content-encoding: zstd\r\n")
        + " "
        + post(wide, headers="content-encoding: zstd\r\n")
    )


@attempt("packed otherwise, or twice", "400|415")
def _():
    return statuses(
        post(body(), headers="content-encoding: %s\r\n" % e)
        for e in ("br", "deflate", "gzip, gzip", "zstd", "gzip", "identity, zstd", "x")
    )
