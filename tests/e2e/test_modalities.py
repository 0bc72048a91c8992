"""Parts that are no text are refused in every dialect, by a code and a message that names what the model reads."""
import json

import pytest

import wire

URL = "data:image/png;base64,AAAA"
CHAT_PARTS = [{"type": "image_url", "image_url": {"url": URL}}, {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
              {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}}, {"type": "video_url", "video_url": {"url": URL}}]
RESPONSES_PARTS = [{"type": "input_image", "image_url": URL}, {"type": "input_file", "file_id": "file_1"},
                   {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]
SOURCE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
MESSAGES_PARTS = [{"type": "image", "source": SOURCE}, {"type": "document", "source": SOURCE}]


def cases():
    """(path, body, param)"""
    text = {"type": "text", "text": "What is this?"}
    for part in CHAT_PARTS:
        for path in ("/v1/chat/completions", "/v1/chat/completions/input_tokens", "/tokenize", "/apply-template"):
            yield path, {"messages": [{"role": "user", "content": [text, part]}]}, "messages[0].content"
        yield "/v1/chat/completions", {"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c", "content": [part]}]}, "messages[2].content"
    for part in RESPONSES_PARTS:
        for path in ("/v1/responses", "/v1/responses/input_tokens"):
            yield path, {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}, part]}]}, "input[0]"
        yield "/v1/responses", {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                                          {"type": "function_call_output", "call_id": "c", "output": [part]}]}, "input[1]"
    for part in MESSAGES_PARTS:
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            yield path, {"max_tokens": 4, "messages": [{"role": "user", "content": [text, part]}]}, None
            yield path, {"max_tokens": 4, "messages": [
                {"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [part]}]}]}, None
    for name in ("image_data", "audio_data", "video_data"):
        yield "/generate", {"text": "What is this?", name: URL}, name
        yield "/generate", {"text": ["a", "b"], name: [URL, URL]}, name


@pytest.fixture(scope="module")
def small(tiny_model):
    from conftest import Server
    s = Server(tiny_model("llama"), "--ctx-size", 512)
    yield s
    assert s.stop() == 0, s.log


@pytest.mark.parametrize("path,body,param", cases())
def test_it_is_refused(small, path, body, param):
    for is_stream in (False, True) if path in wire.PATHS.values() else (False,):
        status, _, data = wire.post(small.port, path, {**body, "stream": True} if is_stream else body)
        reply = json.loads(data)
        assert status == 400 and reply["error"]["type"] == "invalid_request_error"
        assert "reads text only" in reply["error"]["message"] and "AAAA" not in data.decode()
        if param is None:
            assert reply["type"] == "error"
        else:
            assert (reply["error"]["code"], reply["error"]["param"]) == ("unsupported_modality", param)


def test_unknown_parts_are_no_modality(small):
    status, _, data = wire.post(small.port, "/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "zzz", "text": "a"}]}]})
    assert status == 400 and json.loads(data)["error"]["code"] == "invalid_type"


def test_empty_lists_of_images_are_none(small):
    status, _, _ = wire.post(small.port, "/generate", {"text": "a", "image_data": [], "audio_data": None,
                                                       "sampling_params": {"max_new_tokens": 1}})
    assert status == 200


def test_other_outputs_are_refused(small):
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    status, _, data = wire.post(small.port, "/v1/chat/completions", {**body, "modalities": ["text", "audio"]})
    assert status == 400 and json.loads(data)["error"]["code"] == "unsupported_modality"
    assert wire.post(small.port, "/v1/chat/completions", {**body, "modalities": ["text"]})[0] == 200
