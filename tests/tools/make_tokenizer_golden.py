"""Makes tests/data/tokenizer_json: small tokenizers of every kind, trained here on the text below with
the tokenizers package, each a folder with tokenizer.json and the ids that the package gives.

Usage: make_tokenizer_golden.py OUT"""
import json
import pathlib
import random
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

WORDS = ("the quick brown fox jumps over lazy dogs while twelve wizards brew 1234 potions of naïve café déjà vu in Zürich "
         "straße Ünïcode 東京 日本語 Привет мир tokens normalise pre tokenise merges bytes letters numbers 42 7 2024 and so on "
         "don't won't it's we're I'll you've he'd UPPER Lower MiXeD").split()
r = random.Random(11)
CORPUS = [" ".join(r.choice(WORDS) for _ in range(12)) + r.choice(".!?") for _ in range(400)]
CASES = ["", " ", "hello world", "The quick  brown   fox.", "  leading and trailing  ", "tabs\tand\nnew\r\nlines", "naïve café déjà vu",
         "e\u0301a\u0300", "ＦＵＬＬ ｗｉｄｔｈ", "日本語 東京", "Привет, мир!", "1234567 7 42", "don't we're I'LL", "a_b-c+d=e", "😀👩‍👩‍👧 x", "ﬁ ½ ²",
         "İstanbul ẞ", "x\u00a0y\u2003z", "x <s> text </s>", "before <mask> behind", "a<sep>  b", "...!!!???", "\u200bzero", "UPPER Lower",
         "▁ marks ▁▁ x", "ab\u0000cd", "क्षि", "ไทย", "한국어"] + CORPUS[:20]
SPECIAL = ["<unk>", "<s>", "</s>", AddedToken("<mask>", lstrip=True, special=True), AddedToken("<sep>", rstrip=True, special=True)]


def bpe(**options):
    return Tokenizer(models.BPE(**options))


def train(tokenizer, trainer):
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def bpe_trainer(**options):
    return trainers.BpeTrainer(vocab_size=600, special_tokens=SPECIAL, show_progress=False, **options)


def ends(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tokenizer.token_to_id("<s>")), ("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def byte_level():
    t = bpe()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    return train(t, bpe_trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def roberta():
    t = bpe()
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    t = train(t, bpe_trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    t.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    return t


def qwen():
    t = bpe(ignore_merges=True)
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"),
                             "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return train(t, bpe_trainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def llama2():
    t = bpe(byte_fallback=True, fuse_unk=True, unk_token="<unk>")
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=SPECIAL + [f"<0x{i:02X}>" for i in range(256)], show_progress=False)
    return ends(train(t, trainer))


def gemma():
    t = bpe(byte_fallback=False, fuse_unk=True, unk_token="<unk>")
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return ends(train(t, bpe_trainer()))


def digits():
    t = bpe(unk_token="<unk>")
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents(), normalizers.Strip()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.Punctuation("contiguous")])
    return train(t, bpe_trainer())


def unigram(byte_fallback=False):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return ends(train(t, trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)))


def unigram_first():
    t = Tokenizer(models.Unigram())
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return train(t, trainers.UnigramTrainer(vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False))


def wordpiece(**options):
    t = Tokenizer(models.WordPiece(unk_token="<unk>"))
    t.normalizer = normalizers.BertNormalizer(**options)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t = train(t, trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False))
    t.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
    return t


KINDS = {"byte_level": byte_level, "roberta": roberta, "qwen": qwen, "llama2": llama2, "gemma": gemma, "digits": digits,
         "unigram": unigram, "unigram_first": unigram_first, "wordpiece": wordpiece,
         "wordpiece_cased": lambda: wordpiece(lowercase=False, handle_chinese_chars=False, clean_text=False)}

for name, make in KINDS.items():
    folder = pathlib.Path(sys.argv[1], name)
    folder.mkdir(parents=True, exist_ok=True)
    t = make()
    t.save(str(folder / "tokenizer.json"), pretty=False)
    cases = [{"text": text, "ids": t.encode(text).ids} for text in CASES]
    # special tokens inside pairs are text to the server
    plain = [text for text in CASES if text and "<" not in text]
    pairs = []
    for first, second in zip(plain[::2], plain[1::2]):
        pair = t.encode(first, second)
        pairs.append({"first": first, "second": second, "ids": pair.ids, "n_first": pair.type_ids.count(0)})
    decoded = [{"ids": c["ids"], "text": t.decode(c["ids"])} for c in cases] if t.decoder else []
    (folder / "cases.json").write_text(json.dumps({"cases": cases, "pairs": pairs, "decoded": decoded}, ensure_ascii=False) + "\n")
