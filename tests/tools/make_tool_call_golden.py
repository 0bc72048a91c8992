#!/usr/bin/env python3
"""Golden texts of tests/data/tool_calls: what models of each family write.

The golden renderings of the chat templates (tests/data/chat_templates/golden.json) hold earlier replies of the
assistant; what stands between a turn's opening and its end mark is what such a model generates. The calls in it are
those that were rendered.

    make_tool_call_golden.py tests/data/chat_templates tests/data/tool_calls/templates.json
"""
import json
import re
import sys
from pathlib import Path

# template, family, reasoning, what a generated turn begins behind, what ends it
TURNS = [
    ("Apertus-8B-Instruct", "apertus", "apertus", "<|assistant_start|>", "[{\"temp\""),
    ("Bielik-11B-v3.0-Instruct", "hermes", "think", "<|im_start|>assistant\n", "<|im_end|>"),
    ("Cohere2MoE", "cohere", "cohere", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
    ("CohereForAI-c4ai-command-r7b-12-2024-tool_use", "cohere", "cohere", "<|CHATBOT_TOKEN|>",
     "<|END_OF_TURN_TOKEN|>"),
    ("GLM-4.7-Flash", "glm45", "think", "<|assistant|>", "<|observation|>"),
    ("GigaChat3.1-10B-A1.8B", "gigachat", None, "assistant<|role_sep|>\n", "<|message_sep|>"),
    ("Kimi-K3", "kimi_k3", "kimi_k3", "<|open|>message role=\"assistant\"<|sep|>", "<|end_of_msg|>"),
    ("LFM2.5-8B-A1B", "lfm2", "think", "<|im_start|>assistant\n", "<|im_end|>"),
    ("MiMo-VL", "hermes", None, "<|im_start|>assistant\n", "<|im_end|>"),
    ("MiniMax-M2", "minimax_m2", "think", "]~b]ai\n", "[e~["),
    ("Mistral-Small-3.2-24B-Instruct-2506", "mistral", None, "[/INST]", "</s>"),
    ("NVIDIA-Nemotron-Nano-v2", "nemotron", "think", "<SPECIAL_11>Assistant\n", "\n<SPECIAL_12>"),
    ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", None, "<|im_start|>assistant\n", "<|im_end|>"),
    ("Qwen-Qwen2.5-7B-Instruct", "hermes", None, "<|im_start|>assistant\n", "<|im_end|>"),
    ("Qwen3-Coder", "qwen3_coder", None, "<|im_start|>assistant\n", "<|im_end|>"),
    ("Reka-Edge", "hermes", "think", "assistant: ", "\n\n<sep>"),
    ("StepFun3.5-Flash", "qwen3_coder", "think", "<|im_start|>assistant\n", "<|im_end|>"),
    ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek_v3", "think", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    ("deepseek-ai-DeepSeek-V3.2", "dsml", "think", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    ("deepseek-ai-DeepSeek-V4", "dsml", "think", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    ("google-gemma-4-31B-it", "gemma4", "gemma4", "<|turn>model\n", "<|tool_response>"),
    ("ibm-granite-granite-4.0", "hermes", None, "<|start_of_role|>assistant<|end_of_role|>", "<|end_of_text|>"),
    ("inclusionai-ling-3.0-flash", "glm45", "think", "<role>ASSISTANT</role>\n", "<|role_end|>"),
    ("meta-llama-Llama-3.2-3B-Instruct", "llama3_json", None, "<|start_header_id|>assistant<|end_header_id|>\n\n",
     "<|eot_id|>"),
    ("mistralai-Mistral-Nemo-Instruct-2407", "mistral", None, "[/INST]", "</s>"),
    ("muse-glimmer", "muse", "muse", "<|start|>assistant", "<|eot|><|start|>tool"),
    ("openbmb-MiniCPM5-1B", "minicpm5", "think", "<|im_start|>assistant\n", "<|im_end|>"),
    ("poolside-Laguna-XS-2.1", "glm45", "think", "<assistant>\n", "</assistant>"),
    ("tencent-Hy3", "hy3", "hy3", "<｜hy_Assistant:opensource｜>", "<｜hy_eos:opensource｜>"),
    ("unsloth-mistral-Devstral-Small-2507", "mistral", None, "[/INST]", "</s>"),
]


def main():
    source, target = map(Path, sys.argv[1:])
    golden = json.loads((source / "golden.json").read_text())
    out = []
    for template, family, reasoning, begin, end in TURNS:
        found = 0
        for case in golden:
            if case["template"] != template + ".jinja" or "output" not in case:
                continue
            calls = [m["tool_calls"] for m in case["input"]["messages"] if m.get("tool_calls")]
            if not calls:
                continue
            at = case["output"].rindex("Weather")
            at = case["output"].index(begin, at) + len(begin)
            text = case["output"][at:case["output"].index(end, at)]
            expected = [{"name": c["function"]["name"], "arguments": c["function"]["arguments"]} for c in calls[0]]
            if family == "gigachat":  # its template renders the first call alone
                expected = expected[:1]
            # an absent content is rendered as a word by some templates
            content = "None" if re.match(r"(</think>)?None", text) else ""
            out.append({"template": template, "case": case["case"], "family": family, "reasoning": reasoning,
                        "is_open": text.startswith("</think>"), "text": text, "content": content, "thought": "",
                        "calls": expected})
            found += 1
        if found == 0:
            print(f"{template}: no case", file=sys.stderr)
    target.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(len(out), "texts")


main()
