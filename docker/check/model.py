"""The least of a model: makes Codex run one command, then says that it is done."""

import http.server
import json

COMMAND = "id -u; echo made by codex > made.txt; rg --version | head -1; git --version"
CALL = {
    "type": "custom_tool_call",
    "id": "call_item",
    "call_id": "call",
    "name": "exec",
    "input": f"const r = await tools.exec_command({{cmd: {json.dumps(COMMAND)}}}); text(r.output);",
}
MESSAGE = {
    "type": "message",
    "id": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "all done"}],
}
USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


class Model(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answered = any(item.get("type", "").endswith("_output") for item in request["input"])
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for event in (
            {"type": "response.created", "response": {"id": "r"}},
            {"type": "response.output_item.done", "output_index": 0, "item": MESSAGE if answered else CALL},
            {"type": "response.completed", "response": {"id": "r", "usage": USAGE}},
        ):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())


http.server.ThreadingHTTPServer(("127.0.0.1", 8787), Model).serve_forever()
