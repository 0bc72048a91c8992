"""Random requests whose replies are determined: greedy, or sampled with a seed.

`chat_request` makes one that chat, Responses and Messages can all say; `chat_body` says it in one of them.
`text_request` and `text_body` do the same for completions and /generate.
"""
import json

WORDS = "weather Paris tool call city json list three short why äöü 日本 🙂 <tool_call> <think> </think> { } \n \" \\".split(" ")
LEAF = [{"type": "integer", "minimum": 0, "maximum": 99}, {"type": "boolean"}, {"enum": ["red", "green", "ä", "a\"b"]},
        {"type": "string", "maxLength": 6}, {"type": "null"}, {"type": "string", "pattern": "^[a-z]{2,4}$"}]


def words(dice, most):
    return " ".join(dice.choice(WORDS) for _ in range(dice.randrange(1, most)))


def schema(dice, depth=2):
    kind = dice.randrange(3 if depth else 1)
    if kind == 0:
        return dice.choice(LEAF)
    if kind == 1:
        return {"type": "array", "items": schema(dice, depth - 1), "maxItems": dice.randrange(1, 4)}
    return object_schema(dice, depth - 1)


def object_schema(dice, depth=1):
    names = dice.sample(["a", "city", "long_name", "ü", "x y"], dice.randrange(1, 4))
    return {"type": "object", "properties": {n: schema(dice, depth) for n in names}, "required": names[:1],
            "additionalProperties": False}


def form(dice):
    """A field that says what the whole output has to be."""
    return dice.choice([
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": object_schema(dice)}}},
        {"response_format": {"type": "json_object"}}, {"regex": "[a-c]{2,5}(, [0-9]{1,3}){0,4}"},
        {"regex": "<think>[a-z ]{0,9}(</think>|</thin)\n{0,2}[a-z]{0,9}"},
        {"regex": "<think>([a-c]{0,3}\n){0,3}</think>[\n ]{0,2}[a-d]{0,3}"}, {"guided_choice": ["yes", "no", "ya", "日本"]},
        {"grammar": 'root ::= ("a" | "ä" | "🙂")+ "<stop>" [0-9]{2,3}'}])


def sampling(dice):
    fields = {"temperature": 0}
    if dice.randrange(3) == 0:
        fields = {"temperature": dice.choice([0.5, 1, 1.5]), "seed": dice.randrange(1 << 40)}
        fields.update(dice.choice([{}, {"top_p": 0.9}, {"top_k": 5}]))
    return fields


def extras(dice):
    """Fields beyond those that every dialect has a name for, taken by all of them."""
    return dice.choice([{}, {}, {}, {"repetition_penalty": 1.3}, {"frequency_penalty": 0.5}, {"min_p": 0.05},
                        {"logit_bias": {"40": 5, "41": -100}}, {"skip_special_tokens": False}, {"min_tokens": 4},
                        {"ignore_eos": True}, {"include_stop_str_in_output": True}, {"reasoning_budget": 5},
                        {"reasoning_budget": 20}])


MARKS = ["<think>", "</think>", "<tool_call>", "</tool_call>", '{"name": "f", "parameters": {}}']


def marks_only(dice, ids):
    """Only tokens of one or two marks and a few others, so that marks are written, and what looks like them.
    `ids` has the tokens of each of MARKS."""
    allowed = {i for mark in dice.sample(ids, dice.randrange(1, 3)) for i in mark} | {dice.randrange(300, 320)}
    return {"allowed_token_ids": sorted(allowed), "temperature": 1, "seed": dice.randrange(1 << 40)}


def stops(dice, seen):
    """Some of what a model has said before, so that it is found, and of it a part, so that it nearly is."""
    found = []
    for _ in range(dice.choice([0, 0, 1, 2, 4])):
        text = dice.choice(seen or ["\n"])
        begin = dice.randrange(len(text))
        found.append(text[begin:begin + dice.choice([1, 1, 2, 3, 6])] + dice.choice(["", "", "", "~"]))
    return found


def tools(dice):
    names = dice.sample(["get_weather", "add", "f", "a.b-c"], dice.randrange(1, 3))
    return [{"name": n, "description": words(dice, 4), "parameters": object_schema(dice)} for n in names]


def conversation(dice, has_tools):
    messages = []
    for i in range(dice.randrange(0, 3)):
        messages.append({"role": "user", "content": words(dice, 8)})
        if has_tools and dice.randrange(2):
            messages.append({"role": "assistant", "content": None, "tool_calls": [{
                "id": f"call_{i}", "type": "function",
                "function": {"name": "get_weather", "arguments": json.dumps({"city": words(dice, 3), "x": 0.1}, ensure_ascii=False)}}]})
            messages.append({"role": "tool", "tool_call_id": f"call_{i}", "content": words(dice, 5)})
        else:
            messages.append({"role": "assistant", "content": words(dice, 8)})
    return messages + [{"role": "user", "content": words(dice, 12)}]


def chat_request(dice, seen, mark_ids):
    offered = tools(dice) if dice.randrange(3) == 0 else []
    request = {"system": words(dice, 5) if dice.randrange(2) else None, "messages": conversation(dice, bool(offered)),
               "tools": offered, "limit": dice.choice([1, 2, dice.randrange(1, 60), dice.randrange(20, 120), 200]),
               "stop": stops(dice, seen), "sampling": sampling(dice), "extras": extras(dice), "choice": None, "form": {}}
    if offered:
        request["choice"] = dice.choice([None, "auto", "none", "required", "required", "required", offered[0]["name"]])
        request["parallel"] = dice.choice([True, False])
    elif dice.randrange(2) == 0:
        request["form"] = form(dice)
    if not request["form"] and request["choice"] in (None, "auto", "none") and dice.randrange(2) == 0:
        request["sampling"] = marks_only(dice, mark_ids)
    return request


