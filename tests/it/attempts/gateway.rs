//! The gateway: its other paths, what the provider could be made to do, bodies and headers.

use mcp_codex_orchestrator::model::scripted::Step;
use serde_json::Value;

use super::{Attempt, attempt, attempted, finish, options, script, stop};
use crate::need_engine;
use crate::support::Server;

const PATHS: &[Attempt] = &[
    attempt("what Codex sends passes", "return post(body())", "200"),
    attempt("other paths", "paths = ['/v1/files', '/v1/models', '/v1/chat/completions', '/v1/responses/resp_1', '/v1/responses/', '/responses', '/', '/v1', '/v1/conversations', '/v1/vector_stores', '/v1/containers', '/v1/uploads', '/v1/batches', '/backend-api/codex/responses', '/admin']
return each(lambda p=p: post(body(), path=p) == '403' and os.open('/403', 0) for p in paths)", "ENOENT"),
    attempt("paths in other spellings", "paths = ['/v1/../v1/files', '/v1/responses/../files', '//v1/responses', '/v1//responses', '/v1/%72esponses', '/v1/responses%2f..%2ffiles', '/V1/RESPONSES', '/v1/responses?x=1', '/v1/responses;x', '/./v1/responses', '/v1/responses\\\\..\\\\files']
return each(lambda p=p: post(body(), path=p) in ('403', '400') and os.open('/403', 0) for p in paths)", "ENOENT"),
    attempt("other methods", "return each(lambda m=m: post(body(), method=m) == '403' and os.open('/403', 0) for m in ('GET', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'HEAD', 'TRACE', 'post', 'MAGIC'))", "ENOENT"),
    attempt("a tunnel through it", "return status(http(b'CONNECT 169.254.169.254:80 HTTP/1.1\\r\\nhost: 169.254.169.254\\r\\n\\r\\n', 1))", "403"),
    attempt("another host in the request line", "return post(body(), path='http://169.254.169.254/latest/meta-data') + ' ' + post(body(), path='http://169.254.169.254/v1/responses', headers='x-forwarded-host: evil\\r\\n')", "403 200"),
    attempt("another host in a header", "return post(body(), headers='x-forwarded-host: evil.example\\r\\nforwarded: host=evil.example\\r\\nx-original-url: /v1/files\\r\\nx-rewrite-url: /v1/files\\r\\n')", "200"),
    attempt("a WebSocket", "return status(http(b'GET /v1/responses HTTP/1.1\\r\\nhost: g\\r\\nconnection: upgrade\\r\\nupgrade: websocket\\r\\nsec-websocket-version: 13\\r\\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\n\\r\\n', 1))", "426"),
    attempt("HTTP/2", "return status(http(b'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n' + bytes(9), 1)) + ' ' + status(http(b'GET /v1/files HTTP/1.1\\r\\nhost: g\\r\\nconnection: upgrade, http2-settings\\r\\nupgrade: h2c\\r\\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\\r\\n\\r\\n', 1))", "closed 403|400 403"),
    attempt("bytes that are no HTTP", "return status(http(b'\\x16\\x03\\x01' + bytes(200), 1)) + ' ' + status(http(b'hello\\n\\n', 1))", "400 400|closed closed|400 closed|closed 400"),
];

const BODIES: &[Attempt] = &[
    attempt("hosted tools", "kinds = ['web_search', 'web_search_preview', 'code_interpreter', 'file_search', 'image_generation', 'computer_use_preview', 'mcp', 'programmatic_tool_calling', 'tool_search', 'shell', 'anything']
return each(lambda k=k: post(body('\"tools\":[{\"type\":\"%s\"}],' % k)) == '400' and os.open('/400', 0) for k in kinds)", "ENOENT"),
    attempt("hosted tools among the input", "kinds = ['web_search', 'mcp', 'code_interpreter', 'anything']
return each(lambda k=k: post(body(items=',{\"type\":\"additional_tools\",\"tools\":[{\"type\":\"%s\"}]}' % k)) == '400' and os.open('/400', 0) for k in kinds)", "ENOENT"),
    attempt("hosted tools within others", "tries = ['\"tools\":[{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":\"web_search\"}]}],', '\"tool_choice\":{\"type\":\"web_search\"},', '\"tool_choice\":{\"type\":\"allowed_tools\",\"tools\":[{\"type\":\"mcp\"}]},', '\"tools\":[{\"type\":\"web_\\\\u0073earch\"}],', '\"t\\\\u006fols\":[{\"type\":\"web_search\"}],', '\"tools\":{\"type\":\"web_search\"},', '\"tools\":[\"web_search\"],', '\"tools\":[{\"type\":[\"web_search\"]}],', '\"tools\":[{\"type\":\"function\",\"type\":\"web_search\"}],', '\"tools\":[],\"tools\":[{\"type\":\"web_search\"}],']
return each(lambda t=t: post(body(t)) == '400' and os.open('/400', 0) for t in tries)", "ENOENT"),
    attempt("a server for the provider to ask", "return post(body('\"tools\":[{\"type\":\"mcp\",\"server_label\":\"x\",\"server_url\":\"https://evil.example/mcp\",\"require_approval\":\"never\"}],'))", "400"),
    attempt("addresses for the provider to fetch", "import json
def item(part):
    return post(body(items=',' + json.dumps({'type': 'message', 'role': 'user', 'content': [part]})))
parts = [{'type': 'input_image', 'image_url': 'https://evil.example/?leak'}, {'type': 'input_image', 'image_url': {'url': 'http://evil.example'}}, {'type': 'input_file', 'file_url': 'https://evil.example/x'}, {'type': 'input_image', 'image_url': ' https://evil.example'}, {'type': 'input_image', 'image_url': 'HTTPS://evil.example'}, {'type': 'input_image', 'image_url': '//evil.example'}, {'type': 'input_audio', 'audio_url': 'ftp://evil.example'}, {'type': 'input_file', 'file_url': 'file:///etc/passwd'}]
return each(lambda p=p: item(p) == '400' and os.open('/400', 0) for p in parts)", "ENOENT"),
    attempt("addresses in the answer of a tool", "return post(body(items=',{\"type\":\"function_call_output\",\"call_id\":\"x\",\"output\":[{\"type\":\"input_image\",\"image_url\":\"https://evil.example/\"}]}')) + ' ' + post(body(items=',{\"type\":\"computer_call_output\",\"call_id\":\"x\",\"output\":{\"type\":\"computer_screenshot\",\"image_url\":\"https://evil.example/\"}}'))", "400 400"),
    attempt("what is stored at the provider", "tries = ['\"previous_response_id\":\"resp_1\",', '\"conversation\":\"conv_1\",', '\"conversation\":{\"id\":\"conv_1\"},', '\"prompt\":{\"id\":\"pmpt_1\"},', '\"background\":true,']
return each(lambda t=t: post(body(t)) == '400' and os.open('/400', 0) for t in tries) + ' ' + each(lambda i=i: post(body(items=i)) == '400' and os.open('/400', 0) for i in (',{\"type\":\"item_reference\",\"id\":\"msg_1\"}', ',{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_file\",\"file_id\":\"file-1\"}]}'))", "ENOENT ENOENT"),
    attempt("storing there", "passes = body()
tries = [passes.replace('\"store\":false,', ''), passes.replace('false', 'true'), passes.replace('\"store\":false', '\"store\":0'), passes.replace('\"store\":false', '\"store\":null'), passes.replace('\"store\":false', '\"store\":false,\"store\":true'), passes.replace('\"stream\":true', '\"stream\":false')]
return each(lambda t=t: post(t) == '400' and os.open('/400', 0) for t in tries)", "ENOENT"),
    attempt("keys that nobody knows", "return each(lambda k=k: post(body('\"%s\":\"x\",' % k)) == '400' and os.open('/400', 0) for k in ('webhook', 'callback_url', 'files', 'container', 'metadata2', 'n', 'functions'))", "ENOENT"),
    attempt("no JSON, half of it, two of it", "return each(lambda b=b: post(b) == '400' and os.open('/400', 0) for b in ('', '{', 'null', '[]', body() + body(), body() + ' x', '\\ufeff' + body(), '[' * 100000, '{\"input\":' * 50000))", "ENOENT"),
    attempt("a body over the limit", "return post(b'x' * (3 << 20)) + ' ' + status(http(b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\ncontent-length: 1099511627776\\r\\n\\r\\n', 1)) + ' ' + status(http(b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\ncontent-length: 99999999999999999999999\\r\\n\\r\\n', 1))", "413 413 400|413 413 413"),
    attempt("a body without end", "chunk = b'10000\\r\\n' + b'x' * 65536 + b'\\r\\n'
return status(http(b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n' + chunk * 64))", "413"),
    attempt("much packed by gzip", "import zlib
packer = zlib.compressobj(1, wbits=31)
packed = b''.join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
return post(packed, headers='content-encoding: gzip\\r\\n')", "413"),
    attempt("a gibibyte packed by zstd", "block = (1 << 1 | (128 << 10) << 3).to_bytes(3, 'little') + b' '
packed = b'\\x28\\xb5\\x2f\\xfd\\x00\\x58' + block * 8191 + (1 | 1 << 1 | (128 << 10) << 3).to_bytes(3, 'little') + b' '
wide = b'\\x28\\xb5\\x2f\\xfd\\x00\\xf8' + block * 10
return post(packed, headers='content-encoding: zstd\\r\\n') + ' ' + post(wide, headers='content-encoding: zstd\\r\\n')", "413 4"),
    attempt("packed otherwise, or twice", "return each(lambda e=e: post(body(), headers='content-encoding: %s\\r\\n' % e) in ('415', '400') and os.open('/415', 0) for e in ('br', 'deflate', 'gzip, gzip', 'zstd', 'gzip', 'identity, zstd', 'x'))", "ENOENT"),
];

const HEADERS: &[Attempt] = &[
    attempt("two lengths", "inner = 'POST /v1/files HTTP/1.1\\r\\nhost: g\\r\\ncontent-length: 2\\r\\n\\r\\n{}'
return post(inner, headers='content-length: 5\\r\\n')", "400"),
    attempt("a length and chunks", "inner = b'0\\r\\n\\r\\nPOST /v1/files HTTP/1.1\\r\\nhost: g\\r\\nconnection: close\\r\\ncontent-length: 2\\r\\n\\r\\n{}'
said = status(http(b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\ntransfer-encoding: chunked\\r\\ncontent-length: %d\\r\\n\\r\\n' % len(inner) + inner, 1))
return 'nothing passed' if '200' not in said else said", "nothing passed"),
    attempt("chunks in other spellings", "heads = ['transfer-encoding: xchunked', 'transfer-encoding: chunked, identity', 'transfer-encoding : chunked', 'transfer-encoding:\\x0bchunked', 'Transfer-Encoding: chunked\\r\\nTransfer-Encoding: x']
said = [status(http(('POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\nconnection: close\\r\\n%s\\r\\n\\r\\n0\\r\\n\\r\\n' % h).encode(), 1)) for h in heads]
return 'nothing passed' if not [s for s in said if '200' in s] else said", "nothing passed"),
    attempt("a request in the body of another", "inner = 'POST /v1/files HTTP/1.1\\r\\nhost: g\\r\\ncontent-length: 2\\r\\n\\r\\n{}'
return post(body() + inner)", "400"),
    attempt("lines in a header", "said = [status(http(b'POST /v1/responses HTTP/1.1\\r\\nhost: g\\r\\nconnection: close\\r\\n' + h + b'\\r\\ncontent-length: 0\\r\\n\\r\\n', 1)) for h in (b'user-agent: a\\rauthorization: b', b'user-agent: a\\nauthorization: b', b'user-agent: a\\0b', b'x-codex-a: a\\r\\n authorization: b', b'bad name: x', b': x')]
return 'nothing passed' if not [s for s in said if '200' in s] else said", "nothing passed"),
    attempt("credentials and cookies of its own", "return post(body(), headers='authorization: Bearer stolen\\r\\napi-key: stolen\\r\\nx-api-key: stolen\\r\\ncookie: a=stolen\\r\\nproxy-authorization: Basic stolen\\r\\nopenai-organization: stolen\\r\\nopenai-project: stolen\\r\\nchatgpt-account-id: stolen\\r\\nx-forwarded-for: stolen\\r\\n')", "200"),
    attempt("headers of the connection", "return post(body(), headers='te: trailers\\r\\ntrailer: x-stolen\\r\\nkeep-alive: stolen\\r\\nexpect: 100-continue\\r\\nproxy-connection: stolen\\r\\n')", "100 200|200"),
    attempt("headers without end", "return status(http(b'POST /v1/responses HTTP/1.1\\r\\n' + b''.join(b'x-%d: %s\\r\\n' % (i, b'y' * 1000) for i in range(500)) + b'\\r\\n', 1)) + ' ' + status(http(b'POST /v1/responses HTTP/1.1\\r\\n' + b'x-a: b\\r\\n' * 5000 + b'\\r\\n', 1)) + ' ' + status(http(b'GET /' + b'a' * 200000 + b' HTTP/1.1\\r\\n\\r\\n', 1))", "431|414|400|closed"),
    attempt("many requests in one connection", "one = b'GET /v1/files HTTP/1.1\\r\\nhost: g\\r\\n\\r\\n'
said = status(http(one * 200, 1)).split()
return 'each refused' if said and set(said) == {'403'} else said", "each refused"),
];

/// What reached the provider: only what Codex sends, as it sends it.
fn only_responses(server: &Server) {
    let requests = server.model.as_ref().unwrap().requests();
    assert!(requests.len() > 2);
    for request in &requests {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/responses"));
        let address = server.model.as_ref().unwrap().address().to_string();
        for (name, value) in &request.headers {
            assert!(!value.contains("stolen") && !value.contains("evil"), "{name}: {value}");
            let credential = ["authorization", "cookie", "api-key", "x-api-key"];
            assert!(!credential.contains(&name.as_str()), "{name}");
            assert!(name != "host" || *value == address, "{value}");
        }
        let body = request.body.as_ref().unwrap();
        assert_eq!((&body["store"], &body["stream"]), (&Value::Bool(false), &Value::Bool(true)));
        let kinds = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        for kind in kinds {
            let kind = kind["type"].as_str().unwrap();
            assert!(["function", "custom", "namespace", "local_shell"].contains(&kind), "{kind}");
        }
    }
}

/// Makes the attempts, and looks at what the provider got and what the caller is told.
async fn through_the_gateway(attempts: &[Attempt], told: &str) {
    let mut server = attempted(attempts, "").await;
    let attacked = finish(&mut server, attempts).await;
    only_responses(&server);
    let notes = attacked["notes"].to_string();
    assert!(notes.contains(told), "{notes}");
    stop(server).await;
}

#[tokio::test]
async fn only_what_codex_sends_passes_the_gateway() {
    need_engine!();
    through_the_gateway(PATHS, "model access: POST /v1/files is refused").await;
}

#[tokio::test]
async fn the_provider_cannot_be_made_to_reach_out_or_to_keep_anything() {
    need_engine!();
    through_the_gateway(BODIES, "runs at the provider").await;
}

#[tokio::test]
async fn headers_bring_nothing_past_the_gateway() {
    need_engine!();
    through_the_gateway(HEADERS, "is refused").await;
}

#[tokio::test]
async fn requests_beyond_a_runs_rate_end_and_the_next_run_has_its_own() {
    need_engine!();
    let program = format!("{}\nprint([post(body()) for _ in range(30)])", super::PRELUDE);
    let steps = vec![Step::run(super::in_python(&program, "said.txt")), Step::Say("Tried.".into())];
    let options = || options().set("model", "max_per_minute = 20");
    let mut server = Server::start(script(steps), options()).await;
    server.ready().await;
    let as_ever = super::undisturbed(options()).await;
    let attacked = server.run("Try it").await;
    let notes = attacked["notes"].to_string();
    assert!(notes.contains("more than 20 in a minute (model.max_per_minute)"), "{attacked}");
    super::restore(&server);
    let asked = server.model.as_ref().unwrap().requests().len();
    assert!(asked < 28, "the provider was asked {asked} times");
    super::next_is_as_ever(&mut server, &attacked, super::Then::Reset, &as_ever).await;
    stop(server).await;
}
