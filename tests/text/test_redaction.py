"""URLs without what gives access, keys by their form, names of secrets; each with what only looks like one."""

from __future__ import annotations

import pytest

from abstractvision_batch.text.redaction import (
    bare_url,
    find_key,
    gives_access,
    lasting_url,
    names_secret,
    redact,
    without_secrets,
)

#: Made up, in the form of real ones; in two pieces, so that no scanner takes them for keys.
KEYS = [
    "sk-" + "proj-abcdefgh1234",
    "sk-" + "abcdefghijklmnop",
    "sk-" + "ant-api03-abcdefgh",
    "hf_" + "abcdefghijABCDEFGHIJ",
    "AKIA" + "IOSFODNN7EXAMPLE",
    "ASIA" + "IOSFODNN7EXAMPLE",
    "AIza" + "SyA-1234567890abcdefghijklmnopqrst",
    "gh" + "p_abcdefghijklmnopqrst",
    "github" + "_pat_abcdefghijklmnopqrst",
    "gl" + "pat-abcdefghijklmnopqrst",
    "xo" + "xb-123456789-abcdef",
    "r8" + "_abcdefghijklmnopqrstuvwx",
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0",
    "-----BEGIN" + " RSA PRIVATE KEY-----\nabc",
    "-----BEGIN" + " OPENSSH PRIVATE KEY-----",
    "sk_" + "live_abcdefghij",
    "12345678-1234-1234-1234-123456789abc:" + "0123456789abcdef0123456789abcdef",
    "DefaultEndpointsProtocol=https;AccountKey=" + "abcdefghijklmnopqrstuvwxyz==",
]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("text", ["{}", "Bearer {}", "--token={}", "a photo of {} on a wall", "https://h/x?k={}"])
def test_what_looks_like_a_key_is_found_and_masked_anywhere(key: str, text: str) -> None:
    assert find_key(text.format(key)) is not None
    assert key[-10:] not in redact(text.format(key))


@pytest.mark.parametrize(
    "text",
    [
        "a photo of a fox, sk-style, 8k",
        "a basic composition, the bearer carries documents",
        "task-oriented-and-rather-long-name",
        "risk-abcdefghijklmnopqrstuvwxyz",
        "the letters eyJ on a sign",
        "AKIAFOX",
        "TAKIAIOSFODNN7EXAMPLES",
        "hf_internal_testing",
        "hf-internal-testing/tiny-stable-diffusion-pipe",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "12345678-1234-1234-1234-123456789abc",
        "gpt-image-1",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
        "xoxo, with love",
        "ghp_ is a prefix",
        "s3://bucket/sk-1/a.png",
    ],
)
def test_what_only_begins_like_a_key_is_left_alone(text: str) -> None:
    assert find_key(text) is None
    assert redact(text) == text


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://user:PASS@host/p.jsonl?sig=SIG", "https://host/p.jsonl"),
        ("https://TOKEN@host/x", "https://host/x"),
        ("git+https://TOKEN@host/x.git@main", "git+https://host/x.git@main"),
        ("https://user:PA/SS@host/x", "https://host/x"),
        ("https://user:P%40SS@host:8443/x", "https://host:8443/x"),
        ("https://user:P@SS@host/x", "https://host/x"),
        ("https://h/x?X-Amz-Signature=SIG&X-Amz-Credential=C&versionId=3", "https://h/x?versionId=3"),
        ("https://h/x?sv=2024&sp=r&se=2026&sig=SIG", "https://h/x"),
        ("https://h/x?Expires=1&Signature=SIG&Key-Pair-Id=K", "https://h/x"),
        ("https://h/x?access_token=SIG", "https://h/x"),
        ("https://h/x?key=SIG&w=512", "https://h/x?w=512"),
        ("https://h/x#access_token=SIG", "https://h/x"),
        ("https://h/x?t=c2VjcmV0IHNlY3JldCA123", "https://h/x"),
        ("abfs://box@account.dfs.core.windows.net/x?sv=1&sig=SIG", "abfs://box@account.dfs.core.windows.net/x"),
        ("zip://a.png::https://u:PASS@h/x.zip?sig=SIG", "zip://a.png::https://h/x.zip"),
        ("ftp://u:PASS@h/x", "ftp://h/x"),
        ("s3://KEY:SECRET@bucket/x", "s3://bucket/x"),
    ],
)
def test_a_bare_url_has_no_password_and_no_signature(url: str, bare: str) -> None:
    assert bare_url(url) == bare
    assert gives_access(url)
    assert redact(f"GET {url}, said the server") == f"GET {bare}, said the server"


@pytest.mark.parametrize(
    "url",
    [
        "https://h/a.csv?download=true",
        "https://h/search?q=fox&page=2",
        "https://h/x#part-2",
        "s3://bucket/part-?.jsonl",
        "s3://bucket/a@b/c.png?versionId=abc",
        "abfs://box@account.dfs.core.windows.net/x",
        "ssh://git@host/x",
        "hf://datasets/a/b@main/x.parquet",
        "http://[::1]:80/x@y",
        "http://h:80/x@y",
        "memory://x",
        "a/b/c.png",
    ],
)
def test_a_url_that_gives_no_access_is_left_alone(url: str) -> None:
    assert bare_url(url) == url
    assert not gives_access(url)
    assert lasting_url(url) == url


def test_a_parameter_that_says_nothing_stays_where_a_record_is_kept() -> None:
    assert lasting_url("https://h/photo?number=12") == "https://h/photo?number=12"


def test_two_signed_files_that_differ_in_an_unknown_parameter_have_two_names() -> None:
    one, two = "https://h/get?photo=1&sig=AAA", "https://h/get?photo=2&sig=BBB"

    assert lasting_url(one) != lasting_url(two)
    assert lasting_url(one) == lasting_url(one.replace("AAA", "CCC"))
    assert "AAA" not in lasting_url(one)


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "api-key", "apiKey", "X-Auth", "Ocp-Apim-Subscription-Key", "access_key", "aws_access_key_id"),
        *("passwd", "PASSWORD", "auth", "private_key", "conn_str", "connection_string", "token", "hf_token"),
        *("AWS_SECRET_ACCESS_KEY", "xAuthToken", "client_secret", "Proxy-Authorization", "Cookie", "credentials"),
    ],
)
def test_names_of_secrets_are_known_in_every_spelling(name: str) -> None:
    assert names_secret(name)
    assert without_secrets({"a": [{name: "open sesame"}]}) == {"a": [{name: "<secret>"}]}


@pytest.mark.parametrize(
    "name", ["max_tokens", "placeholder_token", "tokenizer", "author", "key", "X-Author", "seed", "passed", "tokens"]
)
def test_names_that_only_hold_such_a_word_are_no_secrets(name: str) -> None:
    assert not names_secret(name)


def test_a_named_secret_and_what_is_no_text_stay() -> None:
    value = {"api_key": {"env": "NAME"}, "auth": True, "token": None}

    assert without_secrets(value) == value