def choice_of(request, dialect):
    choice = request["choice"]
    if dialect == "messages":
        kinds = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}
        made = kinds.get(choice or "auto", {"type": "tool", "name": choice})
        return {"tool_choice": {**made, "disable_parallel_tool_use": not request["parallel"]}}
    if choice in (None, "auto", "none", "required"):
        made = choice
    else:
        made = {"type": "function", "name": choice} if dialect == "responses" else {
            "type": "function", "function": {"name": choice}}
    return {"tool_choice": made, "parallel_tool_calls": request["parallel"]}


def responses_items(messages):
    for m in messages:
        if m["role"] == "tool":
            yield {"type": "function_call_output", "call_id": m["tool_call_id"], "output": m["content"]}
        elif m.get("tool_calls"):
            call = m["tool_calls"][0]
            yield {"type": "function_call", "call_id": call["id"], **call["function"]}
        else:
            yield m


def messages_turns(messages):
    for m in messages:
        if m["role"] == "tool":
            yield {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "toolu_" + m["tool_call_id"], "content": m["content"]}]}
        elif m.get("tool_calls"):
            call = m["tool_calls"][0]
            yield {"role": "assistant", "content": [
                {"type": "tool_use", "id": "toolu_" + call["id"], "name": call["function"]["name"],
                 "input": json.loads(call["function"]["arguments"])}]}
        else:
            yield m


def chat_body(request, dialect):
    body = {**request["sampling"], **request["extras"], **request["form"]}
    if request["tools"]:
        body.update(choice_of(request, dialect))
    if dialect == "chat":
        system = [{"role": "system", "content": request["system"]}] if request["system"] else []
        body.update(messages=system + request["messages"], max_tokens=request["limit"], stop=request["stop"])
        if request["tools"]:
            body["tools"] = [{"type": "function", "function": t} for t in request["tools"]]
    elif dialect == "responses":
        body.update(input=list(responses_items(request["messages"])), max_output_tokens=request["limit"],
                    stop=request["stop"], instructions=request["system"])
        if request["tools"]:
            body["tools"] = [{"type": "function", **t} for t in request["tools"]]
    else:
        body.update(messages=list(messages_turns(request["messages"])), max_tokens=request["limit"],
                    stop_sequences=request["stop"], system=request["system"])
        if request["tools"]:
            body["tools"] = [{"name": t["name"], "description": t["description"], "input_schema": t["parameters"]}
                             for t in request["tools"]]
    return body


def chat_only(dice):
    """What only a chat can say; none of it changes the first choice."""
    fields = {}
    if dice.randrange(2):
        fields["n"] = dice.randrange(2, 5)
    if dice.randrange(2):
        fields.update(logprobs=True, top_logprobs=dice.randrange(0, 4))
    if dice.randrange(3) == 0:
        fields["return_token_ids"] = True
    return fields


def text_request(dice, seen):
    has_form = dice.randrange(3) == 0
    prompts = [words(dice, 12) for _ in range(dice.choice([1, 1, 2, 3]))]
    return {"prompts": prompts, "limit": dice.choice([0, 1, 2, dice.randrange(1, 80)]), "stop": stops(dice, seen),
            "sampling": sampling(dice), "form": form(dice) if has_form else {}, "n": dice.choice([1, 1, 2, 4]),
            "logprobs": dice.choice([None, None, 0, 3])}


def llama_body(request, prompts):
    form_fields = dict(request["form"])
    if not set(form_fields) <= {"grammar"}:
        return None
    body = {**request["sampling"], **form_fields, "prompt": prompts, "n_cmpl": request["n"], "n_predict": request["limit"],
            "stop": request["stop"], "return_tokens": True, "n_probs": request["logprobs"] or 0, "repeat_last_n": 64}
    order = ["temperature", "top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc"]
    return {"top_k": 0, "top_p": 1, "min_p": 0, "samplers": order, **body}  # as they are elsewhere


def text_body(request, dialect):
    """None: the dialect has no word for it."""
    prompts = request["prompts"] if len(request["prompts"]) > 1 else request["prompts"][0]
    fields = {**request["sampling"], "n": request["n"], "stop": request["stop"]}
    if dialect == "completions":
        return {**fields, **request["form"], "prompt": prompts, "max_tokens": request["limit"],
                "logprobs": request["logprobs"]}
    if dialect == "completion":
        return llama_body(request, prompts)
    form_fields = dict(request["form"])
    if "grammar" in form_fields:
        form_fields = {"ebnf": form_fields["grammar"]}
    elif not set(form_fields) <= {"regex"}:
        return None
    fields["max_new_tokens"] = request["limit"]
    if "seed" in fields:
        fields["sampling_seed"] = fields.pop("seed")
    body = {"text": prompts, "sampling_params": {**fields, **form_fields}}
    if request["logprobs"] is not None:
        body.update(return_logprob=True, top_logprobs_num=request["logprobs"], return_text_in_logprobs=True)
    return body


def completions_only(dice):
    fields = {}
    if dice.randrange(3) == 0:
        fields["echo"] = True
    if dice.randrange(3) == 0:
        fields["return_token_ids"] = True
    if dice.randrange(6) == 0:
        fields["return_tokens_as_token_ids"] = True
    return fields
